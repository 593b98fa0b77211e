"""What a run came to: the figures, and what may not happen however slow the machine is."""

from collections import Counter
from dataclasses import dataclass

from benchmarks.open_loop import NO_ANSWER, NOT_SENT, Reply
from benchmarks.overload.neighbours import Neighbours
from benchmarks.overload.plan import Plan
from benchmarks.overload.service import SHED_SECONDS, Shed
from benchmarks.overload.times import times

RECOVERY_SECONDS = 30.0
WAITING_CLIENTS = 24


@dataclass
class Findings:
    """What the phases of a run came to."""

    plan: Plan
    capacity: float
    idle: list[Reply]
    api: list[Reply]
    webhooks: list[Reply]
    memory: list[float]
    recovery: float | None
    latest: float
    shed: Shed
    neighbours: Neighbours

    @property
    def refused(self) -> list[Reply]:
        return [reply for reply in self.api if reply.status == 503]

    @property
    def accepted(self) -> list[Reply]:
        return [reply for reply in self.api if 200 <= reply.status < 300]

    def wrong(self) -> list[str]:
        """What may not happen however slow the machine is."""
        statuses = Counter(reply.status for reply in self.api)
        odd = {status: number for status, number in statuses.items() if status not in (200, 201, 503, NOT_SENT)}
        told = sum(reply.retry_after for reply in self.refused)
        lost = Counter(reply.status for reply in self.webhooks if reply.status != 200)
        findings = [f"answers of the API that are neither good nor 503: {odd}"] if odd else []
        findings += [f"503 without Retry-After: {len(self.refused) - told}"] if told < len(self.refused) else []
        findings += [f"webhooks that were not taken: {dict(lost)}"] if lost else []
        findings += self.neighbours.wrong()
        findings += [] if self.recovery is not None else [f"not itself again after {RECOVERY_SECONDS:.0f} s"]
        return findings


def table(found: Findings) -> str:
    """The figures, as rows of Markdown."""

    plan, sent = found.plan, [reply for reply in found.api if reply.status != NOT_SENT]
    answered = [reply for reply in [*sent, *found.webhooks] if reply.status > NO_ANSWER]
    shed_share = len(found.refused) / max(1, len(sent))
    quarter = max(1, len(found.memory) // 4)
    first, last = (sum(part) / len(part) for part in (found.memory[:quarter], found.memory[-quarter:]))
    taken = Counter(reply.status == 200 for reply in found.webhooks)
    rows = {
        "a client by itself, p50 / p99": times(found.idle),
        f"answered to {WAITING_CLIENTS} clients that wait": f"{found.capacity:,.0f} requests a second",
        "asked for": f"{len(sent):,} requests, {found.capacity * plan.factor:,.0f} a second",
        "accepted, p50 / p99 / longest": f"{len(found.accepted):,}: {times(found.accepted, most=True)}",
        "shed with 503 and Retry-After": f"{len(found.refused):,} ({shed_share:.0%})",
        "shed, p50 / p99 / longest": times(found.refused, most=True),
        f"shed within {SHED_SECONDS * 1000:.0f} ms by the server's clock": (
            f"{found.shed.at_once:,.0f} of {found.shed.all:,.0f} ({found.shed.at_once / max(1, found.shed.all):.2%})"
        ),
        f"had waited for the longest time, and were told within {SHED_SECONDS * 1000:.0f} ms of its end": (
            f"{found.shed.waited_and_told:,.0f} of {found.shed.waited:,.0f}"
        ),
        "longest answer of all": f"{max((reply.seconds for reply in answered), default=0):.2f} s",
        "webhooks taken": f"{taken[True]:,} of {taken.total():,}, at {plan.webhooks:g} a second",
        "webhooks, p50 / p99 / longest": times(found.webhooks, most=True),
        "memory, first and last quarter": f"{first:.0f} MB, {last:.0f} MB",
        "itself again after": "never" if found.recovery is None else f"{found.recovery:.2f} s",
        "the client itself was late by at most": f"{found.latest * 1000:,.0f} ms",
        "requests that the client could not send": f"{len(found.api) - len(sent):,}",
        **found.neighbours.rows(),
    }
    return "\n".join(f"| {name} | {figure} |" for name, figure in rows.items())
