"""Overload: what cannot run soon is told so at once; webhooks and health checks have room of their own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from starlette.types import ASGIApp

from conversations_api.web.lanes import Lane, Lanes, Limits, Places
from handlers.problems import Problem
from tenancy.rate_limits import RateLimits
from tests.app import stubs
from tests.app.asking import FORM, Reply, ask_async, shapes_app

WAIT = "/api/v1/calls/wait"


async def occupy(app: ASGIApp, count: int, *, webhooks: bool = False) -> list[asyncio.Task[Reply]]:
    """So many requests that hold a thread until `stubs.proceed` is set."""
    ask = partial(post_hook, app, stubs.HANGING_HOOK) if webhooks else partial(ask_async, app, WAIT)
    tasks = [asyncio.create_task(ask()) for _ in range(count)]
    for _ in range(count):
        assert await asyncio.to_thread(stubs.running.acquire, timeout=30)
    return tasks


async def post_hook(app: ASGIApp, number: int = 1) -> Reply:
    return await ask_async(app, f"/api/v1/hook/{number}", method="POST", headers=FORM, body=b"Body=x")


def lane(
    *, running: int, queued: int = 1000, of_one: int | None = None, queue_seconds: float = 60, bodies: int = 1000
) -> Lane:
    limits = Limits(queue_seconds=queue_seconds, bodies=bodies)
    return Lane(Places(9), running=running, of_one=of_one, queued=queued, likely=0.4, limits=limits)


@asynccontextmanager
async def place(one: Lane, whose: str | None = None) -> AsyncIterator[None]:
    await one.enter(whose)
    try:
        yield
    finally:
        one.leave(whose)


async def let_go(tasks: list[asyncio.Task[Reply]]) -> list[int]:
    stubs.proceed.set()
    return [reply.status for reply in await asyncio.gather(*tasks)]


@pytest.mark.parametrize("threads", [4, 16])
def test_as_many_handlers_run_at_once_as_are_configured(threads: int) -> None:
    limits = Limits(handler_threads=threads)
    app = shapes_app(limits=limits)

    async def scenario() -> list[int]:
        return await let_go(await occupy(app, threads - limits.reserved))

    assert asyncio.run(scenario()) == [200] * (threads - limits.reserved)


def test_a_full_queue_is_answered_at_once_and_says_when_to_come_again() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queued_requests=2, queue_seconds=60))

    async def scenario() -> tuple[Reply, int, list[int]]:
        tasks = await occupy(app, 3)
        tasks += [asyncio.create_task(ask_async(app, WAIT)) for _ in range(2)]
        await asyncio.sleep(0)
        shed = await ask_async(app, WAIT)
        ended = sum(task.done() for task in tasks)
        return shed, ended, await let_go(tasks)

    shed, ended, statuses = asyncio.run(scenario())
    assert (shed.status, shed.json["code"], shed.headers["retry-after"]) == (503, "overloaded", "1")
    assert ended == 0
    assert statuses == [200] * 5


def test_nothing_waits_longer_for_a_thread_than_it_may() -> None:
    app = shapes_app(limits=Limits(handler_threads=2, queue_seconds=0.2))

    async def scenario() -> tuple[Reply, float]:
        tasks = await occupy(app, 1)
        started = time.monotonic()
        shed = await ask_async(app, WAIT)
        seconds = time.monotonic() - started
        await let_go(tasks)
        return shed, seconds

    shed, seconds = asyncio.run(scenario())
    assert shed.status == 503
    assert 0.2 <= seconds < 15  # the handler takes 20


def test_a_handler_that_hangs_keeps_its_place_and_not_its_client() -> None:
    app = shapes_app(limits=Limits(handler_threads=2, queue_seconds=0.2, handler_seconds=0.3))

    async def scenario() -> tuple[Reply, Reply, Reply]:
        [task] = await occupy(app, 1)
        late = await task
        # Its thread is not free yet: whoever comes waits for it no longer than for any other.
        shed = await ask_async(app, "/api/v1/things")
        stubs.proceed.set()
        again = await ask_async(app, "/api/v1/things")
        while again.status == 503:
            again = await ask_async(app, "/api/v1/things")
        return late, shed, again

    late, shed, again = asyncio.run(scenario())
    assert (late.status, late.json["code"]) == (503, "database_unavailable")
    assert (shed.status, shed.json["code"]) == (503, "overloaded")
    assert again.status == 200


def test_webhooks_and_health_checks_are_served_while_the_api_is_full() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queued_requests=0, queue_seconds=60))

    async def scenario() -> list[int]:
        tasks = await occupy(app, 3)
        shed = await ask_async(app, WAIT)
        hooks = [post_hook(app) for _ in range(50)]
        replies = await asyncio.gather(*hooks, ask_async(app, "/api/v1/healthz", headers=()))
        await let_go(tasks)
        return [shed.status, *(reply.status for reply in replies)]

    assert asyncio.run(scenario()) == [503] + [200] * 51


def test_health_checks_and_the_api_are_served_while_webhooks_are_full() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queued_webhooks=0))

    async def scenario() -> list[int]:
        tasks = await occupy(app, 3, webhooks=True)
        shed = await post_hook(app)
        replies = [await ask_async(app), await ask_async(app, "/api/v1/healthz", headers=())]
        await let_go(tasks)
        return [shed.status, *(reply.status for reply in replies)]

    assert asyncio.run(scenario()) == [503, 200, 200]


def test_health_checks_are_served_while_everything_else_hangs() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queue_seconds=60))

    async def scenario() -> list[int]:
        tasks = [asyncio.create_task(ask_async(app, WAIT)) for _ in range(10)]
        tasks += [asyncio.create_task(post_hook(app, stubs.HANGING_HOOK)) for _ in range(10)]
        for _ in range(4):
            assert await asyncio.to_thread(stubs.running.acquire, timeout=30)
        health = await asyncio.wait_for(ask_async(app, "/api/v1/healthz", headers=()), 15)
        hanging = sum(not task.done() for task in tasks)
        return [health.status, hanging, *await let_go(tasks)]

    assert asyncio.run(scenario()) == [200, 20, *[200] * 20]


def test_a_free_thread_goes_to_a_waiting_webhook_first() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queue_seconds=30))

    async def scenario() -> list[str]:
        ended: list[str] = []
        tasks = [*await occupy(app, 2), *await occupy(app, 2, webhooks=True)]
        waiting = {"api": ask_async(app), "webhook": post_hook(app)}
        for name, asked in waiting.items():
            tasks.append(asyncio.create_task(asked))
            tasks[-1].add_done_callback(lambda _, name=name: ended.append(name))
            await asyncio.sleep(0)
        await let_go(tasks)
        return ended

    assert asyncio.run(scenario())[0] == "webhook"


def test_a_shed_request_frees_its_place() -> None:
    app = shapes_app(limits=Limits(handler_threads=2, queued_requests=0))

    async def scenario() -> list[int]:
        tasks = await occupy(app, 1)
        shed = [(await ask_async(app, WAIT)).status for _ in range(20)]
        return [*shed, *(await let_go(tasks)), (await ask_async(app)).status]

    assert asyncio.run(scenario()) == [503] * 20 + [200, 200]


def test_a_failing_handler_frees_its_place(app: ASGIApp) -> None:
    async def scenario() -> set[int]:
        return {(await ask_async(app, "/api/v1/calls/key_error")).status for _ in range(30)}

    assert asyncio.run(scenario()) == {500}


def test_bodies_on_their_way_are_bounded_and_keep_nobody_from_running() -> None:
    async def scenario() -> list[str]:
        one = lane(running=1, queued=0, bodies=2, queue_seconds=1)
        ended = []

        async def read(name: str, seconds: float) -> None:
            try:
                async with asyncio.timeout(60) as deadline:
                    with one.reading(deadline):
                        await asyncio.sleep(seconds)
                ended.append(f"{name} came")
            except TimeoutError:
                ended.append(f"{name} took too long")

        slow = [asyncio.create_task(read(f"slow {number}", 60)) for number in range(2)]
        await asyncio.sleep(0)
        async with place(one):
            for number in range(5):  # each makes room by ending the one that has been waited for longest
                await read(f"quick {number}", 0.01)
        await asyncio.wait(slow, timeout=0.1)
        left = [task for task in slow if not task.done()]
        for task in left:
            task.cancel()
        return [*ended, f"{len(left)} is waited for"]

    quick = [f"quick {number} came" for number in range(5)]
    assert asyncio.run(scenario()) == ["slow 0 took too long", *quick, "1 is waited for"]


def test_a_request_that_is_given_up_while_it_waits_leaves_the_queue() -> None:
    async def scenario() -> bool:
        one = lane(running=1, queued=1, bodies=9, queue_seconds=60)

        async def wait() -> bool:
            async with place(one):
                return True

        async with place(one):
            given_up = asyncio.create_task(wait())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            next_in_line = asyncio.create_task(wait())
            await asyncio.sleep(0)
        return await next_in_line

    assert asyncio.run(scenario())


def test_places_are_given_in_the_order_of_coming_and_none_is_lost() -> None:
    async def scenario() -> list[int]:
        one = lane(running=2, queued=1000, bodies=1000, queue_seconds=60)
        order: list[int] = []

        async def take(number: int) -> None:
            async with place(one):
                order.append(number)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(take(number)) for number in range(300)]
        await asyncio.sleep(0)
        for task in tasks[1::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Had a place been lost on the way, these would wait until they are shed.
        await asyncio.gather(*(take(number) for number in range(300, 310)))
        return order

    order = asyncio.run(scenario())
    assert order == sorted(order)
    assert [number for number in order if number >= 300] == list(range(300, 310))
    assert {number for number in range(300) if number % 3 != 1} <= set(order)


def test_who_would_wait_too_long_as_fast_as_the_queue_moves_is_told_at_once() -> None:
    async def scenario() -> list[bool]:
        one = lane(running=1, queued=1000, bodies=1000, queue_seconds=0.5)

        async def work() -> None:
            async with place(one):
                await asyncio.sleep(0.1)

        # Two at most are likely to get through in the time; that is known once some have.
        await asyncio.gather(*(work() for _ in range(4)))
        crowd = [asyncio.create_task(work()) for _ in range(50)]
        await asyncio.sleep(0)
        told = [task.done() for task in crowd]
        await asyncio.gather(*crowd, return_exceptions=True)
        assert all(isinstance(task.exception(), Problem) for task in crowd if task.exception() is not None)
        return told

    told = asyncio.run(scenario())
    assert told[0] is False
    assert sum(told) > 20


@pytest.mark.parametrize(("ago", "let_in"), [(0.0, 5), (10.0, 100)], ids=["a moment ago", "long ago"])
def test_a_queue_that_stood_still_fills_again_when_it_moves_or_has_been_empty(ago: float, let_in: int) -> None:
    async def scenario() -> list[int]:
        one = lane(running=1, queued=1000, bodies=1000, queue_seconds=60)

        async def work() -> None:
            async with place(one):
                await asyncio.sleep(0)

        async def crowd(number: int) -> int:
            results = await asyncio.gather(*(work() for _ in range(number)), return_exceptions=True)
            return sum(each is None for each in results)

        # As if nothing had moved for as long as anybody may wait here.
        now = asyncio.get_running_loop().time()
        one._pace.begin(now - ago - 60)
        one._pace.moved(now - ago)
        before = await crowd(100)
        for _ in range(200):
            await crowd(2)
        return [before, await crowd(100)]

    # The first runs, and a few are let into the queue whatever it did: that is how the lane learns.
    assert asyncio.run(scenario()) == [let_in, 100]


def test_agencies_take_turns_and_one_that_floods_waits_behind_itself() -> None:
    async def scenario() -> list[str]:
        one = lane(running=1)
        order: list[str] = []

        async def take(whose: str) -> None:
            async with place(one, whose):
                order.append(whose)
                await asyncio.sleep(0)

        async with place(one):
            wanted = ["loud"] * 6 + ["quiet", "calm", "quiet"]
            tasks = [asyncio.create_task(take(whose)) for whose in wanted]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(scenario()) == ["loud", "quiet", "calm", "loud", "quiet", "loud", "loud", "loud", "loud"]


def test_a_queue_that_one_agency_has_filled_has_room_for_one_of_another() -> None:
    async def scenario() -> list[bool]:
        one = lane(running=1, queued=3)

        async def take(whose: str) -> None:
            async with place(one, whose):
                await asyncio.sleep(0)

        wanted = ["loud"] * 5 + ["quiet"] * 2 + ["calm"]
        results = await asyncio.gather(*(take(whose) for whose in wanted), return_exceptions=True)
        return [isinstance(result, Problem) for result in results]

    assert asyncio.run(scenario()) == [False] * 4 + [True] + [False, True] + [False]


def test_one_agency_does_not_hold_all_places() -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        one = lane(running=3, of_one=2)
        order: list[str] = []
        over = asyncio.Event()

        async def hold(whose: str) -> None:
            async with place(one, whose):
                order.append(whose)
                await over.wait()

        holding = [asyncio.create_task(hold(whose)) for whose in ("slow", "slow", "slow", "quiet")]
        while len(order) < 3:
            await asyncio.sleep(0)
        before = list(order)
        over.set()
        await asyncio.gather(*holding)
        return before, order

    assert asyncio.run(scenario()) == (["slow", "slow", "quiet"], ["slow", "slow", "quiet", "slow"])


def test_an_agency_holds_a_third_of_the_places_of_the_api() -> None:
    async def scenario() -> tuple[int, int]:
        api = Lanes(Limits(handler_threads=12)).of()
        loud = [asyncio.create_task(api.enter("loud")) for _ in range(20)]
        await asyncio.sleep(0)
        quiet = [asyncio.create_task(api.enter(f"quiet {number}")) for number in range(20)]
        await asyncio.sleep(0)
        held = sum(task.done() for task in loud), sum(task.done() for task in quiet)
        for task in [*loud, *quiet]:
            task.cancel()
        await asyncio.gather(*loud, *quiet, return_exceptions=True)
        return held

    # Of 12 threads 3 are those of webhooks.
    assert asyncio.run(scenario()) == (3, 6)


def test_a_queue_that_stands_still_lets_nobody_in_who_would_be_told_late() -> None:
    async def scenario() -> tuple[float, float]:
        one = lane(running=1, queue_seconds=0.5)
        loop = asyncio.get_running_loop()

        async def wait(after: float) -> float:
            """When it was told that there is no place."""
            await asyncio.sleep(after)
            with pytest.raises(Problem, match="overloaded"):
                await one.enter()
            return loop.time()

        async with place(one):
            first, second, third = await asyncio.gather(wait(0.0), wait(0.3), wait(0.6))
        return third - first, second - third

    # Nothing has moved for as long as anybody may wait: the third is told before the second's time is over.
    late, early = asyncio.run(scenario())
    assert late > 0.0
    assert early > 0.0


def test_what_is_wrong_is_said_while_the_api_is_full() -> None:
    app = shapes_app(limits=Limits(handler_threads=4, queued_requests=0))

    async def scenario() -> list[int]:
        tasks = await occupy(app, 3)
        statuses = [
            (await ask_async(app, WAIT)).status,
            (await ask_async(app, f"{WAIT}?unknown=1")).status,
            (await ask_async(app, "/api/v1/things", headers=())).status,
        ]
        await let_go(tasks)
        return statuses

    assert asyncio.run(scenario()) == [503, 400, 401]


def test_who_is_past_the_limit_is_told_so_while_the_api_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = RateLimits(requests_per_minute=1, sends_per_minute=0)
    monkeypatch.setattr(stubs.SERVICES, "rate_limits", limits)
    app = shapes_app(limits=Limits(handler_threads=4, queued_requests=0))

    async def scenario() -> list[int]:
        tasks = await occupy(app, 3)
        statuses = [(await ask_async(app)).status]
        for _ in range(2):
            limits.spend(stubs.AGENCY, sending=False)
        refused = await ask_async(app)
        assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
        await let_go(tasks)
        return [*statuses, refused.status]

    assert asyncio.run(scenario()) == [503, 429]


def test_some_threads_are_always_reserved() -> None:
    assert [Limits(handler_threads=threads).reserved for threads in (2, 4, 10, 64)] == [1, 1, 2, 16]
    assert Limits(handler_threads=10).threads == 12
