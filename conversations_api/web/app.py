"""The application: the contract served by Connexion, with the edge in front of it.

Connexion reads the contract, routes every operationId to its handler and asks our validators; the document that is
shown is the one that was written, less what only we need.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import connexion
from connexion.options import SwaggerUIOptions
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import api
from conversations_api.web import connexion_hooks, documentation
from conversations_api.web.contract import Contract
from conversations_api.web.edge import Edge
from conversations_api.web.handler_threads import HandlerThreads
from conversations_api.web.lanes import Limits

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]


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
        swagger_ui_options=SwaggerUIOptions(serve_spec=False, swagger_ui=False),
    )
    # No option of FlaskApp reaches the bridge to its threads.
    app._middleware_app.asgi_app = HandlerThreads(app.app.wsgi_app, limits.threads)
    app.app.before_request(connexion_hooks.before_handler)
    for kind in (connexion.ProblemException, HTTPException, Exception):
        app.add_error_handler(kind, connexion_hooks.answer_error)
    # Given as a mapping: from a file Connexion would run it through a template engine.
    app.add_api(dict(contract.document))
    if serve_docs:
        documentation.serve(app, contract)
    return Edge(
        app,
        contract,
        limits=limits,
        documentation=documentation.paths(contract) if serve_docs else (),
        cors_allowed_origins=cors_allowed_origins,
    )
