"""A PostgreSQL that a test may stop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop, with a migrated database `faro`."""
    server = EmbeddedPostgres(tmp_path / "data")
    server.start()
    try:
        migrating.migrate(server.owner_url)
        yield server
    finally:
        server.stop()
