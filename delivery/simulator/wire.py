"""The simulator's HTTP: a small asyncio server that can also misbehave on purpose, and the client for its webhooks.

A full server would hide what the faults need: cutting a reply in half, dripping it, dropping a connection unread.
Every request runs to its end though the caller has hung up, as on a real server.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

_HEAD_LIMIT = 64 * 1024
_BODY_LIMIT = 4 * 1024 * 1024
_PHRASES = {200: "OK", 201: "Created", 204: "No Content", 307: "Temporary Redirect", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(), keep_blank_values=True)


@dataclass(frozen=True)
class Reply:
    """`manner` is how it goes out: `half` closes in the middle, `dripped` sends a byte every `seconds`; `none` closes
    the connection after `seconds` without a word, `reset` at once and rudely."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Literal["whole", "half", "dripped", "none", "reset"] = "whole"
    seconds: float = 0.0

    def encoded(self, *, keep_alive: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Status')}"]
        lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


Handler = Callable[[Request], Awaitable[Reply]]


async def serve(host: str, port: int, handle: Handler) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A cancelled connection task must end quietly: asyncio's streams of 3.11 print a traceback for each otherwise.
        expected = (OSError, ValueError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError)
        with contextlib.suppress(*expected):
            while await _answer_one(reader, writer, handle):
                pass
        writer.close()

    return await asyncio.start_server(connected, host, port, limit=_HEAD_LIMIT, backlog=1024)


async def _answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _BODY_LIMIT:
        return False
    request = Request(method, target, headers, await reader.readexactly(length) if length else b"")
    reply = await handle(request)
    keep_alive = headers.get("connection", "").lower() != "close" and reply.manner == "whole"
    await _send(writer, reply, keep_alive=keep_alive)
    return keep_alive


async def _send(writer: asyncio.StreamWriter, reply: Reply, *, keep_alive: bool) -> None:
    wire = reply.encoded(keep_alive=keep_alive)
    if reply.manner == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    if reply.manner == "none":
        await asyncio.sleep(reply.seconds)
        return
    if reply.manner == "half":
        wire = wire[: len(wire) - max(1, len(reply.body) // 2)]
    if reply.manner == "dripped":
        for position in range(len(wire)):
            writer.write(wire[position : position + 1])
            await writer.drain()
            await asyncio.sleep(reply.seconds)
        return
    writer.write(wire)
    await writer.drain()


class PostFailed(Exception):
    """A webhook got no answer; `kind` is Twilio's word for it in a retry policy: `ct` or `rt`."""

    def __init__(self, kind: Literal["ct", "rt"]) -> None:
        super().__init__(kind)
        self.kind = kind


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, connect_timeout: float, read_timeout: float
) -> int:
    """Post to exactly this URL on a connection of its own and return the status; the answer's body is read and dropped.

    Raises PostFailed.
    """
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    target = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        opening = asyncio.open_connection(parts.hostname, parts.port or (443 if tls else 80), ssl=tls)
        reader, writer = await asyncio.wait_for(opening, connect_timeout)
    except OSError:  # a TimeoutError is one
        raise PostFailed("ct") from None
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        async with asyncio.timeout(read_timeout):
            status_line = await reader.readline()
            await reader.read(-1)
        return int(status_line.split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        raise PostFailed("rt") from None
    finally:
        writer.close()
