"""Methods: HEAD is GET without a body, what a path does not have is 405 with Allow, other origins are shut out."""

import pytest
from starlette.types import ASGIApp

from tests.app import stubs
from tests.app.asking import AUTHORIZED, JSON, ask, shapes_app

ID = "00000000-0000-4000-8000-000000000001"
ORIGIN = "https://inbox.example.com"


def comparable(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}


@pytest.mark.parametrize(
    "target", ["/api/v1/things?limit=3", "/api/v1/things?limit=0", "/api/v1/nowhere", "/api/v1/healthz"]
)
@pytest.mark.parametrize("headers", [AUTHORIZED, ()])
def test_head_is_get_without_the_body(app: ASGIApp, target: str, headers: tuple[tuple[str, str], ...]) -> None:
    named = [*headers, ("X-Request-Id", "same")]
    get, head = ask(app, target, headers=named), ask(app, target, method="HEAD", headers=named)
    assert (head.status, head.body, head.headers) == (get.status, b"", get.headers)
    assert head.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "FOO"])
def test_a_method_that_a_path_does_not_have_is_405_with_those_that_it_has(app: ASGIApp, method: str) -> None:
    reply = ask(app, method=method)
    assert (reply.status, reply.headers["allow"], reply.json["code"]) == (405, "GET, HEAD, POST", "method_not_allowed")
    assert ask(app, f"/api/v1/things/{ID}", method="POST").headers["allow"] == "DELETE, GET, HEAD"
    assert ask(app, "/api/v1/hook/1", method="HEAD").headers["allow"] == "POST"
    assert stubs.calls == []


def test_no_header_changes_the_method(app: ASGIApp) -> None:
    headers = [*AUTHORIZED, ("X-HTTP-Method-Override", "DELETE"), ("X-Method-Override", "DELETE")]
    ask(app, f"/api/v1/things/{ID}", headers=headers)
    assert stubs.calls == ["get_thing"]


def test_an_answer_without_a_body_has_no_length(app: ASGIApp) -> None:
    reply = ask(app, f"/api/v1/things/{ID}", method="DELETE")
    assert (reply.status, reply.body) == (204, b"")
    assert "content-length" not in reply.headers


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/things/",
        "//api/v1/things",
        "/api/v1//things",
        "/api/v2/things",
        "/api/v1/things/x/y",
        "/API/v1/things",
        "/api/v1/things;a=b",
        "/api/v1/ui/",
        "/api/v1/openapi.json",
        "/api/v1/openapi.yaml",
        "/api/v1/swagger.json",
        "/static/x",
        "*",
        "http://evil.example/api/v1/things",
        "/api/v1/./things",
    ],
)
def test_a_path_that_leads_nowhere_is_404_and_never_a_redirect(app: ASGIApp, target: str) -> None:
    reply = ask(app, target, headers=[*AUTHORIZED, ("Host", "evil.example")])
    assert (reply.status, reply.json["code"]) == (404, "route_not_found")
    assert "location" not in reply.headers
    assert b"evil" not in reply.body


def preflight(app: ASGIApp, origin: str) -> dict[str, str]:
    headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
    reply = ask(app, method="OPTIONS", headers=headers)
    assert reply.status in (204, 405)
    return {"status": str(reply.status), **reply.headers}


def test_other_origins_are_shut_out_unless_they_are_listed(app: ASGIApp) -> None:
    assert preflight(app, ORIGIN)["status"] == "405"
    assert "access-control-allow-origin" not in ask(app, headers=[*AUTHORIZED, ("Origin", ORIGIN)]).headers


def test_a_listed_origin_may_ask_and_read() -> None:
    app = shapes_app(cors_allowed_origins=[ORIGIN])
    allowed = preflight(app, ORIGIN)
    assert allowed["status"] == "204"
    assert allowed["access-control-allow-origin"] == ORIGIN
    assert allowed["access-control-allow-methods"] == "GET, HEAD, POST"
    assert "X-Tenant-ID" in allowed["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed
    for target in ("/api/v1/things", "/api/v1/nowhere"):
        headers = ask(app, target, headers=[*AUTHORIZED, ("Origin", ORIGIN)]).headers
        assert headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-Id" in headers["access-control-expose-headers"]
        assert headers["vary"] == "Authorization, X-Tenant-ID, Origin"


@pytest.mark.parametrize(
    "origin", ["null", "https://inbox.example.com.evil.example", "http://inbox.example.com", "*", ""]
)
def test_an_origin_that_only_resembles_a_listed_one_is_shut_out(origin: str) -> None:
    app = shapes_app(cors_allowed_origins=[ORIGIN])
    refused = preflight(app, origin)
    assert (refused["status"], refused["allow"]) == ("405", "GET, HEAD, POST, OPTIONS")
    assert "access-control-allow-origin" not in refused
    assert "access-control-allow-origin" not in ask(app, headers=[*AUTHORIZED, ("Origin", origin)]).headers


def test_a_listed_origin_is_told_of_the_body_that_it_sent_too_much_of() -> None:
    app = shapes_app(cors_allowed_origins=[ORIGIN])
    reply = ask(app, method="POST", headers=[*JSON, ("Origin", ORIGIN)], body=b"x" * 70_000)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (413, ORIGIN)
