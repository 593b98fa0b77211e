"""An installation through which recognisable secrets are sent, in every place and through every fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import pgbouncer
from conversations_api import addresses
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.agencies import Urls
from tests.privacy.scenario import Exposure, expose
from tests.stack import database_of_its_own, running

IMPATIENT = {
    "SEND_CONNECT_TIMEOUT_SECONDS": "1",
    "SEND_DEADLINE_SECONDS": "2",
    "RECONCILE_GRACE_SECONDS": "3",
    "RECONCILE_INTERVAL_SECONDS": "0.3",
    "RECONCILE_HOLD_SECONDS": "10",
    "STATUS_POLL_SECONDS": "4",
    "INBOUND_CHECK_SECONDS": "2",
    "LOG_LEVEL": "DEBUG",
}


@contextmanager
def pooled(urls: Urls) -> Iterator[tuple[Urls, list[Path]]]:
    """The same database, through PgBouncer for `serve` where there is one; and its log."""
    if pgbouncer.PROGRAM is None:
        yield urls, []
        return
    with pgbouncer.running_with_log(urls.app, server_connections=20) as (url, log):
        yield replace(urls, app=url), [log]


@pytest.fixture(scope="session")
def exposure(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exposure]:
    folder: Path = tmp_path_factory.mktemp("privacy")
    ports = addresses.free_port(), addresses.free_port()
    with (
        database_of_its_own(postgres, migrated_template) as direct,
        pooled(direct) as (urls, pooler_logs),
        running(
            urls, folder, commands=("serve",), METRICS_PORT=str(ports[0]), TMPDIR=str(folder), **IMPATIENT
        ) as stack,
    ):
        stack.environment["METRICS_PORT"] = str(ports[1])
        stack.start("worker")
        exposure = Exposure(stack, ports, [postgres.data_folder / "postgres.log", *pooler_logs])
        expose(exposure)
        yield exposure
