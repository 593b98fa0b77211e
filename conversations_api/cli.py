"""The command `conversations-api`: reads arguments and settings, calls what does the work, says in one line why not.

Each command imports its own modules when it runs: `migrate` needs no web server, and `serve` no embedded PostgreSQL.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from uuid import UUID

from conversations_api import core_dumps, settings
from conversations_api.settings import SettingsError

_WRONG_USE = 2
_CANNOT_RUN = 1

_DESCRIPTION = "One inbox API for the WhatsApp and SMS conversations of many agencies."
_EPILOG = """\
serve, worker, migrate and redact are configured by environment variables alone; each names what is missing or wrong and
exits with status 2. docs/operations.md describes every variable."""

_SERVE = """\
Serve the API over HTTP until SIGTERM or SIGINT, and then finish what is under way within 15 seconds.

needs      DATABASE_URL (the application's role), JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL or JWT_PUBLIC_KEY,
           PUBLIC_BASE_URL, SECRETS_KEY
may have   HOST, PORT (8080), WEB_CONCURRENCY (processes, 2), HANDLER_THREADS, SERVE_DOCS, CORS_ALLOWED_ORIGINS,
           JWT_AUTHORIZED_PARTIES,
           TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (one account for the agencies that have none of their own),
           TWILIO_PREVIOUS_AUTH_TOKEN, TWILIO_BASE_URL,
           RATE_LIMIT_REQUESTS_PER_MINUTE, RATE_LIMIT_SENDS_PER_MINUTE, RATE_LIMIT_STORAGE_URL (Redis),
           LOG_LEVEL, METRICS_HOST, METRICS_PORT, OTEL_EXPORTER_OTLP_ENDPOINT

It does not start on a database whose role could see past row-level security, or whose schema is not this release's."""
_WORKER = """\
Send what is queued and find out what became of it, until SIGTERM or SIGINT. Any number of workers may run.

needs      WORKER_DATABASE_URL (the worker's role, not through a transaction pooler), PUBLIC_BASE_URL, SECRETS_KEY
may have   TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, TWILIO_BASE_URL, TWILIO_VALIDITY_SECONDS,
           SEND_CONCURRENCY, SEND_CONNECT_TIMEOUT_SECONDS, SEND_DEADLINE_SECONDS,
           RECONCILE_GRACE_SECONDS, RECONCILE_HOLD_SECONDS, RECONCILE_INTERVAL_SECONDS,
           STATUS_POLL_SECONDS, INBOUND_CHECK_SECONDS,
           LOG_LEVEL, METRICS_HOST, METRICS_PORT, OTEL_EXPORTER_OTLP_ENDPOINT

Asked to stop, it takes no more work and ends its calls; what takes longer than 15 seconds is left to the other
workers, or to its next start, to find out."""
_MIGRATE = """\
Bring the database to the schema of this release, as its owner. It may run while the previous release serves, and may be
run again: a lock that it does not get within a second ends it with nothing changed.

needs      MIGRATION_DATABASE_URL (the owner's role)
may have   LOG_LEVEL"""
_REDACT = """\
Delete what one person wrote and was written to, because they asked for it: text, media, templates and transcripts, here
and at Twilio, and the person's name. Ids, statuses, times and the phone number stay. What is not sent yet is left as it
is. It may be run again, and goes on where it stopped; it ends with status 1 as long as something is left.

needs      MIGRATION_DATABASE_URL (the owner's role), SECRETS_KEY
may have   TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, TWILIO_BASE_URL, SEND_CONNECT_TIMEOUT_SECONDS,
           SEND_DEADLINE_SECONDS, LOG_LEVEL"""
_DEMO = """\
Serve the API with live data on this machine: a PostgreSQL of its own, the API, a worker and a simulated Twilio whose
contacts answer. Prints where Swagger UI is, tokens, and requests to paste. Ctrl-C stops everything; the data stays in
the data folder for the next time.

The environment variable PORT moves the API (8080), HOST its address (127.0.0.1). A DATABASE_URL, given together with
WORKER_DATABASE_URL and MIGRATION_DATABASE_URL, replaces the embedded PostgreSQL: a database of the demo's own."""
_ABOUT_TOKENS = """\
Print a bearer token, signed with the key of the demo. FOR THE DEMO ONLY: no other installation trusts that key, unless
its JWT_PUBLIC_KEY is set to it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Leaves by SystemExit when something is wrong."""
    core_dumps.forbid()
    options = _parser().parse_args(arguments)
    options.run(options)


def _serve(_: argparse.Namespace) -> None:
    configuration = _settings("serve")
    if configuration.metrics_port is None:
        return _serve_with(configuration)
    from conversations_api import metrics_folder

    with metrics_folder.shared():
        return _serve_with(configuration)


def _serve_with(configuration: settings.Settings) -> None:
    from conversations_api import addresses, serving, tracing, wiring
    from tenancy.transaction import DatabaseUnavailable

    try:
        serving.serve(configuration)
    except wiring.UnsafeDatabase as error:
        _refuse("serve", f"DATABASE_URL: {error}")
    except DatabaseUnavailable:
        _refuse("serve", "DATABASE_URL: the database does not answer, or refuses the login")
    except (addresses.AddressInUse, tracing.TracingNotInstalled) as error:
        _refuse("serve", str(error))


def _worker(_: argparse.Namespace) -> None:
    configuration = _settings("worker")
    from conversations_api import addresses, tracing, wiring, working
    from tenancy.transaction import DatabaseUnavailable

    try:
        working.work(configuration)
    except wiring.UnsafeDatabase as error:
        _refuse("worker", f"WORKER_DATABASE_URL: {error}")
    except DatabaseUnavailable:
        _refuse("worker", "WORKER_DATABASE_URL: the database does not answer, or refuses the login")
    except (addresses.AddressInUse, tracing.TracingNotInstalled) as error:
        _refuse("worker", str(error))


def _migrate(options: argparse.Namespace) -> None:
    configuration = _settings("migrate")
    import alembic.util
    import psycopg2
    import sqlalchemy.exc

    from conversations_api import logging, migrating
    from persistence.citus import CitusMissing
    from tenancy.transaction import DatabaseUnavailable

    logging.configure(configuration.log_level)
    try:
        migrating.migrate(configuration.migration_database_url, options.revision)
        if options.distributed:
            migrating.distribute(configuration.migration_database_url)
    except DatabaseUnavailable:
        _refuse("migrate", "MIGRATION_DATABASE_URL: the database does not answer, or refuses the login")
    except (alembic.util.CommandError, CitusMissing) as error:
        _refuse("migrate", str(error))
    except (sqlalchemy.exc.DBAPIError, psycopg2.Error) as error:
        # A migration holds no customer's words: what the server says may be shown.
        said = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        _refuse("migrate", f"the revision that was under way was not applied: {said}")


def _redact(options: argparse.Namespace) -> None:
    configuration = _settings("redact")
    from conversations_api import redacting, wiring
    from delivery.redaction import UnknownContact
    from tenancy.transaction import DatabaseUnavailable, OutcomeUnknown

    try:
        redacting.redact(configuration, options.agency, options.phone, say=lambda words: print(words, flush=True))
    except wiring.UnsafeDatabase as error:
        _refuse("redact", f"MIGRATION_DATABASE_URL: {error}")
    except (DatabaseUnavailable, OutcomeUnknown):
        _refuse("redact", "MIGRATION_DATABASE_URL: the database does not answer, or refuses the login; run it again")
    except UnknownContact:
        _refuse("redact", "the agency has no contact with this phone number")
    except redacting.NotAllRedacted as error:
        _refuse("redact", str(error))


def _demo(options: argparse.Namespace) -> None:
    try:
        from conversations_api.demo import command
    except ModuleNotFoundError as error:
        _refuse("demo", f"there is no {error.name}: pip install 'faro-conversations[demo]'")
    try:
        command.run(options.data_folder)
    except (command.DemoError, SettingsError) as error:
        _refuse("demo", str(error))


def _token(options: argparse.Namespace) -> None:
    from conversations_api.demo import memory

    try:
        print(
            memory.DemoFolder(options.data_folder).sign_token(
                agency=options.agency, role=options.role, user_id=options.user, hours=options.hours
            )
        )
    except memory.DemoError as error:
        _refuse("token", str(error))


def _settings(command: str) -> settings.Settings:
    try:
        return settings.read(command)
    except SettingsError as error:
        _refuse(command, str(error), status=_WRONG_USE)


def _refuse(command: str, reason: str, *, status: int = _CANNOT_RUN) -> NoReturn:
    print(f"conversations-api {command}: {reason}", file=sys.stderr)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conversations-api",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: object, summary: str, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=run)
        return command

    add("serve", _serve, "serve the API over HTTP", _SERVE)
    add("worker", _worker, "send what is queued", _WORKER)
    migrate = add("migrate", _migrate, "bring the database to the schema of this release", _MIGRATE)
    migrate.add_argument("--revision", default="head", help="stop at this revision (default: the newest)")
    migrate.add_argument(
        "--distributed",
        action="store_true",
        help="then spread the agencies over the machines of a Citus cluster; what is spread already stays where it is",
    )
    redact = add("redact", _redact, "delete what one person wrote and was written to", _REDACT)
    redact.add_argument("--agency", required=True, type=UUID, help="the agency's id")
    redact.add_argument("--phone", required=True, type=_phone, help="the person's phone number, as +12025550123")
    demo = add("demo", _demo, "serve the API with live data on this machine", _DEMO)
    _add_data_folder(demo)
    token = add("token", _token, "print a bearer token for the demo", _ABOUT_TOKENS)
    token.add_argument("--agency", required=True, help="the agency's name, the beginning of it, or any agency's id")
    token.add_argument(
        "--role", default="staff", help="owner, admin, manager, staff (default), viewer or client_viewer"
    )
    token.add_argument("--user", default="demo-user", help="the user's id, which appears as sent_by")
    token.add_argument("--hours", type=float, default=12.0, help="how long it is valid (default 12)")
    _add_data_folder(token)
    return parser


def _phone(given: str) -> str:
    if not re.fullmatch(r"\+[1-9]\d{6,14}", given, re.ASCII):
        raise argparse.ArgumentTypeError("must be + and 7 to 15 digits")
    return given


def _add_data_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-folder",
        type=Path,
        default=Path(".data"),
        metavar="FOLDER",
        help="where the demo keeps its data and keys (default .data)",
    )
