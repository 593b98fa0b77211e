"""Whether a page takes longer the more there is: p50 over HTTP by one connection, first page and deep ones.

The pages are equally long at every size and depth. Points are measured in turn, round after round.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.performance import data_set, load
from benchmarks.performance.asked import BASE, LIST, MESSAGES
from benchmarks.performance.comparison import http_target, patiently
from benchmarks.performance.data_set import Size
from benchmarks.performance.load import Request
from benchmarks.performance.servers import Keys, Running
from conversations_api.embedded_postgres.running_postgres import Server as Postgres
from persistence import paging

CONVERSATIONS_OF_PAGE, MESSAGES_OF_PAGE = 20, 50
PLACES_OF_A_POINT = 20
FIRST, MIDDLE, END = "first page", "middle", "end"
DEPTHS = (FIRST, MIDDLE, END)

# The row at a place, counted from the newest; only here it may take as long as it likes.
CONVERSATION_AT = """
    select last_message_at, id
    from conversations
    where agency_id = %s
    order by last_message_at desc, id desc
    limit 1
    offset %s
"""

MESSAGE_AT = """
    select id
    from messages
    where agency_id = %s
    and conversation_id = %s
    order by sent_at desc, id desc
    limit 1
    offset %s
"""

AGENCY = """
    select agency_id
    from agencies
    where name = %s
"""

THREADS = """
    select id, agency_id
    from conversations
    join agencies using (agency_id)
    where name = 'Threads'
    order by last_message_at desc
"""


@dataclass(frozen=True)
class Point:
    """How long a page takes at one size and depth: medians of each round, in milliseconds."""

    operation: str
    size: int
    depth: str
    p50s: tuple[float, ...]

    @property
    def p50(self) -> float:
        return statistics.median(self.p50s)


def measure(
    server: Running,
    postgres: Postgres,
    database: str,
    size: Size,
    keys: Keys,
    folder: Path,
    *,
    postgres_pid: int,
    rounds: int,
    seconds: int,
    tell: Callable[[str], None],
) -> list[Point]:
    asked = {**_inboxes(postgres, database, size, keys), **_threads(postgres, database, size, keys)}
    targets = {}
    for number, (point, requests) in enumerate(asked.items()):
        path = load.write_requests(folder / f"growth-{number}", requests)
        targets[point] = http_target(server, path, postgres_pid=postgres_pid)
    p50s: dict[tuple[str, int, str], list[float]] = {point: [] for point in asked}
    for number in range(1, rounds + 1):
        for point, target in targets.items():
            operation, rows, depth = point
            tell(f"growth, round {number} of {rounds}: {operation}, {rows:,}, {depth}")
            p50s[point].append(patiently(functools.partial(target, 1, seconds)).p50)
    return [Point(*point, tuple(measured)) for point, measured in p50s.items()]


def spread(points: Sequence[Point], operation: str) -> float:
    """The slowest point by the point of the smallest size at the first page."""
    chosen = [point for point in points if point.operation == operation]
    base = next(point for point in chosen if point.size == min(p.size for p in chosen) and point.depth == FIRST)
    return max(point.p50 for point in chosen) / base.p50


def _inboxes(postgres: Postgres, database: str, size: Size, keys: Keys) -> dict[tuple[str, int, str], list[Request]]:
    asked = {}
    for rows in size.growth:
        agency_id = data_set.query(postgres, database, AGENCY, [f"Growth {rows}"])[0][0]
        token = keys.token(agency_id)
        for depth in DEPTHS:
            asked[LIST, rows, depth] = [
                Request("GET", f"{BASE}/conversations{_cursor(postgres, database, agency_id, place)}", token)
                for place in _places(depth, rows, CONVERSATIONS_OF_PAGE)
            ]
    return asked


def _cursor(postgres: Postgres, database: str, agency_id: Any, place: int) -> str:
    if place == 0:
        return ""
    position = data_set.query(postgres, database, CONVERSATION_AT, [agency_id, place - 1])[0]
    return f"?cursor={paging.encode_cursor(position)}"


def _threads(postgres: Postgres, database: str, size: Size, keys: Keys) -> dict[tuple[str, int, str], list[Request]]:
    asked = {}
    for (row_id, agency_id), rows in zip(data_set.query(postgres, database, THREADS), size.threads, strict=True):
        token, path = keys.token(agency_id), f"{BASE}/conversations/{row_id}/messages"
        for depth in DEPTHS:
            requests = []
            for place in _places(depth, rows, MESSAGES_OF_PAGE):
                found = data_set.query(postgres, database, MESSAGE_AT, [agency_id, row_id, place - 1]) if place else []
                requests.append(Request("GET", path + (f"?before={found[0][0]}" if found else ""), token))
            asked[MESSAGES, rows, depth] = requests
    return asked


def _places(depth: str, rows: int, page: int) -> list[int]:
    """How many rows lie before each page that is asked for; every page is full."""
    if depth == FIRST:
        return [0]
    last = rows - page
    centre = last // 2 if depth == MIDDLE else last
    step = max(1, min(page, centre // PLACES_OF_A_POINT))
    return sorted({max(1, centre - step * number) for number in range(PLACES_OF_A_POINT)})
