"""Two processes of the API share an agency's limit in Redis; while Redis is away they limit nobody and serve on."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from conversations_api import addresses, child_processes
from conversations_api.demo.invented_agencies import Agency
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.redis_server import redis_on
from tests.stack import BASE_PATH, Answer, Stack, database_of_its_own, running

LIMIT = 20
PASSWORD = "not-for-any-log"


@dataclass
class Two:
    """Two APIs on ports of their own, and the Redis in which they count."""

    stacks: list[Stack]
    redis: ExitStack
    redis_port: int
    folder: Path

    def start_redis(self) -> None:
        self.redis.enter_context(redis_on(self.redis_port, self.folder, password=PASSWORD))

    def ask(self, agency: Agency, times: int) -> list[Answer]:
        """The two in turn."""
        return [self.stacks[number % 2].get(agency, "/conversations") for number in range(times)]

    def are_counting(self, agency: Agency) -> bool:
        return all("ratelimit" in answer.headers for answer in self.ask(agency, 2))


@pytest.fixture(scope="module")
def two(postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    port, folder = addresses.free_port(), tmp_path_factory.mktemp("limits")
    with ExitStack() as redis, database_of_its_own(postgres, migrated_template) as urls:
        redis.enter_context(redis_on(port, folder, password=PASSWORD))
        variables = {
            "RATE_LIMIT_STORAGE_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}",
            "RATE_LIMIT_REQUESTS_PER_MINUTE": str(LIMIT),
            "WEB_CONCURRENCY": "1",
        }
        with running(urls, folder, commands=("serve",), **variables) as one:
            second = addresses.free_port()
            other = Stack(one.urls, one.folder, second, one.simulator, one.agencies, one.accounts, one.environment)
            one.children["second"] = child_processes.start(
                "second",
                [sys.executable, "-m", "conversations_api", "serve"],
                environment=one.environment | {"PORT": str(second)},
                log_path=one.folder / "second.log",
            )
            until(lambda: is_ready(other))
            yield Two([one, other], redis, port, folder)


def is_ready(stack: Stack) -> bool:
    with suppress(OSError):
        return stack.ask("GET", f"{BASE_PATH}/readyz").status == 200
    return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def one_window(two: Two) -> tuple[Agency, list[Answer]]:
    """A new agency, and more answers than its limit, all of one minute."""
    for _ in range(10):
        agency, minute = two.stacks[0].new_agency(), time.time() // 60
        answers = two.ask(agency, LIMIT + 10)
        if time.time() // 60 == minute:
            return agency, answers
    raise AssertionError("the machine is too slow for a minute")


def test_an_agencys_limit_is_one_for_all_processes(two: Two) -> None:
    _, answers = one_window(two)
    assert [answer.status for answer in answers] == [200] * LIMIT + [429] * 10
    assert [int(answer.headers["ratelimit"].partition("r=")[2].partition(";")[0]) for answer in answers[:4]] == [
        LIMIT - 1 - number for number in range(4)
    ]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers[LIMIT:])
    assert {answer.status for answer in two.ask(two.stacks[0].new_agency(), 2)} == {200}


def test_while_redis_is_away_everybody_is_served_and_nobody_limited_and_then_it_counts_again(two: Two) -> None:
    agency, channel = two.stacks[0].agencies[0], two.stacks[0].agencies[0].channels[1]
    assert two.are_counting(agency)
    two.redis.close()
    answers = two.ask(agency, LIMIT * 3)
    assert Counter(answer.status for answer in answers) == {200: LIMIT * 3}
    assert not any("ratelimit" in answer.headers for answer in answers)
    assert two.stacks[0].write(channel, "+14045550001", "Hello?")[1] == 200
    for stack in two.stacks:
        assert stack.ask("GET", f"{BASE_PATH}/readyz").status == 200
    two.start_redis()
    until(lambda: two.are_counting(two.stacks[0].new_agency()))
    _, answers = one_window(two)
    assert Counter(answer.status for answer in answers) == {200: LIMIT, 429: 10}
    logged = "".join((two.folder / f"{name}.log").read_text() for name in ("serve", "second"))
    assert '"event":"rate_limits_not_counted"' in logged
    assert PASSWORD not in logged
