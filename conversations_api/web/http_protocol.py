"""The HTTP/1.1 of uvicorn and httptools, where they leave a client more than it should have.

A head must come whole within some seconds and bytes (uvicorn waits for ever, and keeps what comes), the number of
connections is bounded (so it is not there), and what cannot be read as HTTP is answered by a problem body like every
other error.
"""

import asyncio
import re
import sys
import uuid
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from conversations_api.web.response_headers import ResponseHeaders
from handlers import problems

# Past the edge's own limit, so that whatever a client could reasonably get wrong has an answer from there.
MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 10.0
LINGER_SECONDS = 1.0
MAX_CONNECTIONS = 2048  # of one process; an idle one costs some 20 kB
METHODS = "GET, HEAD, POST"  # what some address of the contract takes; which address it is about, nobody has read

_HEADERS = ResponseHeaders(())
_REQUEST_LINE = re.compile(rb"[A-Za-z-]+ /[!-~]* HTTP/1\.[01]\r\n")


class _HeadWithBody(asyncio.Transport):
    """The transport, where the head of an answer waits for its body: one system call for both, one packet."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """uvicorn writes a head as one piece, and then the body, if only an empty one."""
        if not self._head and data[:9] == b"HTTP/1.1 " and data[:12] != b"HTTP/1.1 100":
            self._head = bytes(data)
        else:
            head, self._head = self._head, b""
            self._transport.write(head + data if head else data)

    def flush(self) -> None:
        """Send a head that has no body (the answer to HEAD)."""
        if self._head:
            self.write(b"")

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of a head that has not come whole
        self._in_head = True
        self._refused = False
        self._latest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_HeadWithBody(transport))
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
        self._head_bytes += len(data)
        self._latest = data
        super().data_received(data)
        if not self._in_head:
            self._head_bytes = 0
        elif not self._refused:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(problems.Problem("headers_too_large"))
            elif self._head_timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_here()
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("not a version that is spoken here")  # the parser makes a 400 of it
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Called where the parser's error is being handled, which may be about the method of what is HTTP otherwise."""
        unknown_method = isinstance(sys.exc_info()[1], httptools.HttpParserInvalidMethodError)
        if unknown_method and _REQUEST_LINE.match(self._latest):
            self._refuse(problems.Problem("method_not_allowed", headers={"Allow": METHODS}))
        else:
            self._refuse(problems.Problem("invalid_request"))

    def _refuse(self, problem: problems.Problem) -> None:
        """Answer, unless an answer is under way already; then close, and let nobody else write."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_answer(problem))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
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


def _answer(problem: problems.Problem) -> bytes:
    request_id = str(uuid.uuid4())
    body = problems.body(problem, "/", request_id)
    headers = [(b"content-type", problems.MEDIA_TYPE.encode("ascii"))]
    headers += [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in problem.headers.items()]
    scope = {"headers": [], "state": {"request_id": request_id}}
    finished = _HEADERS.finish(headers, scope, length=len(body), documentation=False, close=True)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in finished)
    return STATUS_LINE[problem.kind.status] + lines + b"\r\n" + body
