"""Everything that one run measured, and how it stands against what was set out to reach."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.performance import growth
from benchmarks.performance.asked import LIST, MESSAGES
from benchmarks.performance.comparison import PGBENCH, Comparison
from benchmarks.performance.growth import Point
from benchmarks.performance.sending import Sending
from benchmarks.performance.servers import CONNEXION, FASTAPI, FLASK, OURS, POSTGRAPHILE
from benchmarks.performance.validation_share import Share
from benchmarks.performance.writes import WEBHOOK


@dataclass
class Results:
    """`memory`: (PSS, RSS) in MiB of each process of each server. `left_out`: what could not be measured, and why."""

    command: str
    machine: Mapping[str, str]
    data_set: str
    comparisons: list[Comparison] = field(default_factory=list)
    writes: Comparison | None = None
    growth: list[Point] = field(default_factory=list)
    sending: Sending | None = None
    shares: list[Share] = field(default_factory=list)
    memory: dict[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One thing to reach. `values` are measured in one run; the median counts."""

    what: str
    target: str
    values: Sequence[float]
    reached: bool
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def rows(results: Results) -> Iterator[Row]:
    """In the order of docs/performance.md."""
    for comparison in results.comparisons:
        yield from _ratios(comparison)
    for share in results.shares:
        what = f"response validation, {share.operation}: share of a request's CPU"
        yield _at_most(what, 5.0, [100 * one for one in share.shares], unit=" %")
    yield from _writes(results.writes)
    for operation, what in ((MESSAGES, "messages page"), (LIST, "conversation list with total")):
        if any(point.operation == operation for point in results.growth):
            value = growth.spread(results.growth, operation)
            yield _at_most(f"{what}: slowest p50 by the one of the smallest, first page", 1.5, [value])
    if results.sending is not None:
        yield _at_least("worker by a bare client at concurrency 64", 0.9, results.sending.ratios)
        yield _at_least("worker: messages under way in one process", 64, [results.sending.under_way_most])
    if OURS in results.memory:
        processes = [pss for pss, _ in results.memory[OURS][1:]]
        yield _at_most("memory (PSS) of an API process", 120, processes, unit=" MiB")


def _ratios(comparison: Comparison) -> Iterator[Row]:
    least = {FLASK: 1.0, FASTAPI: 1.0, CONNEXION: 4.0, POSTGRAPHILE: 1.5, PGBENCH: 0.25}
    for peer, target in least.items():
        if peer in comparison.samples:
            yield _at_least(f"{comparison.heading}: requests per second by {peer}'s", target, comparison.ratios(peer))
    if FLASK in comparison.samples:
        yield _at_most(f"{comparison.heading}: CPU per request by {FLASK}'s", 1.1, comparison.ratios(FLASK, "cpu"))


def _writes(writes: Comparison | None) -> Iterator[Row]:
    if writes is None:
        return
    if CONNEXION in writes.samples:
        yield _at_least(f"POST message by {CONNEXION}'s", 3.0, writes.ratios(CONNEXION))
    yield _at_least("inbound webhooks by POST message", 0.8, [1 / ratio for ratio in writes.ratios(WEBHOOK)])


def _at_least(what: str, target: float, values: Sequence[float], unit: str = "") -> Row:
    return Row(what, f"at least {target:g}{unit}", values, statistics.median(values) >= target, unit)


def _at_most(what: str, target: float, values: Sequence[float], unit: str = "") -> Row:
    return Row(what, f"at most {target:g}{unit}", values, statistics.median(values) <= target, unit)
