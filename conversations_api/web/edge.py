"""The one door that every request passes first and every answer last: a small ASGI middleware in front of Connexion.

What it admits has one reading, a body that is complete and bounded, and a place to run. What it refuses has cost next
to nothing. It holds each answer until it is complete: a handler's thread never waits for a slow reader, an exception
half-way is still a clean error, and HEAD is GET without the body.
"""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conversations_api import metrics, tracing
from conversations_api.logging import request_state
from conversations_api.web import request_head
from conversations_api.web.contract import Contract, Operation
from conversations_api.web.lanes import Lane, Lanes, Limits
from conversations_api.web.operations import StillRunning
from conversations_api.web.request_head import Route
from conversations_api.web.response_headers import ResponseHeaders
from handlers import problems

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
_NO_BODY = frozenset({204, 304})
_LINGER_BYTES = 33_554_432
_LINGER_SECONDS = 2.0


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""


@dataclass
class Exchange:
    """One request and what has become known of it. `state` is the scope's: handlers and logs read and write it."""

    scope: Scope
    receive: Receive
    state: dict[str, Any]
    started: float = field(default_factory=time.perf_counter)
    body_pending: bool = True
    documentation: bool = False

    @classmethod
    def begin(cls, scope: Scope, receive: Receive) -> "Exchange":
        headers = scope["headers"]
        ids = [value.decode("latin-1") for name, value in headers if name == b"x-request-id"]
        chosen = len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0])
        state = {
            **scope.get("state", {}),
            "request_id": ids[0] if chosen else str(uuid.uuid4()),
        }
        has_body = scope["method"] not in ("GET", "HEAD") or any(
            name in (b"content-length", b"transfer-encoding") for name, _ in headers
        )
        return cls({**scope, "state": state}, receive, state, body_pending=has_body)


class ClientGone(Exception):
    """The client left before its request was whole; nobody waits for an answer."""


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
                await _linger(exchange)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer(self, exchange: Exchange) -> Answer:
        scope, state = exchange.scope, exchange.state
        request_head.check_size(scope["headers"])
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
        return await self._admit(exchange, route, path_params, operation)

    async def _admit(
        self, exchange: Exchange, route: Route, path_params: Mapping[str, str], operation: Operation
    ) -> Answer:
        scope = exchange.scope
        single = request_head.single_headers(scope["headers"], operation)
        request_head.check_path(scope.get("raw_path") or scope["path"].encode("utf-8"), route)
        request_head.check_query(scope["query_string"], operation)
        media_type = request_head.body_type(single, operation) if operation.bodies else None
        lane = self._lanes.of(operation)
        with lane.opened():
            body = await self._read_body(exchange, single.get(b"content-length", b"0"))
            if media_type is None:
                body = b""
            headers = request_head.forwarded(scope["headers"], media_type=media_type, length=len(body))
            inner = {
                **scope,
                "method": operation.method,
                "headers": headers,
                "path_params": path_params,
                "extensions": {ROUTING_CONTEXT: {"operation_id": operation.operation_id}},
            }
            return await self._run(lane, inner, _replay(body, exchange.receive))

    async def _run(self, lane: Lane, scope: Scope, receive: Receive) -> Answer:
        collected: list[Message] = []

        async def collect(message: Message) -> None:
            collected.append(message)

        await lane.enter()
        try:
            await self._app(scope, receive, collect)
        except StillRunning as still:
            # The client is not waited for any more; the thread is, and until it is done it has its place.
            still.handling.add_done_callback(lambda handling: _forget(handling, lane))
            raise problems.Problem("database_unavailable" if scope["method"] == "GET" else "outcome_unknown") from None
        except BaseException:
            lane.leave()
            raise
        lane.leave()
        start, *parts = collected
        return Answer(start["status"], start["headers"], b"".join(part.get("body", b"") for part in parts))

    async def _read_body(self, exchange: Exchange, declared: bytes) -> bytes:
        """The whole body, if it is small and comes soon; counted as it comes, whatever was declared."""
        if not exchange.body_pending:
            return b""
        if not declared.isdigit():
            raise problems.Problem("invalid_request", [("Content-Length", "must be a number")])
        if len(declared) > 18 or int(declared) > self._limits.body_bytes:
            raise problems.Problem("body_too_large")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while exchange.body_pending:
                    message = await exchange.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    if len(body) > self._limits.body_bytes:
                        raise problems.Problem("body_too_large")
                    exchange.body_pending = message.get("more_body", False)
        except TimeoutError:
            raise problems.Problem("request_timeout") from None
        return bytes(body)

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
        headers = request_head.forwarded(scope["headers"], media_type=None, length=0)
        inner = {**scope, "method": "GET", "query_string": b"", "headers": headers, "extensions": {}}
        lane = self._lanes.of()
        with lane.opened():
            return await self._run(lane, inner, _replay(b"", exchange.receive))


def _forget(handling: asyncio.Future[Any], lane: Lane) -> None:
    """Nobody asks any more how it ended."""
    lane.leave()
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


async def _linger(exchange: Exchange) -> None:
    """Let the client finish sending, within bounds and keeping nothing, before the connection is closed: closing resets
    it, and the answer would be lost with whatever the client has not read yet."""
    if any(name == b"expect" for name, _ in exchange.scope["headers"]):
        return  # it waits for leave to send, and the answer is its leave not to
    left = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while exchange.body_pending and left > 0:
                message = await exchange.receive()
                left -= len(message.get("body", b""))
                exchange.body_pending = message.get("more_body", False)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes (which can only be that the client leaves)."""
    messages: list[Mapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return dict(messages.pop()) if messages else await receive()

    return replay


def _log(exchange: Exchange, status: int) -> None:
    """One line and one count per request: never its path, query or headers, which hold ids, cursors and tokens."""
    method = exchange.scope["method"] if exchange.scope["method"] in _METHODS else "other"
    seconds, problem = time.perf_counter() - exchange.started, exchange.state.get("problem")
    metrics.request_ended(exchange.state.get("operation"), method, status, seconds, problem)
    tracing.request_ended(exchange.state, method, status)
    extra = {"method": method, "route": exchange.state.get("template"), "status": status, "problem": problem}
    logger.info("request", extra={**extra, "duration_ms": round(seconds * 1000, 2)})
