"""One HTTP request on one fresh connection under one deadline, and whether any byte of it left this process.

An HTTP library reports "refused" and "closed after the request was read" with the same exception, yet one may be
sent again and the other may not. So the socket is ours: `NotSent` is raised only while nothing was handed to the
kernel, `ReplyLost` from then on. A kept-alive connection would blur this line (the peer may have closed it while the
request was on its way), so each request pays for its own; with "Connection: close" the peer ends it, not we.
The deadline is checked before every system call that can wait: drip-fed replies cannot stretch it, and no byte is
written after it, not even by a process that was stopped in between.
"""

import http.client
import io
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import certifi

# CLOCK_BOOTTIME goes on while the machine is suspended; a deadline that sleeps with the machine would let a request
# out long after everybody else gave it up.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_MAXIMUM_REPLY_BYTES = 16 * 1024 * 1024
_ADDRESSES_KEPT_SECONDS = 30.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def now() -> float:
    """Seconds on the clock that deadlines are counted on."""
    return time.clock_gettime(_CLOCK)


class NotSent(Exception):
    """Nothing of the request left this process; `reason` is a word for logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ReplyLost(Exception):
    """The request, or a part of it, may have arrived and no whole reply came back; `reason` is a word for logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """A whole HTTP reply; header names in lower case, of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpExchange:
    """Sends requests to one server; safe to share between threads, which share nothing but its addresses.

    Proxies, CA bundles and key logs named in the environment are ignored: `ca_file` (PEM) alone replaces certifi's
    authorities. Redirects are answers like any other.
    """

    def __init__(self, base_url: str, *, connect_timeout_seconds: float, ca_file: str | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("the base URL must be http:// or https:// with a host and nothing behind it")
        self._host = parts.hostname
        self._netloc = parts.netloc.rpartition("@")[2]
        self._connect_timeout = connect_timeout_seconds
        self._tls = _tls_context(ca_file or certifi.where()) if parts.scheme == "https" else None
        self._addresses = _Addresses(self._host, parts.port or (443 if self._tls else 80))

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline: float,
        may_send: Callable[[], bool] | None = None,
    ) -> Answer:
        """`deadline` is on `now()`'s clock. `may_send` is asked last, between the connection and the first byte.

        Raises NotSent or ReplyLost, nothing else.
        """
        request = self._request_bytes(method, target, headers, body)
        connection = self._connect(deadline)
        try:
            _require_leave(may_send)
            _write(connection, request, deadline)
            answer = _read(connection, method, deadline)
        except BaseException:
            # A reset drops what the kernel still holds, so that nothing trickles out after we reported failure.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            raise
        finally:
            connection.close()
        return answer

    def _request_bytes(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        if any("\r" in line or "\n" in line for line in lines):
            raise NotSent("line_break_in_request_head")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _connect(self, deadline: float) -> socket.socket:
        connect_by = min(deadline, now() + self._connect_timeout)
        failure = "no_address"
        for family, kind, protocol, _, address in self._addresses.get(connect_by):
            connection: socket.socket | None = None
            try:
                connection = socket.socket(family, kind, protocol)
                connection.settimeout(_left(connect_by))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _bound_unacknowledged_bytes(connection, _left(deadline))
                connection.connect(address)
                if connection.getsockname() == address:  # a free local port was dialled and answered by itself
                    raise ConnectionRefusedError
                if self._tls is not None:
                    connection.settimeout(_left(connect_by))
                    connection = self._tls.wrap_socket(connection, server_hostname=self._host)
                return connection
            except OSError as error:  # includes ssl.SSLError, TimeoutError and bad certificates
                if connection is not None:
                    connection.close()
                failure = _word(error, "connect")
        raise NotSent(failure)


class _Addresses:
    """The server's addresses, looked up on a thread of its own: `getaddrinfo` knows no timeout."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lock = threading.Lock()
        self._lookup: Future[list[Any]] | None = None
        self._fresh_until = 0.0

    def get(self, deadline: float) -> list[Any]:
        with self._lock:
            lookup = self._lookup
            stale = lookup is None or (lookup.done() and now() >= self._fresh_until)
            if lookup is None or stale:
                lookup = self._lookup = Future()
                threading.Thread(target=self._look_up, args=(lookup,), daemon=True, name="twilio-dns").start()
        try:
            return lookup.result(timeout=_left(deadline))
        except TimeoutError:
            raise NotSent("name_lookup_timeout") from None
        except OSError:
            raise NotSent("name_lookup_failed") from None

    def _look_up(self, lookup: "Future[list[Any]]") -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except Exception as error:
            self._fresh_until = now() + 1.0
            lookup.set_exception(error if isinstance(error, OSError) else OSError(type(error).__name__))
        else:
            self._fresh_until = now() + _ADDRESSES_KEPT_SECONDS
            lookup.set_result(found)


class _RawReply(io.RawIOBase):
    """What `http.client` reads from: every wait for bytes is bounded by what is left of the deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._bytes_left = _MAXIMUM_REPLY_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise OSError("the reply is too large")
        return count

    def makefile(self, mode: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(self))


def _tls_context(ca_file: str) -> ssl.SSLContext:
    # Not ssl.create_default_context(): it obeys SSLKEYLOGFILE, and without a file also SSL_CERT_FILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=ca_file)
    return context


def _bound_unacknowledged_bytes(connection: socket.socket, seconds: float) -> None:
    """The kernel goes on delivering for a process that was killed; not beyond the deadline, where it can be told."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))


def _left(deadline: float) -> float:
    left = deadline - now()
    if left <= 0:
        raise TimeoutError
    return left


def _require_leave(may_send: Callable[[], bool] | None) -> None:
    try:
        allowed = may_send is None or may_send()
    except Exception:
        raise NotSent("leave_to_send_unknown") from None
    if not allowed:
        raise NotSent("leave_to_send_withdrawn")


def _write(connection: socket.socket, request: bytes, deadline: float) -> None:
    unsent = memoryview(request)
    while unsent:
        untouched = len(unsent) == len(request)
        try:
            connection.settimeout(_left(deadline))
        except TimeoutError:
            raise (NotSent if untouched else ReplyLost)("deadline_before_write") from None
        try:
            unsent = unsent[connection.send(unsent) :]
        except OSError as error:
            # A failed first send() on a plain socket took no byte; a TLS record may have gone out in part.
            nothing_left = untouched and not isinstance(connection, ssl.SSLSocket)
            raise (NotSent if nothing_left else ReplyLost)(_word(error, "write")) from None


def _read(connection: socket.socket, method: str, deadline: float) -> Answer:
    raw = _RawReply(connection, deadline)
    try:
        with http.client.HTTPResponse(cast(socket.socket, raw), method=method) as reply:
            reply.begin()
            body = reply.read()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, body)
    except http.client.IncompleteRead:
        raise ReplyLost("reply_cut_short") from None
    except http.client.HTTPException:
        raise ReplyLost("reply_not_http") from None
    except OSError as error:
        raise ReplyLost(_word(error, "read")) from None
    except Exception as error:
        raise ReplyLost(f"reply_not_understood_{type(error).__name__}") from None


def _word(error: OSError, step: str) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{step}_refused"
    if isinstance(error, TimeoutError):
        return f"{step}_timeout"
    if isinstance(error, ssl.SSLError):
        return f"{step}_tls"
    if isinstance(error, ConnectionError):
        return f"{step}_reset"
    return f"{step}_failed"
