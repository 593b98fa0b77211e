"""Where metrics are read: `/metrics` on a port of its own, never on the one that the public reaches.

The processes of `serve` share the listening socket, which is bound before they are forked: whichever of them takes a
scrape adds up what all of them have written to their files, in a thread of its own.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from conversations_api import addresses, metrics
from conversations_api.settings import Settings
from delivery.metrics import REGISTRY
from tenancy.transaction import DatabaseUnavailable, OutcomeUnknown

logger = logging.getLogger(__name__)

PATH = "/metrics"
BACKLOG = 16
# Whoever sends or takes nothing for this long is hung up on.
SILENT_SECONDS = 5.0
SECONDS_BETWEEN_SAMPLES = 1.0
# A sample that still waits for the database holds up no one's end.
STOP_SECONDS = 1.0


def listen(settings: Settings) -> socket.socket | None:
    """The socket that METRICS_HOST and METRICS_PORT name, or None when metrics are not asked for.

    Raises AddressInUse.
    """
    if settings.metrics_port is None:
        return None
    listener = addresses.bind(settings.metrics_host, settings.metrics_port, setting="METRICS_PORT")
    listener.listen(BACKLOG)
    # Another process may have taken the connection that woke this one.
    listener.setblocking(False)
    return listener


def start(listener: socket.socket) -> None:
    """Answer scrapes, in a thread that lives as long as the process; not before a fork."""
    metrics.describe_build()
    server = _Server(listener, _only_metrics(make_wsgi_app(_registry())))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def forget_process(pid: int) -> None:
    """What a process that has ended had at the moment no longer counts; what it had counted stays counted."""
    if _is_shared():
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


@contextmanager
def sampling(
    settings: Settings, sample: Callable[[], None], seconds: float = SECONDS_BETWEEN_SAMPLES
) -> Iterator[None]:
    """Take a sample again and again while the block runs, the first one at once; none if metrics are not asked for."""
    if settings.metrics_port is None:
        yield
        return
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            try:
                sample()
            except (DatabaseUnavailable, OutcomeUnknown):
                pass  # others say so, and the age of the sample does
            except Exception:
                logger.exception("sampling_broke_off")
            stopping.wait(seconds)

    thread = threading.Thread(target=work, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(STOP_SECONDS)


def _is_shared() -> bool:
    return bool(values.ValueClass._multiprocess)


def _registry() -> CollectorRegistry:
    if not _is_shared():
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    return shared


Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _only_metrics(application: Application) -> Application:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == PATH:
            return application(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [f"Metrics are at {PATH}.\n".encode("ascii")]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is not worth a line, and what a client sends is none of ours."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, application: Application) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = host, port
        self.setup_environ()
        self.set_app(application)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left; the standard one prints a traceback."""
        logger.debug("scrape_broke_off", exc_info=True)
