"""The one door that every request passes first and every answer last: a small ASGI middleware in front of Connexion.

What it admits has one reading. Its body is waited for when it is asked for, so that whoever has no good token keeps
nobody waiting, and is complete and bounded then; its place to run is waited for when all that can be refused without
one has been. What it refuses has cost next to nothing. It holds each answer until it is complete: a handler's thread
never waits for a slow reader, an exception half-way is still a clean error, and HEAD is GET without the body.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conversations_api import metrics, tracing
from conversations_api.logging import request_state
from conversations_api.web import request_head
from conversations_api.web.contract import Contract, Operation
from conversations_api.web.exchange import ClientGone, Exchange, whole_body
from conversations_api.web.lanes import Entry, Lanes, Limits
from conversations_api.web.operations import PLACE, StillRunning
from conversations_api.web.request_head import Route
from conversations_api.web.response_headers import ResponseHeaders
from handlers import problems

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
_NO_BODY = frozenset({204, 304})


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""


class Edge:
    """`documentation`: paths, beside those of the contract, under which the documentation lies."""

    def __init__(
        self,
        app: ASGIApp,
        contract: Contract,
        *,
        limits: Limits,
        documentation: Sequence[str] = (),
        cors_allowed_origins: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._limits = limits
        self._routes = request_head.Routes(contract)
        self._lanes = Lanes(limits)
        self._documentation = frozenset(documentation)
        self._headers = ResponseHeaders(cors_allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Exchange.begin(scope, receive), send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, exchange: Exchange, send: Send) -> None:
        exchange.state["instance"] = self._routes.shown(exchange.scope["path"])
        bound = request_state.set(exchange.state)
        try:
            try:
                answer = await self._answer(exchange)
            except ClientGone:
                _log(exchange, 499)
                return
            except Exception as error:
                answer = _refusal(error, exchange)
            _log(exchange, answer.status)
            await self._send(answer, exchange, send)
        finally:
            request_state.reset(bound)

    async def _send(self, answer: Answer, exchange: Exchange, send: Send) -> None:
        headers = self._headers.finish(
            answer.headers,
            exchange.scope,
            length=None if answer.status in _NO_BODY else len(answer.body),
            documentation=exchange.documentation,
            close=exchange.body_pending,
        )
        body = b"" if exchange.scope["method"] == "HEAD" else answer.body
        async with asyncio.timeout(self._limits.send_seconds):
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": exchange.body_pending})
            if exchange.body_pending:
                await exchange.linger()
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer(self, exchange: Exchange) -> Answer:
        scope, state = exchange.scope, exchange.state
        request_head.check_size(scope["headers"])
        raw_path = scope.get("raw_path") or scope["path"].encode("utf-8")
        if request_head.hides_a_slash(raw_path):
            raise problems.Problem("route_not_found")
        if scope["path"] in self._documentation:
            return await self._show_documentation(exchange)
        found = self._routes.find(scope["path"])
        if found is None:
            raise problems.Problem("route_not_found")
        route, path_params = found
        state["template"] = route.template
        if state["instance"] == "/":
            state["instance"] = route.template
        if self._headers.is_preflight(scope):
            return Answer(204, self._headers.preflight(route.methods))
        operation = self._operation(route, scope["method"])
        state["operation"] = operation.operation_id
        single = request_head.single_headers(scope["headers"], operation)
        request_head.check_path(raw_path, route)
        return await self._admit(exchange, single, path_params, operation)

    async def _admit(
        self,
        exchange: Exchange,
        single: Mapping[bytes, bytes],
        path_params: Mapping[str, str],
        operation: Operation,
    ) -> Answer:
        scope = exchange.scope
        request_head.check_query(scope["query_string"], operation)
        media_type = request_head.body_type(single, operation) if operation.bodies else None
        entry = Entry(self._lanes.of(operation))
        inner = {
            **scope,
            "method": operation.method,
            "headers": request_head.forwarded(scope["headers"], media_type=media_type),
            "path_params": path_params,
            "extensions": {ROUTING_CONTEXT: {"operation_id": operation.operation_id}, PLACE: entry.enter},
        }

        async def receive() -> Message:
            """The whole body."""
            body = await exchange.read_body(entry.lane, self._limits, declared=single.get(b"content-length", b"0"))
            return whole_body(b"" if media_type is None else body)

        return await self._run(entry, inner, receive)

    async def _run(self, entry: Entry, scope: Scope, receive: Receive) -> Answer:
        collected: list[Message] = []

        async def collect(message: Message) -> None:
            collected.append(message)

        try:
            await self._app(scope, receive, collect)
        except StillRunning as still:
            # The client is not waited for any more; the thread is, and until it is done it has its place.
            still.handling.add_done_callback(lambda handling: _forget(handling, entry))
            raise problems.Problem("database_unavailable" if scope["method"] == "GET" else "outcome_unknown") from None
        except BaseException:
            entry.leave()
            raise
        entry.leave()
        start, *parts = collected
        return Answer(start["status"], start["headers"], b"".join(part.get("body", b"") for part in parts))

    def _operation(self, route: Route, method: str) -> Operation:
        operation = route.operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            allowed = [*route.methods, *(["OPTIONS"] if self._headers.cross_origin else [])]
            raise problems.Problem("method_not_allowed", headers={"Allow": ", ".join(allowed)})
        return operation

    async def _show_documentation(self, exchange: Exchange) -> Answer:
        scope = exchange.scope
        exchange.state["operation"] = "documentation"
        if scope["method"] not in ("GET", "HEAD"):
            raise problems.Problem("method_not_allowed", headers={"Allow": "GET, HEAD"})
        exchange.documentation = True
        headers = request_head.forwarded(scope["headers"], media_type=None)
        inner = {**scope, "method": "GET", "query_string": b"", "headers": headers, "extensions": {}}
        entry = Entry(self._lanes.of())
        await entry.enter("documentation")  # now, as Flask may not ask for a body before it begins
        return await self._run(entry, inner, exchange.receive)


def _forget(handling: asyncio.Future[Any], entry: Entry) -> None:
    """Nobody asks any more how it ended."""
    entry.leave()
    if not handling.cancelled() and handling.exception() is not None:
        logger.warning("late_request_failed")


def _refusal(error: Exception, exchange: Exchange) -> Answer:
    authorization = next((value for name, value in exchange.scope["headers"] if name == b"authorization"), None)
    rendered = problems.answer(
        error, exchange.state, authorization=None if authorization is None else authorization.decode("latin-1")
    )
    headers = {"Content-Type": problems.MEDIA_TYPE, **rendered.headers}
    return Answer(
        rendered.status,
        [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()],
        rendered.body,
    )


def _log(exchange: Exchange, status: int) -> None:
    """One line and one count per request: never its path, query or headers, which hold ids, cursors and tokens."""
    method = exchange.scope["method"] if exchange.scope["method"] in _METHODS else "other"
    seconds, problem = time.perf_counter() - exchange.started, exchange.state.get("problem")
    metrics.request_ended(exchange.state.get("operation"), method, status, seconds, problem)
    tracing.request_ended(exchange.state, method, status)
    extra = {"method": method, "route": exchange.state.get("template"), "status": status, "problem": problem}
    logger.info("request", extra={**extra, "duration_ms": round(seconds * 1000, 2)})
