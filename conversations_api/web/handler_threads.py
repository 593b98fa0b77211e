"""Runs Flask in a fixed number of threads: one hop there, one back.

FlaskApp runs handlers through a2wsgi, always in ten threads, and crosses between thread and loop for every part of a
body and of an answer, because either may be a stream. Behind the edge neither is: a body is whole before it gets here,
and an answer is held until it is whole.
"""

import asyncio
import contextvars
import io
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import Receive, Scope, Send


class HandlerThreads:
    """An ASGI application around the WSGI application of Flask; `threads` is how many requests it handles at once."""

    def __init__(self, wsgi_app: Any, threads: int) -> None:
        self._wsgi_app = wsgi_app
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="handler")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only requests reach Flask")
        message = await receive()
        # What the edge and Connexion have bound to this request is bound in the thread as well.
        context = contextvars.copy_context()
        status, headers, body = await asyncio.get_running_loop().run_in_executor(
            self._executor, context.run, self._call, scope, message["body"]
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _call(self, scope: Scope, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> None:
            started.append((status, headers))

        parts: Iterable[bytes] = self._wsgi_app(_environ(scope, body), start_response)
        try:
            answer = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        status, headers = started[-1]
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return int(status[:3]), encoded, answer


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """PEP 3333's view of the request. `asgi.scope` is where Connexion looks for the scope."""
    host, port = scope.get("server") or ("localhost", 80)
    environ = {
        "asgi.scope": scope,
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        # WSGI's strings are bytes in disguise.
        "PATH_INFO": scope["path"].encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").upper().replace("-", "_"), raw_value.decode("latin-1")
        name = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ
