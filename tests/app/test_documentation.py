"""The documentation: the contract as it was written, shown only where that is wanted, loading nothing from outside."""

import hashlib
import importlib.resources
import re
from urllib.parse import urljoin

import pytest
import yaml
from starlette.types import ASGIApp

import api
from conversations_api.web.app import build_app
from tests.app.asking import SHAPES, Reply, ask, shapes_app

UI = "/api/v1/ui/"
REFERENCE = "/api/v1/docs"
DOCUMENT = "/api/v1/openapi.json"


@pytest.fixture(scope="module")
def documented() -> ASGIApp:
    return shapes_app(serve_docs=True)


def show(app: ASGIApp, target: str, method: str = "GET") -> Reply:
    return ask(app, target, headers=(), method=method)


@pytest.mark.parametrize(
    "target",
    [
        UI,
        UI + "index.html",
        UI + "swagger-ui-bundle.js",
        REFERENCE,
        REFERENCE + "/",
        REFERENCE + "/redoc.standalone.js",
        DOCUMENT,
    ],
)
def test_the_documentation_is_shown_only_where_it_is_wanted(app: ASGIApp, documented: ASGIApp, target: str) -> None:
    assert show(app, target).status == 404
    assert show(documented, target).status == 200


def test_the_document_is_the_one_that_was_written_less_our_own_routing(documented: ASGIApp) -> None:
    written = yaml.safe_load(SHAPES.read_text(encoding="utf-8"))
    for path in written["paths"].values():
        for operation in path.values():
            del operation["x-openapi-router-controller"]
    del written["components"]["securitySchemes"]["bearerAuth"]["x-bearerInfoFunc"]
    assert show(documented, DOCUMENT).json == written


def test_the_services_own_document_keeps_its_references_and_names_no_function() -> None:
    document = show(build_app(services_lifespan=None, serve_docs=True), DOCUMENT)  # type: ignore[arg-type]
    written = yaml.safe_load(api.CONTRACT.read_text(encoding="utf-8"))
    assert document.json["paths"].keys() == written["paths"].keys()
    assert document.body.count(b'"$ref"') > 100
    assert b"handlers." not in document.body
    assert b"x-bearerInfoFunc" not in document.body


@pytest.mark.parametrize("page", [UI, REFERENCE])
def test_a_page_loads_nothing_from_outside(documented: ASGIApp, page: str) -> None:
    shown = show(documented, page)
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    addresses = re.findall(r"(?:src|href|data-document)=\"([^\"]*)\"", shown.body.decode())
    assert len(addresses) > 2
    for address in addresses:
        assert show(documented, urljoin(page, address)).status == 200
    policy = shown.headers["content-security-policy"]
    assert "default-src 'self'; script-src 'self';" in policy
    assert "http" not in policy


def test_the_reference_page_is_the_published_one_without_the_logo_from_another_host(documented: ASGIApp) -> None:
    pages = importlib.resources.files("conversations_api.web") / "documentation_pages"
    published = pages.joinpath("redoc.standalone.js").read_bytes()
    assert hashlib.sha256(published).hexdigest() in pages.joinpath("README.md").read_text(encoding="utf-8")
    logo = b"https://cdn.redoc.ly/"
    assert logo in published
    assert logo not in show(documented, REFERENCE + "/redoc.standalone.js").body


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "%00", "%0a", "index.j2%20", "a" * 300]
)
def test_only_the_pages_own_files_are_served(documented: ASGIApp, name: str) -> None:
    reply = show(documented, UI + name)
    assert (reply.status, reply.json["code"]) == (404, "route_not_found")


def test_the_documentation_takes_get_and_head_only(documented: ASGIApp) -> None:
    assert show(documented, DOCUMENT, "POST").headers["allow"] == "GET, HEAD"
    head = show(documented, DOCUMENT, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 1000


def test_the_address_without_its_slash_leads_to_the_page_on_the_same_host(documented: ASGIApp) -> None:
    reply = ask(documented, "/api/v1/ui", headers=[("Host", "evil.example")])
    assert (reply.status, reply.headers["location"]) == (307, UI)
