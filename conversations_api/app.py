"""The application: the contract served by Connexion, with the edge in front of it.

Connexion reads the contract, routes every operationId to its handler and asks our validators; the document that is
shown is the one that was written, less what only we need.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import connexion
import flask
import orjson
from connexion.options import SwaggerUIOptions
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import api
from conversations_api import connexion_hooks
from conversations_api.contract import Contract
from conversations_api.edge import Edge
from conversations_api.handler_threads import HandlerThreads
from conversations_api.lanes import Limits

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]

_UI_PATH = "/ui"
_DOCUMENT_PATH = "/openapi.json"
# Where our code lies is of no use to a client.
_INTERNAL = frozenset({"x-openapi-router-controller", "x-bearerInfoFunc"})
_UI_SETTINGS = {
    "deepLinking": True,
    "defaultModelsExpandDepth": 0,
    "displayRequestDuration": True,
    "docExpansion": "list",
    "filter": True,
    "persistAuthorization": True,
    "validatorUrl": None,
}


def build_app(
    *,
    services_lifespan: Lifespan,
    serve_docs: bool = False,
    cors_allowed_origins: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008  # frozen
    contract_path: Path = api.CONTRACT,
) -> ASGIApp:
    """`services_lifespan` yields the state that every request finds, `{"services": ...}`.

    Raises, with Connexion's reason, when the contract is not valid or an operation has no handler.
    """
    contract = Contract.load(contract_path)
    app = connexion.FlaskApp(
        "conversations_api",
        lifespan=services_lifespan,
        server_args={"static_folder": None},
        jsonifier=connexion_hooks.CompactJson(),
        resolver=connexion_hooks.SnakeCaseResolver(),
        strict_validation=True,
        validate_responses=True,
        validator_map=connexion_hooks.validator_map(contract),
        swagger_ui_options=SwaggerUIOptions(
            serve_spec=False, swagger_ui=serve_docs, swagger_ui_path=_UI_PATH, swagger_ui_config=_UI_SETTINGS
        ),
    )
    # No option of FlaskApp reaches the bridge to its threads.
    app._middleware_app.asgi_app = HandlerThreads(app.app.wsgi_app, limits.threads)
    app.app.before_request(connexion_hooks.before_handler)
    for kind in (connexion.ProblemException, HTTPException, Exception):
        app.add_error_handler(kind, connexion_hooks.answer_error)
    # Given as a mapping: from a file Connexion would run it through a template engine.
    app.add_api(dict(contract.document))
    documentation = []
    if serve_docs:
        documentation = [contract.base_path + _UI_PATH, contract.base_path + _DOCUMENT_PATH]
        _serve_document(app, contract)
    return Edge(
        app,
        contract,
        limits=limits,
        documentation=documentation,
        cors_allowed_origins=cors_allowed_origins,
    )


def _serve_document(app: connexion.FlaskApp, contract: Contract) -> None:
    # Connexion's own copy has every reference resolved, and names our functions.
    document = orjson.dumps(_public(contract.document))

    def show_document() -> flask.Response:
        return flask.Response(document, content_type="application/json")

    app.add_url_rule(contract.base_path + _DOCUMENT_PATH, connexion_hooks.DOCUMENT_ENDPOINT, show_document)


def _public(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _public(value) for name, value in node.items() if name not in _INTERNAL}
    if isinstance(node, list):
        return [_public(value) for value in node]
    return node
