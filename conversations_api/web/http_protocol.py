"""The HTTP/1.1 of uvicorn and httptools, where they leave a client more than it should have.

A head must come whole within some seconds and bytes (uvicorn waits for ever, and keeps what comes), the number of
connections is bounded (so it is not there), what a body is wrapped in is counted, a head of which two readers might
think that its message ends in different places is refused, and what cannot be read as HTTP is answered by a problem
body like every other error.
"""

import asyncio
import re
import sys
import uuid
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from conversations_api.web.response_headers import ResponseHeaders
from handlers import problems

# Past the edge's own limit, so that whatever a client could reasonably get wrong has an answer from there.
MAX_HEAD_BYTES = 65_536
# What a body may come wrapped in, chunk sizes and trailers, which nobody else counts: so much, and so much more for
# each byte that is in it. A client that sends single bytes needs five.
MAX_FRAMING_BYTES = 16_384
MAX_FRAMING_PER_BYTE = 8
HEAD_SECONDS = 10.0
LINGER_SECONDS = 1.0
MAX_CONNECTIONS = 2048  # of one process; an idle one costs some 20 kB
METHODS = "GET, HEAD, POST"  # what some address of the contract takes; which address it is about, nobody has read

_HEADERS = ResponseHeaders(())
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::[0-9]*)?")
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
        # What came since the head: all of it, and the body that was in it.
        self._wire_bytes = 0
        self._body_bytes = 0
        # The requests that have no whole answer yet, in their order.
        self._unanswered: list[RequestResponseCycle] = []
        self._hears_no_more = False
        self._is_stopping = False
        self._latest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_HeadWithBody(transport))
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        for cycle in self._open():
            _leave(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._hears_no_more:
            self._head_bytes += len(data)
            self._wire_bytes += len(data)
            self._latest = data
            super().data_received(data)
            self._check_bounds()

    def _check_bounds(self) -> None:
        if self._hears_no_more:
            return
        if not self._in_head:
            self._head_bytes = 0
            if self._wire_bytes - self._body_bytes > MAX_FRAMING_BYTES + MAX_FRAMING_PER_BYTE * self._body_bytes:
                self._refuse(problems.Problem("body_too_large"))
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(problems.Problem("headers_too_large"))
        elif self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer decides nothing (RFC 9110, section 6.5.1)
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_here()
        self._wire_bytes = self._body_bytes = 0
        is_last = _check_framing(self.parser, self.url, self.headers)
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # which is of HTTP/1.1
        super().on_headers_complete()
        self._unanswered = [*self._open(), self.cycle]
        if is_last:
            self._hear_no_more(self.cycle)
        elif self._is_stopping:
            self.cycle.keep_alive = False  # its body may still come

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0  # of the next one, as much as came in one piece with this one is not counted

    def shutdown(self) -> None:
        """The process stops: whoever has just come, and whose request is on its way, is still answered."""
        if not self._unanswered and not self._hears_no_more:
            self._is_stopping = True
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Called where the parser's error is being handled: about a head that we refuse, about the method of what is
        HTTP otherwise, or about what is none."""
        error = sys.exc_info()[1]
        refusal = error.__context__ if error is not None else None
        if isinstance(refusal, problems.Problem):
            self._refuse(refusal)
        elif isinstance(error, httptools.HttpParserInvalidMethodError) and _REQUEST_LINE.match(self._latest):
            self._refuse(problems.Problem("method_not_allowed", headers={"Allow": METHODS}))
        else:
            self._refuse(problems.Problem("invalid_request"))

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing is upgraded, and any client may ask for it: no line of the log is worth it."""

    def _open(self) -> list[RequestResponseCycle]:
        return [cycle for cycle in self._unanswered if not cycle.response_complete]

    def _refuse(self, problem: problems.Problem) -> None:
        """Read no more. Requests that came whole are answered, and then the connection ends; where there is none, the
        problem is told, unless an answer is under way."""
        unanswered = self._open()
        broken = unanswered.pop() if unanswered and unanswered[-1].more_body else None
        if unanswered:
            if broken is not None:
                self.pipeline.popleft()  # it has not begun
            self._hear_no_more(unanswered[-1])
            return
        if broken is None or not broken.response_started:
            self.transport.write(_answer(problem))
        if broken is not None:
            _leave(broken)
        self._linger()

    def _hear_no_more(self, last: RequestResponseCycle) -> None:
        """The connection ends with the answer to `last`."""
        self._hears_no_more = True
        self._head_is_here()
        last.keep_alive = False

    def _linger(self) -> None:
        """Close, but not on what the client is still sending: it would get a reset, and lose the answer to it."""
        self._hears_no_more = True
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
        unanswered = self._open()
        if unanswered:
            self._hear_no_more(unanswered[-1])
        elif not self.transport.is_closing():
            self.transport.close()


def _leave(cycle: RequestResponseCycle) -> None:
    """There is nobody any more to answer."""
    cycle.disconnected = True
    cycle.message_event.set()


def _check_framing(parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the request is the last of its connection. Raises Problem for a head of which two readers might think
    that its message ends in different places, or is for somebody else (RFC 9112, sections 3.2 and 6.1)."""
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise problems.Problem("invalid_request")
    hosts = [value for name, value in headers if name == b"host"]
    if version == "1.1" and not (len(hosts) == 1 and _HOST.fullmatch(hosts[0])):
        raise problems.Problem("invalid_request", [("Host", "must name a host, once")])
    if b"#" in url:
        raise problems.Problem("invalid_request", [("path", "must not contain #")])
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise problems.Problem("invalid_request", [("Transfer-Encoding", "must be chunked, in HTTP/1.1")])
    if not parser.should_upgrade():
        return False
    # After such a head the parser takes what follows for another request, whatever length is declared.
    if codings or any(name == b"content-length" and value.strip(b"0") for name, value in headers):
        raise problems.Problem("invalid_request", [("Upgrade", "must not be asked for with a body")])
    return True


def _answer(problem: problems.Problem) -> bytes:
    request_id = str(uuid.uuid4())
    body = problems.body(problem, "/", request_id)
    headers = [(b"content-type", problems.MEDIA_TYPE.encode("ascii"))]
    headers += [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in problem.headers.items()]
    scope = {"headers": [], "state": {"request_id": request_id}}
    finished = _HEADERS.finish(headers, scope, length=len(body), documentation=False, close=True)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in finished)
    return STATUS_LINE[problem.kind.status] + lines + b"\r\n" + body
