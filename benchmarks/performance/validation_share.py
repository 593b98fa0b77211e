"""What checking our answers against the contract costs: the time of the check on real answers, by the CPU of a request.

The check is timed in this process, many times over, on bodies that the server has just sent. It is set against what one
request of the same kind costs the server's processes, PostgreSQL's not counted: with them the share would be smaller.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import api
from benchmarks.performance import servers
from benchmarks.performance.asked import Page
from benchmarks.performance.servers import OURS, Running
from conversations_api.web import validation
from conversations_api.web.contract import Contract

OPERATIONS = {True: "listConversations", False: "listMessages"}
REPEATS = 200


@dataclass(frozen=True)
class Share:
    """Microseconds of one check, median; `share` of a request's CPU."""

    operation: str
    body_bytes: int
    check_microseconds: float
    request_microseconds: float

    @property
    def share(self) -> float:
        return self.check_microseconds / self.request_microseconds


def measure(server: Running, pages: Sequence[Page], *, cpu_milliseconds: float) -> Share:
    """`cpu_milliseconds`: what a request costs the server's processes, as the comparison measured it."""
    contract = Contract.load(api.CONTRACT)
    operation = contract.operations[OPERATIONS[pages[0].conversation_id is None]]
    times, sizes = [], []
    for page in pages[:20]:
        request = page.asked_of(OURS)
        headers = {"Authorization": f"Bearer {request.token}"}
        answer = servers.HTTP.get(server.base_url + request.path, headers=headers)
        answer.raise_for_status()
        sent = [(name.lower(), value) for name, value in answer.headers.raw]
        for _ in range(REPEATS):
            begin = time.thread_time_ns()
            validation.check_response(operation, status=200, headers=sent, body=answer.content)
            times.append((time.thread_time_ns() - begin) / 1e3)
        sizes.append(len(answer.content))
    return Share(
        operation.operation_id, round(statistics.median(sizes)), statistics.median(times), 1e3 * cpu_milliseconds
    )
