"""From an admitted request to its checked answer: what Connexion puts around our handlers, in one step.

Connexion reads the contract, resolves every operationId and registers the operations here, as it does with each of its
own middlewares. Theirs take a request apart and put it together once for each concern; this one reads it once. The
order is Connexion's: token, parameters and body, handler, answer (docs/decisions/0017-one-middleware.md). Before the
handler a request waits for its place to run, in the turn of the agency that its token names.
"""

import asyncio
import contextvars
import inspect
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

from connexion.middleware.abstract import ROUTING_CONTEXT, AbstractRoutingAPI, SpecMiddleware
from connexion.operations import AbstractOperation
from connexion.resolver import Resolution, Resolver
from connexion.spec import Specification
from connexion.utils import get_function_from_name
from starlette.types import ASGIApp, Receive, Scope, Send

from conversations_api.web import validation
from conversations_api.web.contract import Contract, Operation
from conversations_api.web.request_head import FORM
from handlers import problems
from handlers.requests import Request
from handlers.responses import Response
from tenancy import errors
from tenancy.transaction import Conflict

logger = logging.getLogger(__name__)

# In a request's extensions: the coroutine function that takes the place of a handler, in the turn of its argument.
PLACE = "faro.place"
_BEARER = {"type": "http", "scheme": "bearer"}
# How often a handler is called again whose transaction the server took back, and after what pause, doubled each time
# and shortened at random: two that stood in each other's way do not meet again.
_MOST_REPEATS = 3
_PAUSE_SECONDS = 0.05
_DICE = secrets.SystemRandom()


class SnakeCaseResolver(Resolver):  # type: ignore[misc]  # Connexion ships no types
    """`listConversations` of `handlers.conversations` is `list_conversations` there; its id stays as it is written."""

    def resolve(self, operation: Any) -> Resolution:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation.operation_id).lower()
        function = self.resolve_function_from_operation_id(f"{operation.router_controller}.{name}")
        if not inspect.isfunction(function):
            raise TypeError(f"{operation.router_controller}.{name} is not a function")
        return Resolution(function, operation.operation_id)


class StillRunning(Exception):
    """A handler has not ended in time: `handling` goes on, and whatever it does it will have done."""

    def __init__(self, handling: "asyncio.Future[Response]") -> None:
        super().__init__()
        self.handling = handling


class Operations(SpecMiddleware):  # type: ignore[misc]
    """Answers what the edge has routed to an operation; everything else (the documentation) is Flask's."""

    def __init__(self, app: ASGIApp, *, contract: Contract, threads: int, seconds: float) -> None:
        """`threads` is how many handlers run at once, `seconds` for how long one is waited for."""
        self._app = app
        self._contract = contract
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="handler")
        self._seconds = seconds
        self._operations: dict[str, _Served] = {}

    def add_api(self, specification: Specification, *, resolver: Resolver, **_options: Any) -> None:
        """Called by Connexion. Raises where an operation has no handler, or has a security that nobody checks."""
        for operation in _Api(specification, resolver=resolver).operations:
            id_ = operation.operation_id
            self._operations[id_] = _Served(self._contract.operations[id_], operation, self._threads, self._seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routed = scope.get("extensions", {}).get(ROUTING_CONTEXT)
        if routed is None:
            await self._app(scope, receive, send)
            return
        response = await self._operations[routed["operation_id"]].answer(scope, receive)
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": False})


class _Api(AbstractRoutingAPI):  # type: ignore[misc]
    """Collects the operations of a contract, each with its function."""

    def __init__(self, specification: Specification, *, resolver: Resolver) -> None:
        self.operations: list[AbstractOperation] = []
        super().__init__(specification, resolver=resolver)

    def make_operation(self, operation: AbstractOperation) -> AbstractOperation:
        return operation

    @staticmethod
    def _framework_path_and_name(operation: AbstractOperation, path: str) -> tuple[str, str]:
        return path, operation.operation_id

    def _add_operation_internal(
        self, _method: str, _path: str, operation: AbstractOperation, name: str | None = None
    ) -> None:
        self.operations.append(operation)


class _Served:
    """One operation with its handler, and the function that checks its token, if it wants one."""

    def __init__(
        self, operation: Operation, resolved: AbstractOperation, threads: ThreadPoolExecutor, seconds: float
    ) -> None:
        self._operation = operation
        self._handler: Callable[..., Response] = resolved.function
        self._threads = threads
        self._seconds = seconds
        self._bearer_claims = _bearer_claims(resolved)
        # A handler names the parameters that it looks at.
        wanted = inspect.signature(resolved.function).parameters
        self._takes_body = "body" in wanted
        self._arguments = frozenset(
            each.name for each in operation.parameters if each.location != "header" and each.name in wanted
        )

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """Raises what stands for a refusal, and Problem `internal_error` for an answer that breaks the contract."""
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in scope["headers"]}
        state = scope["state"]
        claims = None
        if self._bearer_claims is not None:
            claims = await self._bearer_claims(_bearer_token(headers), state["services"])
        # The edge waits for the whole body now, and hands it over as one message.
        body: bytes = (await receive())["body"]
        # The edge has made sure that the query is ASCII and decodes, and that no name occurs twice.
        query = (
            parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True) if scope["query_string"] else ()
        )
        parameters, broken = validation.read_parameters(
            self._operation, path=scope["path_params"], query=query, headers=headers
        )
        value, errors_of_body = self._read_body(headers, body)
        if broken or errors_of_body:
            raise problems.Problem("invalid_request", broken or errors_of_body)
        arguments = {name: given for name, given in parameters.items() if name in self._arguments}
        if self._takes_body:
            arguments["body"] = value
        request = Request(
            services=state["services"],
            state=state,
            claims=claims,
            headers=headers,
            tenant_id=parameters.get("tenant_id"),
            target=_target(scope),
            body=body,
        )
        request.check_limit()
        await scope["extensions"][PLACE](None if claims is None else claims.agency_id)
        # What the edge has bound to this request is bound in the thread as well.
        context = contextvars.copy_context()
        handling = asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, self._handle, request, arguments
        )
        done, _ = await asyncio.wait({handling}, timeout=self._seconds)
        if not done:
            raise StillRunning(handling)
        return handling.result()

    def _read_body(self, headers: Mapping[str, str], body: bytes) -> tuple[Any, list[tuple[str, str]]]:
        if not self._operation.bodies:
            return None, []
        media_type = headers["content-type"]
        schema = self._operation.bodies[media_type]
        if media_type == FORM:
            return None, validation.check_form(schema, body)
        return validation.read_json(schema, body, required=self._operation.body_required)

    def _handle(self, request: Request, arguments: dict[str, Any]) -> Response:
        response = self._call(request, arguments)
        try:
            validation.check_response(
                self._operation, status=response.status, headers=response.headers, body=response.body
            )
        except validation.ContractBroken as broken:
            extra = {"answer_status": response.status, "path": broken.path, "rule": broken.rule}
            logger.error("answer breaks the contract", extra=extra)
            raise problems.Problem("internal_error") from broken
        return response

    def _call(self, request: Request, arguments: dict[str, Any]) -> Response:
        """Call the handler, and again where the server took its transaction back: it has done nothing elsewhere, and
        writes in one transaction, so then nothing of it has happened. Raises what the handler raises."""
        for repeat in range(_MOST_REPEATS):
            try:
                return self._handler(request, **arguments)
            except Conflict:
                logger.info("request_repeated", extra={"repeat": repeat + 1})
                time.sleep(_PAUSE_SECONDS * 2**repeat * _DICE.uniform(0.5, 1.0))
        return self._handler(request, **arguments)


def _bearer_claims(operation: AbstractOperation) -> Callable[[str, Any], Awaitable[Any]] | None:
    """Connexion's `x-bearerInfoFunc` of the scheme that the operation asks for, None where it asks for none."""
    if not operation.security:
        return None
    ((name, *more),) = operation.security
    scheme = operation.security_schemes[name]
    if more or not _BEARER.items() <= scheme.items():
        raise ValueError(f"{operation.operation_id}: only one bearer scheme is supported")
    function: Callable[[str, Any], Awaitable[Any]] = get_function_from_name(scheme["x-bearerInfoFunc"])
    return function


def _bearer_token(headers: Mapping[str, str]) -> str:
    """RFC 6750, section 2.1. Raises InvalidToken where there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip(" ")  # and nothing else that Python takes for a blank
    if scheme.lower() != "bearer" or not token:
        raise errors.InvalidToken
    return token


def _target(scope: Scope) -> str:
    path: str = scope["raw_path"].decode("ascii")
    return f"{path}?{scope['query_string'].decode('ascii')}" if scope["query_string"] else path
