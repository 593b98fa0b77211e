"""A process that crashes leaves no copy of its memory on the disk."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.agencies import Urls
from tests.stack import running


@pytest.fixture
def dumps_allowed() -> Iterator[None]:
    """Whoever starts the service would have core files written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert hard != 0, "this test can only fail where core files may be written"
    resource.setrlimit(resource.RLIMIT_CORE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def core_limit(pid: int) -> str:
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    return line.split()[4]


@pytest.mark.usefixtures("dumps_allowed")
def test_no_process_of_the_service_may_leave_a_core_file(urls: Urls, tmp_path: Path) -> None:
    with running(urls, tmp_path) as stack:
        started = [psutil.Process(child.process.pid) for child in stack.children.values()]
        processes = started + [child for process in started for child in process.children(recursive=True)]
        assert len(processes) >= 4  # serve with two processes of its own, and the worker
        assert {core_limit(process.pid) for process in processes} == {"0"}
    assert core_limit(psutil.Process().pid) == "4096"
