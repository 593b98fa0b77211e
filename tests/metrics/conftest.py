"""An installation whose two processes of `serve`, and whose worker, are scraped on ports of their own."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from conversations_api import addresses
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.metrics.scraping import Page, scrape
from tests.stack import Stack, database_of_its_own, running


@dataclass
class Observed:
    """The installation, and where its metrics are."""

    stack: Stack
    api_port: int
    worker_port: int

    def api(self) -> Page:
        return scrape(self.api_port)

    def worker(self) -> Page:
        return scrape(self.worker_port)


@pytest.fixture(scope="module")
def observed(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    api_port, worker_port = addresses.free_port(), addresses.free_port()
    with database_of_its_own(postgres, migrated_template) as urls:
        settings = {"WEB_CONCURRENCY": "2", "METRICS_PORT": str(api_port)}
        with running(urls, tmp_path_factory.mktemp("observed"), commands=("serve",), **settings) as stack:
            stack.environment["METRICS_PORT"] = str(worker_port)
            stack.start("worker")
            yield Observed(stack, api_port, worker_port)
