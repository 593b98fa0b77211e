"""One run: the data set, all servers at once, and each part of the plan in turn."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import pgbench
from benchmarks.performance import (
    asked,
    comparison,
    data_set,
    equality,
    growth,
    load,
    machine,
    sending,
    servers,
    validation_share,
    writes,
)
from benchmarks.performance.asked import LIST
from benchmarks.performance.data_set import Size
from benchmarks.performance.results import Results
from benchmarks.performance.servers import HTTP_PEERS, OURS, Keys, Running
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

READS, GROWTH, WRITES, WORKER = PARTS = ("reads", "growth", "writes", "worker")
COMPARED_PAGES = 20


@dataclass(frozen=True)
class Plan:
    """How much of everything. `seconds` are those of one server in one round."""

    size: Size
    rounds: int
    seconds: int
    growth_rounds: int
    write_rounds: int
    write_seconds: int
    messages: int
    worker_rounds: int
    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = HTTP_PEERS
    connections: tuple[int, ...] = (32, 1)
    write_connections: int = 32
    warm_up: bool = True


FULL = Plan(data_set.FULL, 7, 3, 5, 7, 4, 6_000, 3)
QUICK = Plan(data_set.QUICK, 2, 1, 1, 2, 2, 1_000, 1)
TINY = Plan(data_set.TINY, 1, 1, 1, 1, 1, 30, 1, connections=(2,), write_connections=2, warm_up=False)


@dataclass(frozen=True)
class Rig:
    """Everything that runs, and what the parts have in common."""

    plan: Plan
    postgres: Postgres
    database: str
    keys: Keys
    folder: Path
    running: dict[str, Running]
    tell: Callable[[str], None]

    @property
    def postgres_pid(self) -> int:
        return self.postgres.record.server_pid


def measure(plan: Plan, postgres: Postgres, *, folder: Path, command: str, tell: Callable[[str], None]) -> Results:
    """Every part of the plan, on a running PostgreSQL; `folder` keeps logs and requests.

    Raises AnswersDiffer before anything is timed, and LoadFailed when a server goes on refusing.
    """
    database = data_set.ensure(postgres, plan.size)
    data_set.forget_writes(postgres, database)
    results = Results(command, machine.describe(postgres), describe(plan.size))
    results.left_out = {peer: why for peer in plan.peers if (why := servers.why_not(peer)) is not None}
    names = [OURS, *(peer for peer in plan.peers if peer not in results.left_out)]
    keys = servers.make_keys()
    with servers.running(names, postgres, database, keys, folder) as running:
        rig = Rig(plan, postgres, database, keys, folder, running, tell)
        for part, take in ((READS, read), (GROWTH, grow), (WRITES, write)):
            if part in plan.parts:
                take(rig, results)
    if WORKER in plan.parts:
        results.sending = sending.measure(
            postgres, database, keys, folder, messages=plan.messages, rounds=plan.worker_rounds, tell=tell
        )
    data_set.forget_writes(postgres, database)
    return results


def read(rig: Rig, results: Results) -> None:
    """Both GETs of every server, once all have answered the same; then what stands behind our figures."""
    pages = asked.pages(rig.postgres, rig.database, rig.keys)
    for title, asked_pages in pages.items():
        rig.tell(f"comparing the answers of {title}")
        equality.check(rig.running, asked_pages[:COMPARED_PAGES])
    for title, asked_pages in pages.items():
        targets = comparison.http_targets(rig.running, asked_pages, rig.folder, postgres_pid=rig.postgres_pid)
        if title == LIST and pgbench.binary() is not None:
            targets |= comparison.pgbench_targets(
                rig.postgres, rig.database, asked_pages, rig.folder, postgres_pid=rig.postgres_pid
            )
        of_title = [
            comparison.measure(
                title,
                targets,
                connections=connections,
                rounds=rig.plan.rounds,
                seconds=rig.plan.seconds,
                warm_up=rig.plan.warm_up,
                tell=rig.tell,
            )
            for connections in rig.plan.connections
        ]
        results.comparisons += of_title
        ours = targets[OURS]
        results.shares.append(
            validation_share.measure(
                rig.running[OURS],
                asked_pages,
                functools.partial(comparison.patiently, functools.partial(ours, rig.plan.connections[0], 1)),
                rounds=rig.plan.rounds,
                tell=rig.tell,
            )
        )
    results.memory = {name: load.memory(server.pid) for name, server in rig.running.items()}


def grow(rig: Rig, results: Results) -> None:
    results.growth = growth.measure(
        rig.running[OURS],
        rig.postgres,
        rig.database,
        rig.plan.size,
        rig.keys,
        rig.folder,
        postgres_pid=rig.postgres_pid,
        rounds=rig.plan.growth_rounds,
        seconds=1,
        tell=rig.tell,
    )


def write(rig: Rig, results: Results) -> None:
    results.writes = writes.measure(
        rig.running,
        rig.postgres,
        rig.database,
        rig.keys,
        rig.folder,
        postgres_pid=rig.postgres_pid,
        connections=rig.plan.write_connections,
        rounds=rig.plan.write_rounds,
        seconds=rig.plan.write_seconds,
        warm_up=rig.plan.warm_up,
        tell=rig.tell,
    )


def describe(size: Size) -> str:
    growth_agencies = ", ".join(f"{rows:,}" for rows in size.growth)
    threads = ", ".join(f"{rows:,}" for rows in size.threads)
    return (
        f"`{size.name}`: {size.agencies:,} agencies with {size.conversations:,} conversations and {size.messages:,} "
        f"messages together; beside them agencies with {growth_agencies} conversations, threads of {threads} messages, "
        f"and {size.writers} agencies that are written to"
    )
