"""The application: the contract served by Connexion, with the edge in front of it.

Connexion reads the contract, resolves every operationId to its handler and runs our one middleware; the document that
is shown is the one that was written, less what only we need.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import connexion
from connexion.middleware.lifespan import LifespanMiddleware
from connexion.options import SwaggerUIOptions
from starlette.types import ASGIApp

import api
from conversations_api.web import documentation
from conversations_api.web.contract import Contract
from conversations_api.web.edge import Edge
from conversations_api.web.lanes import Limits
from conversations_api.web.operations import Operations, SnakeCaseResolver

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
    operations = functools.partial(
        Operations, contract=contract, threads=limits.threads, seconds=limits.handler_seconds
    )
    app = connexion.FlaskApp(
        "conversations_api",
        lifespan=services_lifespan,
        middlewares=[LifespanMiddleware, operations],
        server_args={"static_folder": None},
        resolver=SnakeCaseResolver(),
        swagger_ui_options=SwaggerUIOptions(serve_spec=False, swagger_ui=False),
    )
    # Given as a mapping: from a file Connexion would run it through a template engine.
    app.add_api(dict(contract.document))
    return Edge(
        app,
        contract,
        limits=limits,
        documentation=documentation.serve(app, contract) if serve_docs else (),
        cors_allowed_origins=cors_allowed_origins,
    )
