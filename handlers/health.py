"""Whether the process lives, and whether it can serve."""

from handlers import responses
from handlers.problems import Problem
from handlers.requests import Request
from handlers.responses import Response
from persistence import role_safety, schema, workers
from tenancy.transaction import DatabaseUnavailable, unbound_transaction


def get_health(_request: Request) -> Response:
    return responses.ok({"status": "ok"})


def get_readiness(request: Request) -> Response:
    try:
        with unbound_transaction(request.services.database, read_only=True) as connection:
            revision = schema.current(connection)
            failures = []
            if not schema.serves(revision):
                failures.append(("migrations", "the schema is not the one that this release needs"))
            else:
                age = workers.heartbeat_age_seconds(connection)
            if role_safety.violations(connection):
                failures.append(("role", "row-level security does not bind the database role"))
    except DatabaseUnavailable:
        failures = [("database", "the database does not answer")]
    if failures:
        raise Problem("not_ready", failures)
    checks = {"database": "ok", "migrations": "ok", "role": "ok", "worker_heartbeat_age_seconds": age}
    return responses.ok({"status": "ready", "checks": checks})
