"""Load by wrk, and what it cost: latency and rate as the client sees them, CPU as the process trees account for it."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.performance.servers import Running

SCRIPT = Path(__file__).parent / "wrk/requests.lua"
_runs = itertools.count(1)


class LoadFailed(Exception):
    """wrk is missing or stopped, or a server answered anything but success; the message says which."""


@dataclass(frozen=True)
class Request:
    """One request; `{unique}` in a header is different each time it is sent. A body has no line break."""

    method: str
    path: str
    token: str = ""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""

    @property
    def line(self) -> str:
        headers = "|".join(f"{name}:{value}" for name, value in self.headers)
        return "\t".join((self.method, self.path, self.token, self.content_type, headers, self.body))


@dataclass(frozen=True)
class Sample:
    """One run of wrk. Latencies in milliseconds; CPU in milliseconds per request, of the server and of PostgreSQL."""

    requests: int
    seconds: float
    p50: float
    p90: float
    p99: float
    cpu: float
    postgres_cpu: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def write_requests(path: Path, requests: Sequence[Request]) -> Path:
    path.write_text("".join(f"{request.line}\n" for request in requests), encoding="utf-8")
    return path


def run(
    server: Running, requests: Path, *, connections: int, seconds: int, postgres_pid: int, first: int | None = None
) -> Sample:
    """Load the server. `first`: the requests may be sent once only, and this one is the first.

    Raises LoadFailed when anything but success was answered: what is refused is quick.
    """
    if shutil.which("wrk") is None:
        raise LoadFailed("wrk is not installed (Debian: apt install wrk)")
    unique = f"{os.getpid()}-{next(_runs)}-"
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "20s", "-s", str(SCRIPT)]
    command += [server.base_url, str(requests), unique, "any" if first is None else str(first)]
    before = cpu_seconds(server.pid), cpu_seconds(postgres_pid)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    after = cpu_seconds(server.pid), cpu_seconds(postgres_pid)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode != 0 or not lines or "too few requests" in finished.stderr:
        raise LoadFailed(f"wrk against {server.name}: {(finished.stderr or finished.stdout)[-500:]}")
    summary = json.loads(lines[-1])
    count = summary["requests"]
    if summary["refused"] or summary["broken"] or not count:
        raise LoadFailed(f"{server.name}: {summary}")
    return Sample(
        requests=count,
        seconds=summary["microseconds"] / 1e6,
        p50=summary["p50"] / 1e3,
        p90=summary["p90"] / 1e3,
        p99=summary["p99"] / 1e3,
        cpu=1e3 * (after[0] - before[0]) / count,
        postgres_cpu=1e3 * (after[1] - before[1]) / count,
    )


def tree(pid: int) -> list[psutil.Process]:
    """The process and everything below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, with that of children that have ended."""
    seconds = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def memory(pid: int) -> list[tuple[float, float]]:
    """(PSS, RSS) in MiB of each process of the tree, the root first."""
    sizes = []
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            sizes.append((full.pss / 2**20, full.rss / 2**20))
    return sizes
