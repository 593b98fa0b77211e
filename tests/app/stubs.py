"""Handlers for tests/app/contract.yaml: each does one thing that a handler may do, right or wrong."""

import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import connexion
import flask
import sqlalchemy.exc

from handlers import problems, responses
from persistence import errors as inbox
from tenancy import errors as access
from tenancy import transaction

GOOD_TOKEN = "good"
SECRET = "canary-+12025550143"  # must not come out of anything

calls: list[str] = []  # the operations that a handler was reached for
running = threading.Semaphore(0)  # released by each `wait` that has begun
proceed = threading.Event()  # what each `wait` waits for


def bearer_claims(token: str, request: Any) -> dict[str, str]:
    if token == "keys":
        raise access.KeysUnavailable
    if token != GOOD_TOKEN or request.state.services != "stub services":
        raise access.InvalidToken
    return {"sub": "someone"}


def list_things(**arguments: Any) -> flask.Response:
    calls.append("list_things")
    connexion.request.state.agency_id = uuid.UUID(int=7)
    return responses.ok({name: value for name, value in arguments.items() if name not in ("user", "token_info")})


def make_thing(body: dict[str, Any]) -> flask.Response:
    calls.append("make_thing")
    return responses.created(body, location="/api/v1/things/1")


def get_thing(thing_id: str) -> flask.Response:
    calls.append("get_thing")
    return responses.ok({"id": thing_id, "note": None, "place": None, "made_at": datetime.now(UTC)})


def drop_thing(thing_id: str) -> tuple[None, int]:
    calls.append(f"drop_thing {thing_id}")
    return None, 204


def take_hook(number: int) -> flask.Response:
    # Text, not bytes: given bytes, parse_qsl answers with bytes and fails on whatever is not ASCII.
    pairs = parse_qsl(flask.request.get_data().decode("utf-8", errors="replace"), keep_blank_values=True)
    return responses.xml(f"<r>{number} {pairs}</r>")


def get_health() -> flask.Response:
    return responses.ok({"status": "ok"})


def behave(behaviour: str) -> Any:
    calls.append(behaviour)
    return _BEHAVIOURS[behaviour]()


def _wait() -> flask.Response:
    running.release()
    proceed.wait(20)
    return responses.ok({})


def _slow() -> flask.Response:
    time.sleep(0.3)
    return responses.ok({})


def _log() -> flask.Response:
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
    "undocumented_status": lambda: flask.Response(b"{}", status=202, content_type="application/json"),
    "undocumented_type": lambda: flask.Response(SECRET, content_type="text/plain"),
    "not_json": lambda: flask.Response(SECRET, content_type="application/json"),
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
    "abort": lambda: flask.abort(418, SECRET),
}
