"""The `serve` command: gunicorn with uvicorn workers, each of which builds the application after the fork.

The master holds the socket and watches over the processes; nothing that must not be shared (database connections,
the event loop, threads) exists before they are forked. What it has imported by then they share.
"""

import socket
import warnings
from typing import Any

import uvloop
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from starlette.types import ASGIApp

from conversations_api import addresses, child_processes, metrics_server, tracing, wiring
from conversations_api import logging as service_logging
from conversations_api.settings import Settings
from conversations_api.web import app, http_protocol
from conversations_api.web.lanes import Limits

with warnings.catch_warnings():
    # Its successor, the distribution uvicorn-worker, is this same class.
    warnings.simplefilter("ignore", DeprecationWarning)
    from uvicorn.workers import UvicornWorker

# A process that has been told to stop ends within this, whatever is still under way.
GRACEFUL_SECONDS = 15
BACKLOG = 1024
# Longer than the idle timeout of common proxies (60 s), so that it is the proxy who closes an idle connection.
KEEP_ALIVE_SECONDS = 75
# A process that does not even get to say that it lives is replaced.
UNRESPONSIVE_SECONDS = 60


class Worker(UvicornWorker):
    """One process. It reads no X-Forwarded-* header, writes no Server header and no access log: the edge logs."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012  # as the base class declares it
        "loop": f"{uvloop.__name__}:new_event_loop",
        "http": http_protocol.HttpProtocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACEFUL_SECONDS - 2,
    }


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """Gunicorn, configured by our settings alone: it reads neither a file nor the environment."""

    def __init__(self, settings: Settings, metrics_listener: socket.socket | None) -> None:
        self._settings = settings
        self._metrics_listener = metrics_listener
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        options = {
            "bind": f"[{settings.host}]:{settings.port}"
            if ":" in settings.host
            else f"{settings.host}:{settings.port}",
            "workers": settings.processes,
            "worker_class": Worker,
            "backlog": BACKLOG,
            "keepalive": KEEP_ALIVE_SECONDS,
            "timeout": UNRESPONSIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "logger_class": _Log,
            "loglevel": settings.log_level.lower(),
            "control_socket_disable": True,
            "post_fork": _forked,
            "child_exit": _ended,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> ASGIApp:
        """The application, in a process that has just been forked."""
        settings = self._settings
        # The worker class has taken uvicorn's loggers to gunicorn's handlers, of which there are none.
        service_logging.configure(settings.log_level)
        if self._metrics_listener is not None:
            metrics_server.start(self._metrics_listener)
        tracing.start(settings, "serve")
        return tracing.Traced(
            app.build_app(
                services_lifespan=wiring.services_lifespan(settings),
                serve_docs=settings.serve_docs,
                cors_allowed_origins=settings.cors_allowed_origins,
                limits=Limits(handler_threads=settings.handler_threads),
            )
        )


class _Log(glogging.Logger):  # type: ignore[misc]
    def setup(self, cfg: Any) -> None:
        """In place of gunicorn's own handlers: everything goes out as our JSON lines."""
        self.cfg = cfg
        self._access_log_enabled = False
        service_logging.configure(cfg.loglevel.upper())


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises UnsafeDatabase, DatabaseUnavailable, AddressInUse and TracingNotInstalled before it starts.
    """
    service_logging.configure(settings.log_level)
    tracing.check(settings)
    wiring.check_database(settings.database_url)
    # Gunicorn would try for five seconds, and say so in its own words.
    addresses.check(settings.host, settings.port)
    Server(settings, metrics_server.listen(settings)).run()


def _forked(arbiter: Any, _worker: Any) -> None:
    child_processes.die_with(arbiter.pid)


def _ended(_arbiter: Any, worker: Any) -> None:
    metrics_server.forget_process(worker.pid)
