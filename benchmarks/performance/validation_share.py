"""What checking our answers against the contract costs: the time of the check on real answers, by the CPU of a request.

The check is timed in this process on bodies that the server has sent, while the server is under load, and set against
what a request of that load costs the server's processes: a machine on which everything takes twice as long for a while
has both take twice as long. PostgreSQL's CPU is not counted: with it the share would be smaller.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import api
from benchmarks.performance import servers
from benchmarks.performance.asked import Page
from benchmarks.performance.load import Sample
from benchmarks.performance.servers import OURS, Running
from conversations_api.web import validation
from conversations_api.web.contract import Contract, Operation

OPERATIONS = {True: "listConversations", False: "listMessages"}
DIFFERENT_ANSWERS = 20
# Between two checks: this process shall not be a load of its own, and its caches are no warmer than the server's.
PAUSE_SECONDS = 0.002


@dataclass(frozen=True)
class Round:
    """CPU microseconds of one check, median, and of one request of the load that ran meanwhile."""

    check: float
    request: float


@dataclass(frozen=True)
class Share:
    """What the rounds came to, for one operation."""

    operation: str
    rounds: Sequence[Round]

    @property
    def shares(self) -> list[float]:
        """Of the CPU of a request, round by round."""
        return [one.check / one.request for one in self.rounds]


@dataclass(frozen=True)
class _Answer:
    headers: list[tuple[bytes, bytes]]
    body: bytes


def measure(
    server: Running,
    pages: Sequence[Page],
    load: Callable[[], Sample],
    *,
    rounds: int,
    tell: Callable[[str], None],
) -> Share:
    """`load` asks the server for pages of that kind for a while; its `Sample` says what a request cost."""
    operation = Contract.load(api.CONTRACT).operations[OPERATIONS[pages[0].conversation_id is None]]
    answers = list(_answers(server, pages[:DIFFERENT_ANSWERS]))
    found = []
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, rounds + 1):
            tell(f"response validation, {operation.operation_id}, round {number} of {rounds}")
            loading = pool.submit(load)
            times = []
            while not loading.done():
                times.append(_check(operation, answers[len(times) % len(answers)]))
                time.sleep(PAUSE_SECONDS)
            found.append(Round(statistics.median(times), 1e3 * loading.result().cpu))
    return Share(operation.operation_id, found)


def _answers(server: Running, pages: Sequence[Page]) -> Iterator[_Answer]:
    for page in pages:
        request = page.asked_of(OURS)
        answer = servers.HTTP.get(server.base_url + request.path, headers={"Authorization": f"Bearer {request.token}"})
        answer.raise_for_status()
        yield _Answer([(name.lower(), value) for name, value in answer.headers.raw], answer.content)


def _check(operation: Operation, answer: _Answer) -> float:
    """CPU microseconds."""
    begin = time.thread_time_ns()
    validation.check_response(operation, status=200, headers=answer.headers, body=answer.body)
    return (time.thread_time_ns() - begin) / 1e3
