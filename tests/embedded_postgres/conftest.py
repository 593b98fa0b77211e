"""Real servers in folders of their own; what they left outside, under /var/tmp, is removed again."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations_api import embedded_postgres
from conversations_api.embedded_postgres import EmbeddedPostgres


@pytest.fixture
def new_folder() -> Iterator[Path]:
    """Not pytest's tmp_path: that one is closed to others, and most folders are not."""
    parent = Path(tempfile.mkdtemp(prefix="faro-test-")).resolve()
    parent.chmod(0o755)
    yield parent / "data"
    embedded_postgres.remove(parent / "data")
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def started_once() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="faro-test-")).resolve()
    parent.chmod(0o755)
    with EmbeddedPostgres(parent / "data"):
        pass
    yield parent / "data"
    shutil.rmtree(parent)


@pytest.fixture
def data_folder(new_folder: Path, started_once: Path) -> Path:
    """A folder that a server ran on before: a copy, since initdb costs more than most tests."""
    subprocess.run(["cp", "-a", started_once, new_folder], check=True)
    return new_folder


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """For tests that only look, or that create databases of their own."""
    with EmbeddedPostgres.ephemeral(fsync=False) as running:
        yield running
