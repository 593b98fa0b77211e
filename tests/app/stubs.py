"""Handlers for tests/app/contract.yaml: each does one thing that a handler may do, right or wrong."""

import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy.exc
from starlette.exceptions import HTTPException

from handlers import problems, responses
from handlers.requests import Request
from handlers.responses import Response
from persistence import errors as inbox
from tenancy import errors as access
from tenancy import transaction
from tenancy.authentication import Claims
from tenancy.rate_limits import RateLimits

SERVICES = SimpleNamespace(rate_limits=RateLimits(requests_per_minute=0, sends_per_minute=0))
AGENCY = uuid.UUID(int=7)
GOOD_TOKEN = "good"
SECRET = "canary-+12025550143"  # must not come out of anything
HANGING_HOOK = 999  # this webhook waits as `wait` does

calls: list[str] = []  # the operations that a handler was reached for
running = threading.Semaphore(0)  # released by each `wait` that has begun
proceed = threading.Event()  # what each `wait` waits for


async def bearer_claims(token: str, services: Any) -> Claims:
    if token == "keys":
        raise access.KeysUnavailable
    if token != GOOD_TOKEN or services is not SERVICES:
        raise access.InvalidToken
    return Claims("user_someone", AGENCY, "staff")


def list_things(
    request: Request,
    limit: int,
    offset: int,
    ratio: float | None = None,
    loud: bool | None = None,
    status: str | None = None,
    location_id: str | None = None,
) -> Response:
    calls.append("list_things")
    request.state["agency_id"] = AGENCY
    given = {"ratio": ratio, "loud": loud, "status": status, "location_id": location_id}
    arguments = {name: value for name, value in given.items() if value is not None}
    return responses.ok({"limit": limit, "offset": offset, **arguments})


def make_thing(_request: Request, body: dict[str, Any]) -> Response:
    calls.append("make_thing")
    return responses.created(responses.dumps(body), location="/api/v1/things/1", replayed=False)


def get_thing(_request: Request, thing_id: str) -> Response:
    calls.append("get_thing")
    return responses.ok({"id": thing_id, "note": None, "place": None, "made_at": datetime.now(UTC)})


def drop_thing(_request: Request, thing_id: str) -> Response:
    calls.append(f"drop_thing {thing_id}")
    return Response(204, [], b"")


def take_hook(request: Request, number: int) -> Response:
    if number == HANGING_HOOK:
        _wait()
    # Text, not bytes: given bytes, parse_qsl answers with bytes and fails on whatever is not ASCII.
    pairs = parse_qsl(request.body.decode("utf-8", errors="replace"), keep_blank_values=True)
    return responses.xml(f"<r>{number} {pairs}</r>")


def get_health(_request: Request) -> Response:
    return responses.ok({"status": "ok"})


def behave(_request: Request, behaviour: str) -> Any:
    calls.append(behaviour)
    return _BEHAVIOURS[behaviour]()


def _wait() -> Response:
    running.release()
    proceed.wait(20)
    return responses.ok({})


def _slow() -> Response:
    time.sleep(0.3)
    return responses.ok({})


def _log() -> Response:
    logging.getLogger("persistence.anything").warning("from the thread of a handler")
    return responses.ok({})


def _raise(error: BaseException) -> Any:
    raise error


def _database_error(kind: type[sqlalchemy.exc.DBAPIError]) -> Any:
    raise kind(f"insert {SECRET}", {"content": SECRET}, Exception(SECRET))


_BEHAVIOURS = {
    "wait": _wait,
    "slow": _slow,
    "bare_value": dict,
    "leak": lambda: responses.ok({"leaked": SECRET}),
    "undocumented_status": lambda: Response(202, [(b"content-type", b"application/json")], b"{}"),
    "undocumented_type": lambda: Response(200, [(b"content-type", b"text/plain")], SECRET.encode()),
    "not_json": lambda: responses.ok(SECRET.encode()),
    "key_error": lambda: _raise(KeyError(SECRET)),
    "logs": _log,
    "problem": lambda: _raise(problems.Problem("rate_limited", headers={"Retry-After": "7"})),
    "fields": lambda: _raise(inbox.InvalidFields(("cursor", "is not one of ours"))),
    "not_found": lambda: _raise(inbox.ConversationNotFound()),
    "unavailable": lambda: _raise(transaction.DatabaseUnavailable(SECRET)),
    "outcome": lambda: _raise(transaction.OutcomeUnknown(SECRET)),
    "operational": lambda: _database_error(sqlalchemy.exc.OperationalError),
    "data_error": lambda: _database_error(sqlalchemy.exc.DataError),
    "pool_timeout": lambda: _raise(sqlalchemy.exc.TimeoutError(SECRET)),
    "http": lambda: _raise(HTTPException(418, SECRET)),
}
