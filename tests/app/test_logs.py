"""Logs: one event, one line of JSON, and nothing in it that a customer or a client wrote."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import ASGIApp

from conversations_api import logging as logs
from conversations_api.web.lanes import Limits
from tests.app import stubs
from tests.app.asking import AUTHORIZED, FORM, JSON, ask, ask_async, shapes_app


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the whole process logs while a test runs; the configuration of the run is put back."""
    names = ["", *logging.root.manager.loggerDict]
    before = {
        name: (logger.level, logger.propagate, logger.disabled, logger.handlers[:])
        for name in names
        for logger in [logging.getLogger(name)]
    }
    hook = threading.excepthook
    stream = io.StringIO()
    logs.configure("DEBUG", stream)
    yield stream
    threading.excepthook = hook
    logging.captureWarnings(False)
    for name, (level, propagate, disabled, handlers) in before.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate, logger.disabled, logger.handlers[:] = propagate, disabled, handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_one_line_with_what_is_known_of_it(app: ASGIApp, stream: io.StringIO) -> None:
    ask(app, "/api/v1/things?limit=7", headers=[*AUTHORIZED, ("X-Request-Id", "mine")])
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "info",
        "logger": "conversations_api.web.edge",
        "event": "request",
        "request_id": "mine",
        "operation": "listThings",
        "agency_id": "00000000-0000-0000-0000-000000000007",
        "method": "GET",
        "route": "/api/v1/things",
        "status": 200,
        "problem": None,
    }


def test_a_refusal_is_logged_by_its_code(app: ASGIApp, stream: io.StringIO) -> None:
    ask(app, "/api/v1/nowhere/+12025550143", method="STEAL\x1b[31m")
    (line,) = lines(stream)
    assert (line["status"], line["problem"], line["route"], line["method"]) == (404, "route_not_found", None, "other")


CANARY = stubs.SECRET
ESCAPED = CANARY.replace("+", "%2B")


def test_nothing_that_was_sent_or_stored_reaches_a_log(stream: io.StringIO) -> None:
    app = shapes_app(serve_docs=True)
    for target in (
        f"/api/v1/things?status={ESCAPED}",
        f"/api/v1/things?location_id={ESCAPED}&limit={ESCAPED}",
        f"/api/v1/things/{ESCAPED}",
        f"/api/v1/{ESCAPED}",
        f"/api/v1/ui/{ESCAPED}",
        f"/{ESCAPED}?{ESCAPED}",
    ):
        ask(app, target)
    for name in ("Authorization", "X-Tenant-ID", "Idempotency-Key", "X-Request-Id", "Content-Type", "Origin"):
        ask(app, headers=[*AUTHORIZED, (name, f"{CANARY} {CANARY}")])
    ask(app, headers=[("Authorization", f"Bearer {CANARY}")])
    for body in (CANARY, f'{{"content":"{CANARY}","note":"{CANARY}"}}', f'{{"content":["{CANARY}"]}}'):
        ask(app, method="POST", headers=JSON, body=body.encode())
    ask(app, "/api/v1/hook/1", method="POST", headers=FORM, body=f"MessageSid={ESCAPED}&Body={ESCAPED}".encode())
    for behaviour in stubs._BEHAVIOURS:
        if behaviour not in ("wait", "slow"):
            ask(app, f"/api/v1/calls/{behaviour}")
    logged = stream.getvalue()
    assert logged.count('"event":"request"') > 30
    assert "canary" not in logged
    assert "12025550143" not in logged


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "\x1b[31mred", '"},{"level":"error"', "\u2028", "\x7f\x9b", "\ud800"]
)
def test_a_control_character_cannot_leave_its_line(stream: io.StringIO, text: str) -> None:
    said = text.encode("utf-8", "ignore").decode()  # pytest repeats a message, and has no half of a surrogate pair
    logging.getLogger("handlers.anything").warning("said %s", said, extra={"value": text})
    (written,) = stream.getvalue().splitlines()
    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written)["value"] == text


@pytest.mark.parametrize(
    "name", ["connexion.validators.json", "twilio.http_client", "urllib3.connectionpool", "sqlalchemy.engine"]
)
def test_the_words_of_a_library_are_withheld(stream: io.StringIO, name: str) -> None:
    logging.getLogger(name).error(f"value {CANARY}", extra={"body": CANARY})
    logging.getLogger(name).warning("query %s", CANARY)
    assert [line["event"] for line in lines(stream)] == ["library message withheld"] * 2
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize("name", ["twilio.http_client", "urllib3.connectionpool", "connexion", "uvicorn.access"])
def test_the_chatter_of_a_library_is_not_written(stream: io.StringIO, name: str) -> None:
    logging.getLogger(name).info("POST /2010-04-01/Accounts/%s", CANARY)
    assert stream.getvalue() == ""


def test_the_server_may_speak_of_itself(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    assert lines(stream)[0]["event"] == "Started server process [7]"


def test_an_exception_is_its_classes_and_places_and_never_its_text(stream: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise ValueError(CANARY) from error

    try:
        fail()
    except ValueError:
        logging.getLogger("delivery.worker").exception("failed")
    (line,) = lines(stream)
    assert [each["class"] for each in line["exception"]] == ["ValueError", "KeyError"]
    assert any(place.endswith(" fail") for place in line["exception"][0]["at"])
    assert "canary" not in stream.getvalue()


def test_a_thread_that_ends_by_an_error_is_logged_without_its_text(stream: io.StringIO) -> None:
    def fail() -> None:
        raise RuntimeError(CANARY)

    # The hook is called directly: pytest puts its own in place around each test.
    try:
        fail()
    except RuntimeError as error:
        logs._log_thread_end(threading.ExceptHookArgs((RuntimeError, error, error.__traceback__, None)))
    assert [line["exception"][0]["class"] for line in lines(stream)] == ["RuntimeError"]
    assert "canary" not in stream.getvalue()


def test_a_message_that_cannot_be_formatted_costs_only_its_words() -> None:
    record = logging.makeLogRecord({"name": "handlers.anything", "msg": "%d", "args": (CANARY,)})
    assert json.loads(logs.JsonFormatter().format(record))["event"] == "unreadable message"


def test_a_flood_of_lines_is_cut_and_counted() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    handler.addFilter(logs.LineCap(5))
    for second, count in ((100.0, 12), (101.2, 1), (102.0, 1)):
        for _ in range(count):
            record = logging.makeLogRecord({"name": "handlers.x", "msg": "m", "created": second, "msecs": 0.0})
            handler.handle(record)
    written = lines(stream)
    assert len(written) == 5 + 1 + 1
    assert [line.get("log_lines_dropped") for line in written[5:]] == [7, None]


@pytest.mark.parametrize(
    ("behaviour", "event"), [("key_error", "request failed"), ("logs", "from the thread of a handler")]
)
def test_requests_at_the_same_time_do_not_mix_in_the_log(stream: io.StringIO, behaviour: str, event: str) -> None:
    names = sorted(f"r{number}" for number in range(20))
    app = shapes_app(limits=Limits(queue_seconds=60))  # none is shed, however slow the machine is

    async def scenario() -> None:
        target = f"/api/v1/calls/{behaviour}"
        await asyncio.gather(*(ask_async(app, target, headers=[("X-Request-Id", name)]) for name in names))

    asyncio.run(scenario())
    written = [line for line in lines(stream) if line["event"] == event]
    assert sorted(line["request_id"] for line in written) == names
    assert {line["operation"] for line in written} == {"behave"}
