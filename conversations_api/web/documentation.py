"""The documentation: Swagger UI to try the API out, a reference page to read, and the document that both show.

Every file is served by its exact name, from this package or from that of Swagger UI; nothing is loaded from elsewhere.
"""

import importlib.resources
from collections.abc import Mapping
from typing import Any

import connexion
import flask
import orjson
import swagger_ui_bundle

from conversations_api.web.contract import Contract

UI, REFERENCE, DOCUMENT = "/ui", "/docs", "/openapi.json"

_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_OF_SWAGGER_UI = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
# The one thing that Redoc shows from another host: its logo.
_LOGO, _NO_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"data:image/gif;base64,R0lGODlhAQABAAAAACw="
# Where our code lies is of no use to a client.
_INTERNAL = frozenset({"x-openapi-router-controller", "x-bearerInfoFunc"})


def serve(app: connexion.FlaskApp, contract: Contract) -> list[str]:
    """Add its addresses to the application; gives the paths, all of which Flask answers."""
    files = _files(contract)
    redirected = contract.base_path + UI

    def show_documentation() -> Any:
        if flask.request.path == redirected:
            return flask.redirect(redirected + "/", code=307)
        body, content_type = files[flask.request.path]
        return flask.Response(body, content_type=content_type)

    paths = [redirected, *files]
    for path in paths:
        app.add_url_rule(path, "documentation", show_documentation)
    return paths


def _files(contract: Contract) -> Mapping[str, tuple[bytes, str]]:
    """Body and content type, by path."""
    base, ours, swagger_ui = contract.base_path, _ours, swagger_ui_bundle.swagger_ui_path
    # Connexion's own copy of the document has every reference resolved, and names our functions.
    document = orjson.dumps(_public(contract.document))
    names = {b"{base_path}": base.encode(), b"{document}": (base + DOCUMENT).encode()}
    page, reference = ours("swagger-ui.html", names), ours("reference.html", names)
    files = {
        UI + "/": page,
        UI + "/index.html": page,
        UI + "/swagger-ui.js": ours("swagger-ui.js"),
        **{f"{UI}/{name}": swagger_ui.joinpath(name).read_bytes() for name in _OF_SWAGGER_UI},
        REFERENCE: reference,
        REFERENCE + "/": reference,
        REFERENCE + "/reference.js": ours("reference.js"),
        REFERENCE + "/redoc.standalone.js": ours("redoc.standalone.js", {_LOGO: _NO_LOGO}),
    }
    served = {base + path: (body, _content_type(path)) for path, body in files.items()}
    return {**served, base + DOCUMENT: (document, "application/json")}


def _ours(name: str, replaced: Mapping[bytes, bytes] | None = None) -> bytes:
    body = importlib.resources.files("conversations_api.web").joinpath("documentation_pages", name).read_bytes()
    for old, new in (replaced or {}).items():
        body = body.replace(old, new)
    return body


def _content_type(path: str) -> str:
    return "image/png" if path.endswith(".png") else _TYPES.get(path.rpartition(".")[2], _TYPES["html"])


def _public(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _public(value) for name, value in node.items() if name not in _INTERNAL}
    if isinstance(node, list):
        return [_public(value) for value in node]
    return node
