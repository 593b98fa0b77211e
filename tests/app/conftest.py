"""The application under test: in process, and behind a real server on a loopback port."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import ASGIApp

from conversations_api.web.http_protocol import HttpProtocol
from conversations_api.web.lanes import Limits
from tests.app import asking, stubs

# Short, so that what must time out does so soon; and long enough for a machine that is busy with other things.
BODY_SECONDS = 1.5


@pytest.fixture(scope="session")
def app() -> ASGIApp:
    return asking.shapes_app()


@pytest.fixture(autouse=True)
def fresh_stubs() -> None:
    """Each test sees only the calls that it caused."""
    stubs.calls.clear()
    stubs.proceed.clear()


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """A server with short limits, so that what must time out does so soon."""
    application = asking.shapes_app(limits=Limits(handler_threads=4, body_seconds=BODY_SECONDS, queue_seconds=60))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http=HttpProtocol, ws="none", log_config=None, server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    listener.close()
