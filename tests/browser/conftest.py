"""A real browser, and an installation with its documentation switched on for it to open.

The browser resolves no name: whatever a page asks of another host fails, and fails the test.
"""

import shutil
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from conversations_api import addresses
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.agencies import Urls
from tests.stack import Stack, running

# What keeps Chromium from talking to anybody by itself, and lets it run as root.
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)
_SECONDS = 30  # far more than anything takes, but on a machine that does other things, too
_NEVER_LOADED = ("data", "blob")


@pytest.fixture(scope="package")
def example_port() -> int:
    """Where the example front end is served: the one other origin that the API lets in."""
    return addresses.free_port()


@pytest.fixture(scope="package")
def site(
    postgres: EmbeddedPostgres,
    migrated_template: str,
    tmp_path_factory: pytest.TempPathFactory,
    example_port: int,
) -> Iterator[Stack]:
    name = "faro_browser"
    postgres.create_database(name, template=migrated_template)
    urls = Urls(*(postgres.url(role, name) for role in ("faro_app", "faro_worker", "faro_owner", "postgres")))
    settings = {"SERVE_DOCS": "true", "CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{example_port}"}
    with running(urls, tmp_path_factory.mktemp("site"), **settings) as stack:
        yield stack
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module: as long as Playwright runs, its event loop is the one of this thread."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed; on Debian: apt install chromium")
    expect.set_options(timeout=_SECONDS * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a visitor who was never here; the test fails where it asked another host or complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_SECONDS * 1000)
    shown = context.new_page()
    outside: list[str] = []
    complaints: list[str] = []

    def look(request: Request) -> None:
        address = urlsplit(request.url)
        if address.hostname != "127.0.0.1" and address.scheme not in _NEVER_LOADED:
            outside.append(request.url)

    def listen(message: ConsoleMessage) -> None:
        # That an answer is an error is told by the API's own tests.
        if message.type == "error" and "the server responded with a status of" not in message.text:
            complaints.append(message.text)

    context.on("request", look)
    shown.on("console", listen)
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    yield shown
    context.close()
    assert outside == []
    assert complaints == []


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
