"""An HTTP client that asks at a rate of its own, whether or not the answers keep up with it.

People do not wait for each other's answers, so neither does this. Its connections are bounded: a request for which none
is left is counted as not sent, and says that more was asked for than this client can carry.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

NO_ANSWER = 0
NOT_SENT = -1
ANSWER_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *[1-9]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as bytes; `kind` says what it is counted as."""

    kind: str
    wire: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request. `seconds` are from its first byte to the last of the answer, `at` is when it was due."""

    kind: str
    status: int
    seconds: float
    retry_after: bool
    at: float


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._heard = bytearray()
        self._head: asyncio.Future[bytes] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, wire: bytes) -> bytes:
        """The head of the whole answer. Raises ConnectionError when there is none."""
        if self._transport is None:
            raise ConnectionError
        self._head = asyncio.get_running_loop().create_future()
        self._transport.write(wire)
        return await self._head

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # it is a stream
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._head is not None and not self._head.done():
            self._head.set_exception(ConnectionError())

    def data_received(self, data: bytes) -> None:
        self._heard += data
        end = self._heard.find(b"\r\n\r\n")
        if end < 0 or self._head is None or self._head.done():
            return
        head = bytes(self._heard[:end])
        length = _LENGTH.search(head)
        if length is not None and len(self._heard) - end - 4 >= int(length[1]):
            self._heard.clear()
            self._head.set_result(head)


@dataclass
class Client:
    """Asks one server. `replies` is everything that came, `latest` by how much a request was begun too late."""

    port: int
    most_connections: int
    replies: list[Reply] = field(default_factory=list)
    latest: float = 0.0
    # The one that has been idle for longest is next, as where many people ask: were it the one that has just answered,
    # the process that refuses fastest would be asked most.
    _idle: deque[Connection] = field(default_factory=deque)
    _open: int = 0

    async def at_rate(self, rate: float, seconds: float, make: Callable[[int], Request]) -> None:
        """Begin `rate` requests a second, evenly; return when all of them have ended."""
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in count():
                due = begin + number / rate
                if due >= begin + seconds:
                    break
                ahead = due - time.perf_counter()
                self.latest = max(self.latest, -ahead)
                await asyncio.sleep(max(0.0, ahead))
                group.create_task(self.ask(make(number), due))

    async def back_to_back(self, clients: int, seconds: float, make: Callable[[int], Request]) -> float:
        """So many clients, each of which waits for its answers; how many requests a second they got answered."""
        begin, numbers, answered = time.perf_counter(), count(), len(self.replies)

        async def one() -> None:
            while time.perf_counter() - begin < seconds:
                await self.ask(make(next(numbers)), time.perf_counter())

        await asyncio.gather(*(one() for _ in range(clients)))
        good = sum(200 <= reply.status < 300 for reply in self.replies[answered:])
        return good / (time.perf_counter() - begin)

    async def ask(self, request: Request, due: float) -> Reply:
        """One request, over an idle connection or a new one."""
        status, retry_after, begin = NOT_SENT, False, time.perf_counter()
        connection = self._take()
        if connection is not None or self._open < self.most_connections:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    connection = connection or await self._connect()
                    head = await connection.ask(request.wire)
                status, retry_after = int(head.split(b" ", 2)[1]), bool(_RETRY_AFTER.search(head))
                self._idle.append(connection)
            except (OSError, TimeoutError):
                status = NO_ANSWER
                if connection is not None:
                    connection.close()
                    self._open -= 1
        reply = Reply(request.kind, status, time.perf_counter() - begin, retry_after, due)
        self.replies.append(reply)
        return reply

    def close(self) -> None:
        """Close what is idle; call it when nothing is under way."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_open:
                return connection
            self._open -= 1
        return None

    async def _connect(self) -> Connection:
        self._open += 1
        try:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
        except BaseException:
            self._open -= 1
            raise
        return connection


def at_rate(port: int, most_connections: int, rate: float, seconds: float, requests: Sequence[Request]) -> list[Reply]:
    """These requests over and over at a rate, for a process of its own: what it asks for costs no other client time."""

    async def ask() -> list[Reply]:
        client = Client(port, most_connections)
        await client.at_rate(rate, seconds, lambda number: requests[number % len(requests)])
        client.close()
        return client.replies

    return asyncio.run(ask())
