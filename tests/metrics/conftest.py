"""An installation whose two processes of `serve`, and whose worker, are scraped on ports of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conversations_api import addresses
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.metrics.scraping import Page, scrape
from tests.stack import Stack, database_of_its_own, running

# A lost answer is looked into at once, and nobody waits long for a carrier that is on this machine.
IMPATIENT = {
    "SEND_CONNECT_TIMEOUT_SECONDS": "1",
    "SEND_DEADLINE_SECONDS": "2",
    "RECONCILE_GRACE_SECONDS": "3",
    "RECONCILE_INTERVAL_SECONDS": "0.3",
    "RECONCILE_HOLD_SECONDS": "20",
}


@dataclass
class Observed:
    """The installation, and where its metrics are; `temporary` is where `serve` may keep its files."""

    stack: Stack
    api_port: int
    worker_port: int
    temporary: Path

    def start_serve(self) -> None:
        self.stack.environment["METRICS_PORT"] = str(self.api_port)
        self.stack.start("serve")
        self.stack.environment["METRICS_PORT"] = str(self.worker_port)

    def api(self) -> Page:
        return scrape(self.api_port)

    def worker(self) -> Page:
        return scrape(self.worker_port)


@pytest.fixture(scope="module")
def observed(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    api_port, worker_port = addresses.free_port(), addresses.free_port()
    folder, temporary = tmp_path_factory.mktemp("observed"), tmp_path_factory.mktemp("temporary")
    settings = {"WEB_CONCURRENCY": "2", "METRICS_PORT": str(api_port), "TMPDIR": str(temporary), **IMPATIENT}
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, folder, commands=("serve",), **settings) as stack,
    ):
        stack.environment["METRICS_PORT"] = str(worker_port)
        stack.start("worker")
        yield Observed(stack, api_port, worker_port, temporary)
