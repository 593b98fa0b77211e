"""How many requests may be under way: bounded lanes, so that overload is answered at once and never by waiting long.

Twilio's webhooks cannot be asked to come again, and a health check that is shed restarts a process that is merely busy:
each has its own lane. Webhooks and the rest of the API share the threads of the handlers, and neither can take those
that are reserved for the other: anybody may post to a webhook's address. What is free beyond that goes to webhooks
first. No lane has more places than there are threads and connections, so that nothing waits once it has its place.

Within a lane the agencies take turns, and none holds all places: one that floods waits behind itself.
"""

import asyncio
import math
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from conversations_api.web.contract import Operation
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
# estimate, and whoever is let in should not be told when the time is over. A webhook has all of it.
_LIKELY = 0.4
# How many seconds, and how many who were let in, are looked back upon for the pace of a queue: places come free in
# bunches, and a second is what is at stake.
_SECONDS_BACK = 0.5
_TURNS_BACK = 50


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


class _Queue:
    """Who waits, by whose they are: the next one is of whoever has gone longest without a turn."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # in the order of turns
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def of(self, whose: Hashable) -> int:
        """How many of theirs wait."""
        return len(self._waiting.get(whose, ()))

    def ahead_of(self, whose: Hashable) -> int:
        """How many would have their turn before one who joined now."""
        mine = self.of(whose)
        return sum(min(len(theirs), mine + 1) for each, theirs in self._waiting.items() if each != whose) + mine

    def join(self, whose: Hashable, turn: "asyncio.Future[None]") -> None:
        self._waiting.setdefault(whose, deque()).append(turn)
        self._total += 1

    def leave(self, whose: Hashable, turn: "asyncio.Future[None]") -> None:
        """Give up; nothing where the turn has come."""
        if turn in self._waiting.get(whose, ()):
            self._waiting[whose].remove(turn)
            self._total -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]

    def agencies(self) -> list[Hashable]:
        """In the order of their turns."""
        return list(self._waiting)

    def next_of(self, whose: Hashable) -> "asyncio.Future[None]":
        """Theirs that has waited longest; the next turn is another's."""
        theirs = self._waiting.pop(whose)
        self._total -= 1
        turn = theirs.popleft()
        if theirs:
            self._waiting[whose] = theirs
        return turn


class Lane:
    """So many requests at once, so many waiting, agencies in turn and those of one in their order, none longer than it
    may; the rest is shed.

    What would wait for too long, as fast as the queue moves, is not let in: it is told at once, and not when its time
    is over. No agency holds more than all but `spare` places at once.
    """

    def __init__(
        self, places: Places, *, running: int, spare: int = 0, queued: int, likely: float = 1.0, limits: Limits
    ) -> None:
        self._places = places
        places.lanes.append(self)
        self._running = Counter[Hashable]()
        self._most_running = running
        self._most_of_one = max(1, running - spare)
        self._queue = _Queue()
        self._queued = queued
        self._likely = likely
        self._reading = 0
        self._limits = limits
        # How many were let in lately while somebody waited, in how many seconds, and when the latest one was.
        self._let_in = 0.0
        self._took = 0.0
        self._moved_at = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for a body, which takes no place from those whose is here. Raises Problem `overloaded`."""
        if self._reading >= self._limits.bodies:
            raise Problem("overloaded")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    async def enter(self, whose: Hashable = None) -> None:
        """Take a place, for whom it outlives. Raises Problem `overloaded`."""
        if self._may_run(whose):
            if self._queue:  # of another, who holds all that it may
                self._move(asyncio.get_running_loop().time())
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
                    self._move(asyncio.get_running_loop().time())
                    return True
        return False

    def _move(self, now: float) -> None:
        """Somebody has been let in."""
        passed = now - self._moved_at
        self._forget(max(passed / _SECONDS_BACK, 1 / _TURNS_BACK))
        self._let_in += 1
        self._took += passed
        self._moved_at = now

    def _begin(self, now: float) -> None:
        """Somebody is the first to wait: the pace of long ago is not that of now."""
        self._forget((now - self._moved_at) / _SECONDS_BACK)
        self._moved_at = now

    def _forget(self, much: float) -> None:
        kept = math.exp(-much)
        self._let_in *= kept
        self._took *= kept

    async def _wait(self, whose: Hashable) -> None:
        loop = asyncio.get_running_loop()
        if not self._queue:
            self._begin(loop.time())
        if self._is_hopeless(whose, loop.time()):
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
                raise Problem("overloaded") from None
            raise

    def _is_hopeless(self, whose: Hashable, now: float) -> bool:
        if len(self._queue) >= self._queued and (self._queued == 0 or self._queue.of(whose)):
            return True  # an agency of which nobody waits finds room in a queue that another has filled
        if now - self._moved_at > self._limits.queue_seconds:
            return True
        # Where nobody is ahead the queue is learned from: it may be faster than it was.
        expected = self._queue.ahead_of(whose) * self._took / max(1.0, self._let_in)
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
            spare=limits.reserved,
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
