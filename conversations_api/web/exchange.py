"""One request as it comes in: what has become known of it, and its body, which is waited for when somebody asks."""

import asyncio
import contextlib
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope

from conversations_api.web.lanes import Lane, Limits
from handlers import problems

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_LINGER_BYTES = 33_554_432
_LINGER_SECONDS = 2.0


class ClientGone(Exception):
    """The client left before its request was whole; nobody waits for an answer."""


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

    async def read_body(self, lane: Lane, limits: Limits, *, declared: bytes) -> bytes:
        """The whole body, if it is small and comes soon; counted as it comes, whatever was `declared`.

        Raises ClientGone, and Problem for what is too large, too slow or one too many.
        """
        if not self.body_pending:
            return b""
        if not declared.isdigit():
            raise problems.Problem("invalid_request", [("Content-Length", "must be a number")])
        if len(declared) > 18 or int(declared) > limits.body_bytes:
            raise problems.Problem("body_too_large")
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds) as deadline:
                with lane.reading(deadline):
                    while self.body_pending:
                        message = await self.receive()
                        if message["type"] == "http.disconnect":
                            raise ClientGone
                        body += message.get("body", b"")
                        if len(body) > limits.body_bytes:
                            raise problems.Problem("body_too_large")
                        self.body_pending = message.get("more_body", False)
        except TimeoutError:
            raise problems.Problem("request_timeout") from None
        return bytes(body)

    async def linger(self) -> None:
        """Let the client finish sending, within bounds and keeping nothing, before the connection is closed: closing
        resets it, and the answer would be lost with whatever the client has not read yet."""
        if any(name == b"expect" for name, _ in self.scope["headers"]):
            return  # it waits for leave to send, and the answer is its leave not to
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self.body_pending and left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    self.body_pending = message.get("more_body", False)


def whole_body(body: bytes) -> Message:
    """All of it in one message."""
    return {"type": "http.request", "body": body, "more_body": False}
