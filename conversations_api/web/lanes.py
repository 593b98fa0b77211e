"""How many requests may be under way: bounded lanes, so that overload is answered at once and never by waiting long.

Twilio's webhooks cannot be asked to come again, and a health check that is shed restarts a process that is merely busy:
each has its own lane. Webhooks and the rest of the API share the threads of the handlers, and neither can take those
that are reserved for the other: anybody may post to a webhook's address. What is free beyond that goes to webhooks
first. No lane has more places than there are threads and connections, so that nothing waits once it has its place.

Within a lane the agencies take turns, and none holds most of the places: one that floods waits behind itself.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from conversations_api import metrics
from conversations_api.web.contract import Operation
from conversations_api.web.turns import Pace, Turns
from handlers.problems import Problem


@dataclass(frozen=True)
class Limits:
    """What one process takes on. Seconds and bytes unless named otherwise."""

    handler_threads: int = 10
    queue_seconds: float = 1.0  # the longest wait for a thread
    queued_requests: int = 64
    queued_webhooks: int = 512
    bodies: int = 1000  # in each lane, that are on their way
    body_bytes: int = 65_536
    body_seconds: float = 10.0
    handler_seconds: float = 15.0  # for a handler; then the client is told, and the thread is waited for
    send_seconds: float = 30.0  # for a client to take its answer

    @property
    def reserved(self) -> int:
        """The threads that webhooks never hold, and as many that only webhooks do."""
        return max(1, self.handler_threads // 4)

    @property
    def threads(self) -> int:
        """All threads: those of the handlers, and one for each of the two health checks."""
        return self.handler_threads + 2

    @property
    def connections(self) -> int:
        """One for each thread that may need the database: all but that which says that the process lives."""
        return self.handler_threads + 1


# Who would wait for more than this part of the longest wait, at the pace of the queue, is told at once: the pace is an
# estimate, and whoever is let in should not be told when the time is over. A longer queue serves no more requests, only
# later ones. A webhook has all of it: Twilio does not come again.
_LIKELY = 0.2
# An agency holds at most one of so many places of the API: another's request shares the processor with what runs.
_SHARES = 3


@dataclass
class Places:
    """The places that stand for threads. One that is given back goes to the first lane where somebody waits for it."""

    free: int
    lanes: "list[Lane]" = field(default_factory=list)

    def give_back(self) -> None:
        self.free += 1
        for lane in self.lanes:
            if lane.admit_next():
                return


class Lane:
    """So many requests at once, so many waiting, agencies in turn and those of one in their order, none longer than it
    may; the rest is shed.

    What would wait for too long, as fast as the queue moves, is not let in: it is told at once, and not when its time
    is over. No agency holds more than `of_one` places at once.
    """

    def __init__(
        self,
        places: Places,
        *,
        running: int,
        of_one: int | None = None,
        queued: int,
        likely: float = 1.0,
        limits: Limits,
    ) -> None:
        self._places = places
        places.lanes.append(self)
        self._running = Counter[Hashable]()
        self._most_running = running
        self._most_of_one = running if of_one is None else of_one
        self._queue = Turns()
        self._queued = queued
        self._likely = likely
        self._reading: dict[asyncio.Timeout, None] = {}
        self._limits = limits
        self._pace = Pace()

    @contextmanager
    def reading(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Wait for a body, which takes no place from those whose is here.

        Where as many are waited for as may be, the time of the one that has been waited for longest is over: who sends
        at once is never that one, and who sends nothing is, sooner or later. Raises Problem `overloaded` where none may
        be waited for.
        """
        if len(self._reading) >= self._limits.bodies:
            oldest = next(iter(self._reading), None)
            if oldest is None:
                raise Problem("overloaded")
            del self._reading[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        self._reading[deadline] = None
        try:
            yield
        finally:
            self._reading.pop(deadline, None)

    async def enter(self, whose: Hashable = None) -> None:
        """Take a place, for whom it outlives. Raises Problem `overloaded`."""
        if self._may_run(whose):
            if self._queue:  # of another, who holds all that it may
                self._pace.moved(asyncio.get_running_loop().time())
            self._take(whose)
        else:
            await self._wait(whose)

    def leave(self, whose: Hashable = None) -> None:
        """Give a place back."""
        self._running[whose] -= 1
        if not self._running[whose]:
            del self._running[whose]
        self._places.give_back()

    def admit_next(self) -> bool:
        """Hand a free place to whoever's turn it is; whether there was one who may have it."""
        # It is handed on while somebody waits: nobody who comes later can take it first.
        if self._places.free == 0:
            return False
        for whose in self._queue.agencies():
            while self._queue.of(whose) and self._may_run(whose):
                turn = self._queue.next_of(whose)
                if not turn.done():
                    self._take(whose)
                    turn.set_result(None)
                    self._pace.moved(asyncio.get_running_loop().time())
                    return True
        return False

    async def _wait(self, whose: Hashable) -> None:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        if not self._queue:
            self._pace.begin(begun_at)
        if self._is_hopeless(whose, begun_at):
            raise Problem("overloaded")
        turn = loop.create_future()
        self._queue.join(whose, turn)
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await turn
        except BaseException as error:
            if not turn.cancelled():
                self.leave(whose)  # the place came at the very moment of giving up: the next in line has it
            else:
                self._queue.leave(whose, turn)
            if isinstance(error, TimeoutError):
                metrics.waited(loop.time() - begun_at, admitted=False)
                raise Problem("overloaded") from None
            raise
        metrics.waited(loop.time() - begun_at, admitted=True)

    def _is_hopeless(self, whose: Hashable, now: float) -> bool:
        if len(self._queue) >= self._queued and (self._queued == 0 or self._queue.of(whose)):
            return True  # an agency of which nobody waits finds room in a queue that another has filled
        if self._pace.still(now) > self._limits.queue_seconds:
            return True
        # Where nobody is ahead the queue is learned from: it may be faster than it was.
        expected = self._queue.ahead_of(whose) * self._pace.seconds_of_a_turn()
        return expected > self._likely * self._limits.queue_seconds

    def _may_run(self, whose: Hashable) -> bool:
        return (
            self._places.free > 0
            and self._running.total() < self._most_running
            and (whose is None or self._running[whose] < self._most_of_one)
        )

    def _take(self, whose: Hashable) -> None:
        self._places.free -= 1
        self._running[whose] += 1


class Entry:
    """One request on its way into its lane: it has a place from when it enters until it leaves."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._whose: Hashable = None
        self._has_place = False

    async def enter(self, whose: Hashable = None) -> None:
        """Wait for a place, in the turn of `whose` it is: the agency of the token, None where there is no token. Raises
        Problem `overloaded`."""
        await self.lane.enter(whose)
        self._whose, self._has_place = whose, True

    def leave(self) -> None:
        """Give the place back, if there is one."""
        if self._has_place:
            self._has_place = False
            self.lane.leave(self._whose)


class Lanes:
    """The lanes of a process, by operation: a readiness check that hangs with the database keeps no other waiting."""

    def __init__(self, limits: Limits) -> None:
        handlers, share = Places(limits.handler_threads), limits.handler_threads - limits.reserved
        self._webhooks = Lane(handlers, running=share, queued=limits.queued_webhooks, limits=limits)
        self._api = Lane(
            handlers,
            running=share,
            of_one=max(1, share // _SHARES),
            queued=limits.queued_requests,
            likely=_LIKELY,
            limits=limits,
        )
        self._health = defaultdict[str, Lane](
            lambda: Lane(Places(1), running=1, queued=limits.queued_requests, limits=limits)
        )

    def of(self, operation: Operation | None = None) -> Lane:
        """The lane of an operation; that of the API for the documentation, which is none."""
        if operation is not None and "webhooks" in operation.tags:
            return self._webhooks
        if operation is not None and "health" in operation.tags:
            return self._health[operation.operation_id]
        return self._api
