"""Asks an ASGI application exactly the bytes that a test means: no client library tidies them first."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

from conversations_api.web.app import build_app
from tests.app import stubs

SHAPES = Path(__file__).with_name("contract.yaml")
STATE = {"services": stubs.SERVICES}
AUTHORIZED = (("Authorization", "Bearer good"),)
JSON = (*AUTHORIZED, ("Content-Type", "application/json"))
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """A whole answer; a header that occurs twice fails the test that looks at headers."""

    status: int
    header_list: list[tuple[str, str]]
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        found = dict(self.header_list)
        assert len(found) == len(self.header_list), f"repeated: {self.header_list}"
        return found

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errors(self) -> dict[str, list[str]]:
        """Messages by field."""
        found: dict[str, list[str]] = {}
        for error in self.json["errors"]:
            found.setdefault(error["field"], []).append(error["message"])
        return found


def shapes_app(**options: Any) -> ASGIApp:
    """The application with the odd contract of these tests and its stub handlers."""

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[dict[str, Any]]:
        yield dict(STATE)

    return build_app(services_lifespan=lifespan, contract_path=SHAPES, **options)


def ask(
    app: ASGIApp,
    target: str = "/api/v1/things",
    *,
    method: str = "GET",
    headers: Pairs = AUTHORIZED,
    body: bytes | Iterable[bytes] = b"",
) -> Reply:
    """One request. `target` is the raw path and query; a body in parts is sent chunked."""
    return asyncio.run(ask_async(app, target, method=method, headers=headers, body=body))


async def ask_async(
    app: ASGIApp,
    target: str = "/api/v1/things",
    *,
    method: str = "GET",
    headers: Pairs = AUTHORIZED,
    body: bytes | Iterable[bytes] = b"",
    part_seconds: float = 0.0,
) -> Reply:
    raw_path, _, query = target.encode("latin-1").partition(b"?")
    sent = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if not isinstance(body, bytes):
        sent.append((b"transfer-encoding", b"chunked"))
    elif body:
        sent.append((b"content-length", str(len(body)).encode()))
    parts = [body] if isinstance(body, bytes) else list(body)
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    collected: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(part_seconds)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        collected.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": sent,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": dict(STATE),
    }
    await app(scope, receive, send)
    start, *rest = collected
    return Reply(
        start["status"],
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
        b"".join(message.get("body", b"") for message in rest),
    )


def say(port: int, *parts: bytes, seconds: float = 30.0) -> bytes:
    """Raw bytes over TCP; everything that comes back until the server closes or is silent for a moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break  # the server has answered and closed without reading on
        return hear(connection)


def hear(connection: socket.socket) -> bytes:
    """One whole answer, by its Content-Length; what there is when the server closes before."""
    heard = b""
    while True:
        head, separator, body = heard.partition(b"\r\n\r\n")
        if separator:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths and len(body) >= int(lengths[0].partition(b":")[2]):
                return heard
        try:
            received = connection.recv(65536)
        except ConnectionResetError:
            return heard
        if not received:
            return heard
        heard += received


def status_of(heard: bytes) -> int:
    """The status of a raw answer."""
    return int(heard.split(b" ", 2)[1])
