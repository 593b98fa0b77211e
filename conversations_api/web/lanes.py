"""How many requests may be under way: bounded lanes, so that overload is answered at once and never by waiting long.

Twilio's webhooks cannot be asked to come again, and a health check that is shed restarts a process that is merely busy:
each has its own lane. Webhooks and the rest of the API share the threads of the handlers, and neither can take those
that are reserved for the other: anybody may post to a webhook's address. What is free beyond that goes to webhooks
first. No lane has more places than there are threads and connections, so that nothing waits once it has its place.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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


# Of the time between one place that was handed on and the next, how much the latest one counts.
_LATEST = 0.2


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
    """So many requests at once, so many waiting in their order, none longer than it may; the rest is shed.

    What would wait for too long, as fast as the queue moves, is not let in: it is told at once, and not when its time
    is over.
    """

    def __init__(self, places: Places, *, running: int, queued: int, bodies: int, queue_seconds: float) -> None:
        self._places = places
        places.lanes.append(self)
        self._running = 0
        self._most_running = running
        self._queue: deque[asyncio.Future[None]] = deque()
        self._queued = queued
        self._reading = 0
        self._bodies = bodies
        self._queue_seconds = queue_seconds
        self._pace = 0.0  # seconds from one who is let in from the queue to the next
        self._moved_at = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for a body, which takes no place from those whose is here. Raises Problem `overloaded`."""
        if self._reading >= self._bodies:
            raise Problem("overloaded")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold one of the places that stand for a thread. Raises Problem `overloaded`."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    async def enter(self) -> None:
        """Take a place, for whom it outlives. Raises Problem `overloaded`."""
        if self._may_run():
            self._take()
        else:
            await self._wait()

    def leave(self) -> None:
        """Give a place back."""
        self._running -= 1
        self._places.give_back()

    def admit_next(self) -> bool:
        """Hand a free place to whoever has waited longest; whether there was one who may have it."""
        # It is handed on while somebody waits: nobody who comes later can take it first.
        while self._queue and self._may_run():
            turn = self._queue.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)
                now = asyncio.get_running_loop().time()
                self._pace += _LATEST * (now - self._moved_at - self._pace)
                self._moved_at = now
                return True
        return False

    async def _wait(self) -> None:
        if len(self._queue) >= self._queued or len(self._queue) * self._pace > self._queue_seconds:
            raise Problem("overloaded")
        loop = asyncio.get_running_loop()
        if not self._queue:
            self._moved_at = loop.time()
        turn = loop.create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._queue_seconds):
                await turn
        except BaseException as error:
            if not turn.cancelled():
                self.leave()  # the place came at the very moment of giving up: the next in line has it
            elif turn in self._queue:
                self._queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise Problem("overloaded") from None
            raise

    def _may_run(self) -> bool:
        return self._places.free > 0 and self._running < self._most_running

    def _take(self) -> None:
        self._places.free -= 1
        self._running += 1


class Entry:
    """One request on its way into its lane: it has a place from when it enters until it leaves."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.has_place = False

    async def enter(self) -> None:
        """Raises Problem `overloaded`."""
        await self.lane.enter()
        self.has_place = True

    def leave(self) -> None:
        """Give the place back, if there is one."""
        if self.has_place:
            self.has_place = False
            self.lane.leave()


class Lanes:
    """The lanes of a process, by operation: a readiness check that hangs with the database keeps no other waiting."""

    def __init__(self, limits: Limits) -> None:
        def lane(places: Places, running: int, queued: int) -> Lane:
            return Lane(
                places,
                running=running,
                queued=queued,
                bodies=limits.bodies,
                queue_seconds=limits.queue_seconds,
            )

        handlers, share = Places(limits.handler_threads), limits.handler_threads - limits.reserved
        self._webhooks = lane(handlers, share, limits.queued_webhooks)
        self._api = lane(handlers, share, limits.queued_requests)
        self._health = defaultdict[str, Lane](lambda: lane(Places(1), 1, limits.queued_requests))

    def of(self, operation: Operation | None = None) -> Lane:
        """The lane of an operation; that of the API for the documentation, which is none."""
        if operation is not None and "webhooks" in operation.tags:
            return self._webhooks
        if operation is not None and "health" in operation.tags:
            return self._health[operation.operation_id]
        return self._api
