"""The API as `serve` builds it, in a thread of this process, on a loopback port."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from conversations_api import settings, wiring
from conversations_api.settings import Settings
from conversations_api.web.app import build_app
from conversations_api.web.http_protocol import HttpProtocol
from conversations_api.web.lanes import Limits
from tenancy.transaction import Database
from tenancy.twilio_credentials import generate_key
from tests.agencies import ACCOUNT_SID, Urls
from tests.api_client import AUDIENCE, AUTH_TOKEN, ISSUER, PUBLIC_BASE_URL, PUBLIC_KEY, Api

SECRETS_KEY = generate_key()
# No request of a test may be shed because the machine is busy.
PATIENT = Limits(queue_seconds=60.0)


def make_settings(urls: Urls, **variables: str) -> Settings:
    """The settings of `serve` for one database, read as they are from the environment."""
    environment = {
        "DATABASE_URL": urls.app,
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_PUBLIC_KEY": PUBLIC_KEY,
        "PUBLIC_BASE_URL": PUBLIC_BASE_URL,
        "SECRETS_KEY": SECRETS_KEY,
        "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        "RATE_LIMIT_REQUESTS_PER_MINUTE": "0",
        "RATE_LIMIT_SENDS_PER_MINUTE": "0",
    }
    return settings.read("serve", environment | variables)


def make_app(configuration: Settings, *, limits: Limits = PATIENT) -> ASGIApp:
    """The application as `serve` builds it, and a pool that takes back no connection with an agency bound."""

    @asynccontextmanager
    async def lifespan(_app: object) -> Any:
        made = wiring.make_services(configuration)
        made.database.close()
        pool = Database(configuration.database_url, pool_size=made.database.pool_size, check_bindings=True)
        yield {"services": replace(made, database=pool)}
        pool.close()

    return build_app(services_lifespan=lifespan, limits=replace(limits, handler_threads=configuration.handler_threads))


@contextmanager
def listening(application: ASGIApp) -> Iterator[int]:
    """Serve as `serve` does, in a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    # As gunicorn does: else an answer on a kept connection waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(application, http=HttpProtocol, ws="none", log_config=None, server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@contextmanager
def served(urls: Urls, *, limits: Limits = PATIENT, **variables: str) -> Iterator[Api]:
    """An API of a test's own over a database of its own; `variables` are settings."""
    with listening(make_app(make_settings(urls, **variables), limits=limits)) as port:
        api = Api(port, urls)
        try:
            yield api
        finally:
            api.close()
