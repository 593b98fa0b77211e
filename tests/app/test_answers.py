"""What leaves the service: only what the contract documents, and of an error only our own words."""

import logging

import pytest
from starlette.types import ASGIApp

from handlers import problems
from tests.app import stubs
from tests.app.asking import AUTHORIZED, Reply, ask

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


def assert_problem(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.json["status"], reply.json["code"]) == (status, status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert set(reply.json) == MEMBERS
    assert reply.json["type"] == f"urn:faro:problem:{code}"
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert len(reply.body) <= 1024
    for part in (b"canary", b"12025550143", b"Traceback", b"Error(", b"schema"):
        assert part not in reply.body


@pytest.mark.parametrize("behaviour", ["leak", "undocumented_status", "undocumented_type", "not_json", "bare_value"])
def test_an_answer_that_the_contract_does_not_document_does_not_leave(
    app: ASGIApp, behaviour: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_problem(ask(app, f"/api/v1/calls/{behaviour}"), 500, "internal_error")
    assert stubs.calls == [behaviour]


def test_where_an_answer_breaks_the_contract_is_logged_and_not_the_value(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    ask(app, "/api/v1/calls/leak")
    (record,) = [record for record in caplog.records if record.message == "answer breaks the contract"]
    assert (record.rule, record.answer_status) == ("falseSchema", 200)  # type: ignore[attr-defined]
    assert "canary" not in str(vars(record))


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("key_error", 500, "internal_error"),
        ("data_error", 500, "internal_error"),
        ("http", 500, "internal_error"),
        ("not_found", 404, "conversation_not_found"),
        ("fields", 400, "invalid_request"),
        ("problem", 429, "rate_limited"),
        ("unavailable", 503, "database_unavailable"),
        ("operational", 503, "database_unavailable"),
        ("pool_timeout", 503, "database_unavailable"),
        ("outcome", 503, "outcome_unknown"),
    ],
)
def test_an_exception_becomes_its_problem_and_nothing_of_its_text(
    app: ASGIApp, behaviour: str, status: int, code: str
) -> None:
    reply = ask(app, f"/api/v1/calls/{behaviour}", headers=())
    assert_problem(reply, status, code)
    assert ("retry-after" in reply.headers) == (status in (429, 503))


def test_an_exception_is_logged_once_by_class_and_place(app: ASGIApp, caplog: pytest.LogCaptureFixture) -> None:
    ask(app, "/api/v1/calls/key_error")
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(record.name, record.message) for record in failures] == [("handlers.problems", "request failed")]


def test_the_errors_fields_of_an_exception_are_told(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/calls/fields").errors == {"cursor": ["is not one of ours"]}


def test_an_error_may_name_its_own_retry_after(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/calls/problem").headers["retry-after"] == "7"


CREDENTIALS = {
    "": "Bearer",
    "Basic Z29vZDpnb29k": "Bearer",
    "Bearer": "Bearer",
    "Bearer ": "Bearer",
    "Token good": "Bearer",
    "Bearer bad": 'Bearer error="invalid_token"',
    "bearer bad": 'Bearer error="invalid_token"',
    "Bearer good extra": 'Bearer error="invalid_token"',
    "Bearer g\xf6\xf6d": 'Bearer error="invalid_token"',
    "Bearer good\xa0": 'Bearer error="invalid_token"',
    "Bearer \x85good": 'Bearer error="invalid_token"',
}


@pytest.mark.parametrize("value", CREDENTIALS)
def test_whatever_is_wrong_with_a_credential_the_answer_is_one(app: ASGIApp, value: str) -> None:
    same = ("X-Request-Id", "same")
    reply = ask(app, headers=[("Authorization", value), same])
    assert_problem(reply, 401, "unauthenticated")
    assert reply.body == ask(app, headers=[same]).body
    assert reply.headers["www-authenticate"] == CREDENTIALS[value]
    assert stubs.calls == []


def test_without_a_credential_the_challenge_names_no_error(app: ASGIApp) -> None:
    assert ask(app, headers=()).headers["www-authenticate"] == "Bearer"


def test_keys_that_cannot_be_had_are_no_fault_of_the_token(app: ASGIApp) -> None:
    assert_problem(ask(app, headers=[("Authorization", "Bearer keys")]), 503, "keys_unavailable")


def test_a_problem_names_the_path_unless_somebody_typed_it(app: ASGIApp) -> None:
    thing = "/api/v1/things/01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90"
    assert ask(app, thing, method="BREW").json["instance"] == thing
    assert ask(app, "/api/v1/calls//things/7").json["instance"] == "/api/v1/calls//things/7"
    for path in ("nowhere", "12025550143", "things/%2B12025550143/calls", "n" * 300, "calls/" * 300):
        assert ask(app, f"/api/v1/{path}").json["instance"] == "/"
    for typed in ("%2B12025550143", "12025550143", "not_found"):
        assert ask(app, f"/api/v1/calls/{typed}", method="BREW").json["instance"] == "/api/v1/calls/{behaviour}"


def test_times_leave_in_utc_with_a_z(app: ASGIApp) -> None:
    reply = ask(app, "/api/v1/things/00000000-0000-4000-8000-000000000001", headers=AUTHORIZED)
    assert reply.json["made_at"].endswith("Z")


def test_the_body_of_a_problem_is_one_kilobyte_whatever_it_holds() -> None:
    problem = problems.Problem("invalid_request", [("f" * 64, "m" * 160)] * 100)
    assert len(problems.body(problem, "/" + "p" * 199, "r" * 64)) <= 1024
