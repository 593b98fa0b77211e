"""The HTTP/1.1 of uvicorn and h11, where they leave a client more than it should have.

A head must come whole within some seconds (uvicorn waits for ever), the number of connections is bounded (so it is not
there), and what cannot be read as HTTP is answered by a problem body like every other error.
"""

import asyncio
import sys
import uuid
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from handlers import problems

# Past the edge's own limit, so that whatever a client could reasonably get wrong has an answer from there.
MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 10.0
LINGER_SECONDS = 1.0
MAX_CONNECTIONS = 2048  # of one process; an idle one costs some 20 kB


class HttpProtocol(H11Protocol):
    """One connection."""

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._head_timer is None and self.conn.their_state is h11.IDLE:
            self._await_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_here()

    def on_response_complete(self) -> None:
        # From here on the time for an idle connection runs, until the next byte.
        self._head_is_here()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Called where h11's error is being handled: it says which of the two it is."""
        error = sys.exc_info()[1]
        too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        problem = problems.Problem("headers_too_large" if too_large else "invalid_request")
        request_id = str(uuid.uuid4())
        body = problems.body(problem, "/", request_id)
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            start = h11.Response(status_code=problem.kind.status, headers=headers, reason=b"")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._linger()

    def _linger(self) -> None:
        """Close, but not on what the client is still sending: it would get a reset, and lose the answer to it."""
        self._refused = True
        self._head_is_here()
        self.connections.discard(self)
        if not self.transport.is_closing():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
