"""The generated clients, made once for the whole run, and the mock that they can be pointed at."""

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

import api
from conversations_api import addresses
from tests.sdk.clients import Workspace
from tests.sdk.generate import ToolMissing, node_program


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("sdk"))


@pytest.fixture(scope="session")
def mock_url() -> Iterator[str]:
    """Where Prism serves the contract, as `make mock` starts it."""
    try:
        prism = node_program("prism")
    except ToolMissing as missing:
        pytest.skip(str(missing))
    port = addresses.free_port()
    command = [prism, "mock", "--port", str(port), "--verboseLevel", "error", api.CONTRACT]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while not _listens(port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
