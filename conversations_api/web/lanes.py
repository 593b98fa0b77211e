"""How many requests may be under way: bounded lanes, so that overload is answered at once and never by waiting long.

Twilio's webhooks cannot be asked to come again, and a health check that is shed restarts a process that is merely busy:
each has its own lane. The API never holds the threads that are reserved for webhooks; webhooks may use all of them.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from conversations_api.web.contract import Operation
from handlers.problems import Problem


@dataclass(frozen=True)
class Limits:
    """What one process takes on. Seconds and bytes unless named otherwise."""

    handler_threads: int = 10
    queue_seconds: float = 1.0  # the longest wait for a thread
    queued_requests: int = 64
    queued_webhooks: int = 512
    open_requests: int = 1000  # in each lane; those count whose body is still on its way, too
    body_bytes: int = 65_536
    body_seconds: float = 10.0
    handler_seconds: float = 15.0  # for a handler; then the client is told, and the thread is waited for
    send_seconds: float = 30.0  # for a client to take its answer

    @property
    def reserved_for_webhooks(self) -> int:
        return max(1, self.handler_threads // 4)

    @property
    def threads(self) -> int:
        """All threads: those of the handlers, and one for each of the two health checks."""
        return self.handler_threads + 2

    @property
    def connections(self) -> int:
        """One for each thread that may need the database: all but that which says that the process lives."""
        return self.handler_threads + 1


class Lane:
    """So many requests at once, so many waiting in their order, none longer than it may; the rest is shed."""

    def __init__(self, *, running: int, queued: int, open_requests: int, queue_seconds: float) -> None:
        self._free = running
        self._queue: deque[asyncio.Future[None]] = deque()
        self._queued = queued
        self._open = 0
        self._open_requests = open_requests
        self._queue_seconds = queue_seconds

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Count a request from its head to the end of its answer. Raises Problem `overloaded`."""
        if self._open >= self._open_requests:
            raise Problem("overloaded")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

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
        if self._free:
            self._free -= 1
        else:
            await self._wait()

    async def _wait(self) -> None:
        if len(self._queue) >= self._queued:
            raise Problem("overloaded")
        turn = asyncio.get_running_loop().create_future()
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

    def leave(self) -> None:
        """Give a place back."""
        # A place is handed on, not freed, while somebody waits: nobody who comes later can take it first.
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Lanes:
    """The lanes of a process, by operation: a readiness check that hangs with the database keeps no other waiting."""

    def __init__(self, limits: Limits) -> None:
        def lane(running: int, queued: int) -> Lane:
            return Lane(
                running=running,
                queued=queued,
                open_requests=limits.open_requests,
                queue_seconds=limits.queue_seconds,
            )

        self._api = lane(max(1, limits.handler_threads - limits.reserved_for_webhooks), limits.queued_requests)
        self._webhooks = lane(limits.handler_threads, limits.queued_webhooks)
        self._health = defaultdict[str, Lane](lambda: lane(1, limits.queued_requests))

    def of(self, operation: Operation | None = None) -> Lane:
        """The lane of an operation; that of the API for the documentation, which is none."""
        if operation is not None and "webhooks" in operation.tags:
            return self._webhooks
        if operation is not None and "health" in operation.tags:
            return self._health[operation.operation_id]
        return self._api
