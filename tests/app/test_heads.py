"""The head of a request: headers given twice or in disguise, too many or too large, and the names of requests."""

import re
import uuid

import pytest
from starlette.types import ASGIApp

from tests.app import stubs
from tests.app.asking import AUTHORIZED, FORM, JSON, ask

ID = str(uuid.UUID(int=1))


def test_two_credentials_are_none(app: ASGIApp) -> None:
    reply = ask(app, headers=[*AUTHORIZED, *AUTHORIZED])
    assert (reply.status, reply.json["code"]) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert stubs.calls == []


def test_two_credentials_are_malformed_where_none_is_asked_for(app: ASGIApp) -> None:
    reply = ask(app, "/api/v1/healthz", headers=[*AUTHORIZED, *AUTHORIZED])
    assert (reply.status, list(reply.errors)) == (400, ["Authorization"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Tenant-ID", ID),
        ("Idempotency-Key", "k"),
        ("Content-Type", "application/json"),
        ("Content-Length", "0"),
        ("Content-Encoding", "identity"),
        ("Transfer-Encoding", "chunked"),
        ("Host", "a"),
        ("Origin", "https://a"),
    ],
)
def test_a_header_that_decides_something_must_be_given_once(app: ASGIApp, name: str, value: str) -> None:
    reply = ask(app, headers=[*AUTHORIZED, (name, value), (name.upper(), value)])
    assert (reply.status, list(reply.errors)) == (400, [name])
    assert stubs.calls == []


def test_two_signatures_are_none(app: ASGIApp) -> None:
    headers = [*FORM, ("X-Twilio-Signature", "a"), ("X-Twilio-Signature", "b")]
    reply = ask(app, "/api/v1/hook/1", method="POST", headers=headers, body=b"Body=x")
    assert (reply.status, reply.json["code"]) == (403, "invalid_signature")


@pytest.mark.parametrize("name", ["X_Tenant_ID", "X-Tenant_ID", "x_tenant-id", "Idempotency_Key", "Content_Length"])
def test_a_header_that_decides_something_is_refused_in_disguise(app: ASGIApp, name: str) -> None:
    reply = ask(app, headers=[*AUTHORIZED, (name, ID)])
    assert reply.status == 400
    assert reply.errors.popitem()[1] == ["must be given once, under this name"]


def test_any_other_header_with_an_underscore_does_not_pass_the_edge(app: ASGIApp) -> None:
    assert ask(app, headers=[*AUTHORIZED, ("X_Forwarded_Host", "evil.example")]).status == 200


def test_a_hundred_headers_are_accepted_and_more_are_not(app: ASGIApp) -> None:
    many = [("X-Filler", "x")] * 99
    assert ask(app, headers=[*AUTHORIZED, *many]).status == 200
    reply = ask(app, headers=[*AUTHORIZED, *many, ("X-Filler", "x")])
    assert (reply.status, reply.json["code"]) == (431, "headers_too_large")


def test_headers_of_more_than_16_kilobytes_are_431(app: ASGIApp) -> None:
    assert ask(app, headers=[*AUTHORIZED, ("X-Filler", "x" * 16_000)]).status == 200
    assert ask(app, headers=[*AUTHORIZED, ("X-Filler", "x" * 16_384)]).status == 431


@pytest.mark.parametrize("value", ["a", "A-Z_0.9", "x" * 64])
def test_a_client_may_name_its_request(app: ASGIApp, value: str) -> None:
    reply = ask(app, "/api/v1/nowhere", headers=[("X-Request-Id", value)])
    assert reply.headers["x-request-id"] == reply.json["request_id"] == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", 'a"b', "a\r\nb", "\x1b[31m", "é", "a\n", "{}"])
def test_a_bad_name_of_a_request_is_replaced(app: ASGIApp, value: str) -> None:
    reply = ask(app, headers=[*AUTHORIZED, ("X-Request-Id", value)])
    assert reply.status == 200
    assert uuid.UUID(reply.headers["x-request-id"]).version == 4


def test_two_names_of_one_request_are_replaced(app: ASGIApp) -> None:
    reply = ask(app, headers=[*AUTHORIZED, ("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.headers["x-request-id"])


@pytest.mark.parametrize("target", ["/api/v1/things", "/api/v1/nowhere", "/api/v1/things?limit=0", "/api/v1/healthz"])
def test_every_answer_forbids_storing_guessing_and_framing(app: ASGIApp, target: str) -> None:
    headers = ask(app, target).headers
    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Authorization, X-Tenant-ID"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "server" not in headers


def test_a_content_length_that_is_no_number_is_refused(app: ASGIApp) -> None:
    reply = ask(app, method="POST", headers=[*JSON, ("Content-Length", "+1")])
    assert (reply.status, list(reply.errors)) == (400, ["Content-Length"])
