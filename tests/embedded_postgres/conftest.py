"""Real servers in folders of their own; what they left outside, under /var/tmp, is removed again."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations_api import embedded_postgres
from conversations_api.embedded_postgres import EmbeddedPostgres


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """Not pytest's tmp_path: that one is closed to others, and most folders are not."""
    parent = Path(tempfile.mkdtemp(prefix="faro-test-")).resolve()
    parent.chmod(0o755)
    yield parent / "data"
    embedded_postgres.remove(parent / "data")
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """For tests that only look, or that create databases of their own."""
    with EmbeddedPostgres.ephemeral(fsync=False) as running:
        yield running
