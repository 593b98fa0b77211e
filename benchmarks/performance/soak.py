"""A million requests to one server, and what its processes hold in memory along the way.

Reads and sends in turn, in short runs of wrk, because between two of them the memory can be read.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.performance import data_set, load, report, servers, svg, writes
from benchmarks.performance.comparison import http_target, patiently
from benchmarks.performance.data_set import Size
from benchmarks.performance.servers import OURS
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

CONNECTIONS = 32
LOOKS = 50
# One send for so many reads, roughly as an inbox is used.
READS_PER_SEND = 9
LEAST_SECONDS = 2


@dataclass(frozen=True)
class Look:
    """Memory after so many requests: PSS and RSS in MiB of each API process, without the master that watches them."""

    requests: int
    seconds: float
    pss: tuple[float, ...]
    rss: tuple[float, ...]


def measure(
    postgres: Postgres, size: Size, *, requests: int, folder: Path, tell: Callable[[str], None]
) -> Iterator[Look]:
    """A look after every fiftieth part, beginning with the first, when the processes have warmed up."""
    database = data_set.ensure(postgres, size)
    data_set.forget_writes(postgres, database)
    keys, begin, done, seconds = servers.make_keys(), time.monotonic(), 0, LEAST_SECONDS
    with servers.running([OURS], postgres, database, keys, folder) as running:
        server, path = running[OURS], folder / "soak"
        load.write_requests(path, list(writes.mixed(postgres, database, keys, reads_per_send=READS_PER_SEND)))
        take = functools.partial(http_target(server, path, postgres_pid=postgres.record.server_pid), CONNECTIONS)
        while done < requests:
            tell(f"soak: {done:,} of {requests:,} requests, {time.monotonic() - begin:.0f} s")
            sample = patiently(functools.partial(take, seconds))
            done += sample.requests
            seconds = max(LEAST_SECONDS, round(requests / LOOKS / sample.rate))
            sizes = load.memory(server.pid)[1:]
            yield Look(
                done,
                time.monotonic() - begin,
                tuple(pss for pss, _ in sizes),
                tuple(rss for _, rss in sizes),
            )
    data_set.forget_writes(postgres, database)


def headline(looks: list[Look], command: str) -> Iterator[str]:
    """For docs/performance.md: the first look, and where it stood in the middle and at the end."""
    yield f"`{command}`; every look is in [benchmarks/results/soak.md](../benchmarks/results/soak.md).\n"
    chosen = [looks[0], looks[len(looks) // 2], looks[-1]]
    yield from report.table(
        ["requests answered", "PSS of each API process"],
        ([f"{look.requests:,}", ", ".join(f"{pss:.1f} MiB" for pss in look.pss)] for look in chosen),
    )


def write(looks: list[Look], description: Mapping[str, str], folder: Path, *, command: str) -> list[Path]:
    """`soak.md` and `soak.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = range(len(looks[0].pss))
    series = {
        f"process {number + 1}": [(float(look.requests), look.pss[number]) for look in looks] for number in processes
    }
    picture = svg.lines(
        "Memory (PSS) of each API process", series, x_label="requests answered", y_label="MiB", log_x=False
    )
    (folder / "soak.svg").write_text(picture, encoding="utf-8")
    lines = ["# Memory over many requests, as measured\n", f"`{command}` wrote this page.\n"]
    lines += report.table(["", ""], ([name, value] for name, value in description.items()))
    lines += [
        f"Inbox pages, message pages and sends ({READS_PER_SEND} reads for a send) at {CONNECTIONS} connections.\n",
        "![Memory over the requests](soak.svg)\n",
    ]
    head = ["requests", "seconds", *(f"PSS {n + 1}, MiB" for n in processes), *(f"RSS {n + 1}, MiB" for n in processes)]
    lines += report.table(
        head,
        (
            [f"{look.requests:,}", f"{look.seconds:.0f}", *(f"{size:.1f}" for size in (*look.pss, *look.rss))]
            for look in looks
        ),
    )
    (folder / "soak.md").write_text("\n".join(lines), encoding="utf-8")
    return [folder / "soak.md", folder / "soak.svg"]
