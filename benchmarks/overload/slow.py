"""Connections that take up room and ask for nothing: idle ones, and heads and bodies that come byte by byte."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice

SECONDS_BETWEEN_BYTES = 1.0
OPENING_SECONDS = 3.0  # over which they are opened: this client shares the machine, and should not be what is slow
_HEALTH = "GET /api/v1/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_SEND = "POST /api/v1/messages/00000000-0000-0000-0000-000000000000/resend HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@asynccontextmanager
async def held(port: int, number: int, token: str) -> AsyncIterator[None]:
    """So many of them, of each kind the same, while the block runs; one that the server ends is opened anew."""
    kinds = [
        (f"{_HEALTH}\r\n", ""),  # has its answer, and stays
        (f"{_HEALTH}X-Slow: ", "a"),
        (f"{_SEND}Content-Length: 1000\r\n\r\n", " "),
        (f"{_SEND}Authorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n", " "),
    ]
    tasks = [
        asyncio.create_task(_hold(port, opening.encode(), drip.encode(), after=OPENING_SECONDS * place / number))
        for place, (opening, drip) in enumerate(islice(cycle(kinds), number))
    ]
    await asyncio.sleep(OPENING_SECONDS + SECONDS_BETWEEN_BYTES)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hold(port: int, opening: bytes, drip: bytes, *, after: float) -> None:
    await asyncio.sleep(after)
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(opening)
                while await _is_open(reader):
                    writer.write(drip)
                    await writer.drain()
            finally:
                writer.close()
        await asyncio.sleep(SECONDS_BETWEEN_BYTES)


async def _is_open(reader: asyncio.StreamReader) -> bool:
    """Wait for the time of the next byte, unless the server closes before."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_BETWEEN_BYTES):
            while await reader.read(65_536):
                pass
            return False
    return True
