"""Ours beside the peers, in interleaved rounds: what disturbs the machine meanwhile disturbs all of them.

A ratio is taken within one round, where both stood next to each other, and told by its median, minimum and maximum over
the rounds.
"""

import functools
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import pgbench
from benchmarks.performance import data_set, load
from benchmarks.performance.asked import Page
from benchmarks.performance.load import LoadFailed, Sample
from benchmarks.performance.servers import OURS, Running
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

# With the statement of ours, and with the plain rows of the peers.
PGBENCH, PGBENCH_PLAIN = "pgbench", "pgbench, plain rows"
ATTEMPTS = 5

Measure = Callable[[int, int], Sample]  # connections, seconds


@dataclass(frozen=True)
class Comparison:
    """The samples of every server, one for each round."""

    title: str
    connections: int
    samples: Mapping[str, Sequence[Sample]]

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.connections} connection{'s' * (self.connections > 1)}"

    def median(self, name: str, attribute: str) -> float:
        return float(statistics.median(getattr(sample, attribute) for sample in self.samples[name]))

    def ratios(self, peer: str, attribute: str = "rate") -> list[float]:
        """Ours by the peer's, round by round."""
        pairs = zip(self.samples[OURS], self.samples[peer], strict=True)
        return [getattr(ours, attribute) / getattr(theirs, attribute) for ours, theirs in pairs]


def measure(
    title: str,
    targets: Mapping[str, Measure],
    *,
    connections: int,
    rounds: int,
    seconds: int,
    warm_up: bool,
    tell: Callable[[str], None],
) -> Comparison:
    """A B C A B C ..., each for so many seconds; a `warm_up` of one second goes before and does not count."""
    samples: dict[str, list[Sample]] = {name: [] for name in targets}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, target in targets.items():
            tell(f"{title}, {connections} at once, round {number} of {rounds}: {name}")
            sample = patiently(functools.partial(target, connections, seconds if number else 1))
            if number:
                samples[name].append(sample)
    return Comparison(title, connections, samples)


def patiently(run: Callable[[], Sample]) -> Sample:
    """A server that has to refuse because the machine is busy with other things is asked again."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return run()
        except LoadFailed:
            if attempt == ATTEMPTS:
                raise
            time.sleep(2)
    raise AssertionError("unreachable")


def http_targets(
    running: Mapping[str, Running], pages: Sequence[Page], folder: Path, *, postgres_pid: int
) -> dict[str, Measure]:
    """Each server with the pages in its own words."""
    targets = {}
    for name, server in running.items():
        path = folder / f"{name.lower().replace(' ', '-')}-{'list' if pages[0].conversation_id is None else 'thread'}"
        load.write_requests(path, [page.asked_of(name) for page in pages])
        targets[name] = http_target(server, path, postgres_pid=postgres_pid)
    return targets


def http_target(server: Running, requests: Path, *, postgres_pid: int) -> Measure:
    def run(connections: int, seconds: int) -> Sample:
        return load.run(server, requests, connections=connections, seconds=seconds, postgres_pid=postgres_pid)

    return run


def pgbench_targets(
    postgres: Postgres, database: str, pages: Sequence[Page], folder: Path, *, postgres_pid: int
) -> dict[str, Measure]:
    """No server in between; its CPU is not told, because the client's would be in it."""
    agency_ids = [page.agency_id for page in pages]
    statements = {PGBENCH: pgbench.our_list(), PGBENCH_PLAIN: pgbench.plain_list()}
    return {
        name: _pgbench_target(
            data_set.dsn(postgres, "faro_app", database),
            pgbench.write_scripts(folder / name.replace(", ", "-").replace(" ", "-"), agency_ids, parts),
            postgres_pid=postgres_pid,
        )
        for name, parts in statements.items()
    }


def _pgbench_target(dsn: str, scripts: Sequence[Path], *, postgres_pid: int) -> Measure:
    def run(connections: int, seconds: int) -> Sample:
        before = load.cpu_seconds(postgres_pid)
        try:
            # A second more, because connecting takes of its time; its rate leaves that out.
            count, rate, latency = pgbench.run(dsn, scripts, clients=connections, seconds=seconds + 1)
        except (subprocess.CalledProcessError, ValueError) as error:
            raise LoadFailed(f"pgbench: {error}") from error
        spent = 1e3 * (load.cpu_seconds(postgres_pid) - before) / count
        return Sample(count, count / rate, latency, latency, latency, cpu=0.0, postgres_cpu=spent)

    return run
