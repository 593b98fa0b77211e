"""The phases of a run, one after the other."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.open_loop import Client, Reply
from benchmarks.overload.findings import RECOVERY_SECONDS, WAITING_CLIENTS, Findings
from benchmarks.overload.neighbours import Neighbours, beside
from benchmarks.overload.plan import Plan
from benchmarks.overload.service import Service, fill, serving
from benchmarks.overload.times import percentile


def run(plan: Plan, folder: Path, progress: Callable[[str], None] = lambda line: None) -> Findings:
    """All phases, on two installations, one after the other; `folder` keeps the log."""
    with serving(plan, folder) as service:
        found = asyncio.run(_phases(plan, service, progress))
    with serving(plan, folder, limit=plan.limit) as service:
        neighbours = asyncio.run(beside(plan, service, found.capacity, progress))
    return replace(found, neighbours=neighbours)


async def _phases(plan: Plan, service: Service, progress: Callable[[str], None]) -> Findings:
    client = Client(service.port, plan.connections)
    await fill(service, client)
    progress("warming up")
    await client.back_to_back(8, plan.seconds * 0.03, service.asking())
    progress("a client by itself")
    idle = await _after(client, client.at_rate(10, plan.seconds * 0.07, service.asking()))
    progress(f"{WAITING_CLIENTS} clients that wait for their answers")
    capacity = await client.back_to_back(WAITING_CLIENTS, plan.seconds * 0.1, service.asking())
    memory: list[float] = []
    before = service.shed_by_its_own_clock()
    client.latest = 0.0
    watching = asyncio.create_task(_watch(plan, service, client, memory, progress))
    api, webhooks = await _overload(plan, service, client, capacity)
    watching.cancel()
    progress("recovering")
    recovery = await _recover(service, client, idle)
    after = service.shed_by_its_own_clock()
    client.close()
    return Findings(
        plan,
        capacity,
        idle,
        api,
        webhooks,
        memory,
        recovery,
        client.latest,
        after.since(before),
        Neighbours(),
    )


async def _after(client: Client, phase: Awaitable[None]) -> list[Reply]:
    """The replies of a phase."""
    before = len(client.replies)
    await phase
    return client.replies[before:]


async def _overload(plan: Plan, service: Service, client: Client, capacity: float) -> tuple[list[Reply], list[Reply]]:
    """The replies of the API, and those to webhooks, whose connections are Twilio's: no user of ours has them."""
    seconds, twilio = plan.seconds * 0.7, Client(service.port, plan.connections)
    replies = await asyncio.gather(
        _after(client, client.at_rate(capacity * plan.factor, seconds, service.asking())),
        _after(twilio, twilio.at_rate(plan.webhooks, seconds, service.webhook)),
    )
    twilio.close()
    return replies


async def _recover(service: Service, client: Client, idle: Sequence[Reply]) -> float | None:
    """The seconds until ten requests in a row are answered as if nothing had been."""
    usual = max(0.1, 3 * percentile(idle, 0.99))
    begin, in_a_row = time.perf_counter(), 0
    while time.perf_counter() - begin < RECOVERY_SECONDS:
        reply = await client.ask(service.asking()(in_a_row), time.perf_counter())
        in_a_row = in_a_row + 1 if reply.status in (200, 201) and reply.seconds <= usual else 0
        if in_a_row == 1:
            first = time.perf_counter() - begin
        if in_a_row == 10:
            return first
        await asyncio.sleep(0.02)
    return None


async def _watch(
    plan: Plan, service: Service, client: Client, memory: list[float], progress: Callable[[str], None]
) -> None:
    """Once a second: how much memory the service takes, and how far it is."""
    begin, before = time.perf_counter(), len(client.replies)
    while True:
        memory.append(service.megabytes())
        done = (time.perf_counter() - begin) / (plan.seconds * 0.7)
        seen = Counter(reply.status for reply in client.replies[before:])
        bar = "#" * int(min(done, 1) * 30)
        counts = f"{seen[200] + seen[201]:,} served, {seen[503]:,} shed, {memory[-1]:.0f} MB"
        progress(f"overload [{bar:<30}] {counts}")
        await asyncio.sleep(1)
