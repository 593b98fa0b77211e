"""One quiet agency: by itself, beside one that asks for too much or floods, beside connections that idle and drip."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from benchmarks.open_loop import NOT_SENT, Client, Reply, at_rate
from benchmarks.overload import slow
from benchmarks.overload.plan import Plan
from benchmarks.overload.service import Service, fill
from benchmarks.overload.times import percentile, times
from tenancy.rate_limits import WINDOW_SECONDS

DIFFERENT_REQUESTS = 600
WHOLE_ANSWERS = (200, 201, 503)


@dataclass(frozen=True)
class Neighbours:
    """What the quiet agency was answered by itself, beside one that asks for twice its limit, beside a flood and beside
    slow connections; and the flood."""

    alone: list[Reply] = field(default_factory=list)
    doubled: list[Reply] = field(default_factory=list)
    flooded: list[Reply] = field(default_factory=list)
    slowed: list[Reply] = field(default_factory=list)
    flood: list[Reply] = field(default_factory=list)
    connections: int = 0

    def wrong(self) -> list[str]:
        """What may not happen however slow the machine is: the flood's limit is not the quiet one's."""
        odd = Counter(
            one.status for one in [*self.doubled, *self.flooded, *self.slowed] if one.status not in WHOLE_ANSWERS
        )
        return [f"answers to a quiet agency that are neither good nor 503: {dict(odd)}"] if odd else []

    def rows(self) -> dict[str, str]:
        """The figures by their names."""
        flood = Counter(reply.status for reply in self.flood if reply.status != NOT_SENT)
        return {
            "a quiet agency by itself, p50 / p99": self._beside(self.alone),
            "beside one that asks for twice its limit": self._beside(self.doubled),
            "beside one that floods": self._beside(self.flooded),
            "what the flood was answered": ", ".join(f"{number:,} x {status}" for status, number in flood.items()),
            f"beside {self.connections:,} idle and slow connections": self._beside(self.slowed),
        }

    def _beside(self, replies: list[Reply]) -> str:
        good, usual = accepted(replies), percentile(accepted(self.alone), 0.99)
        share = percentile(good, 0.99) / usual if usual else 0.0
        return f"{times(good)}, p99 {share:.2f} times of by itself; {len(good):,} of {len(replies):,} accepted"


def accepted(replies: list[Reply]) -> list[Reply]:
    """Those that did what was asked for."""
    return [reply for reply in replies if 200 <= reply.status < 300]


async def beside(plan: Plan, service: Service, capacity: float, progress: Callable[[str], None]) -> Neighbours:
    """`capacity` is how many requests a second may be had; the flood asks for `plan.factor` times of it."""
    loud, quiet = service.agencies[:2]
    client = Client(service.port, plan.connections)
    await fill(service, client)
    seconds = plan.seconds * 0.1
    await client.back_to_back(2, seconds / 5, service.asking(loud))

    async def ask() -> list[Reply]:
        before = len(client.replies)
        await client.at_rate(plan.quiet, seconds, service.asking(quiet))
        return client.replies[before:]

    progress("a quiet agency by itself")
    alone = await ask()
    requests = list(map(service.asking(loud), range(DIFFERENT_REQUESTS)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(time.time).result()  # it is there

        async def ask_beside(rate: float) -> tuple[list[Reply], list[Reply]]:
            noise = asyncio.get_running_loop().run_in_executor(
                process, at_rate, service.port, plan.connections, rate, seconds, requests
            )
            return await asyncio.gather(ask(), noise)

        progress("a quiet agency beside one that asks for twice its limit")
        doubled, _ = await ask_beside(2 * plan.limit / WINDOW_SECONDS)
        progress("a quiet agency beside one that floods")
        flooded, flood = await ask_beside(capacity * plan.factor)
    progress("a quiet agency beside idle and slow connections")
    async with slow.held(service.port, plan.slow, service.tokens[loud.id]):
        slowed = await ask()
    client.close()
    return Neighbours(alone, doubled, flooded, slowed, flood, plan.slow)
