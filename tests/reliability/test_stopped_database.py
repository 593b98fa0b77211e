"""A database that is stopped takes what is sent to it and says nothing: no reset, and none of its own time limits."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import psutil

from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.web.lanes import Limits
from tests.api_client import BASE_PATH
from tests.conftest import urls_of
from tests.reliability.test_database_faults import cursor_of, until_served
from tests.serving import served
from tests.stack import Stack, running

PHONES = [f"+1404555{number:04d}" for number in range(8)]
EACH = 6  # messages to each of them


@contextmanager
def standing_still(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Every process of the server is stopped while the block runs."""
    server = psutil.Process(postgres.record.server_pid)
    stopped = [*server.children(recursive=True), server]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_a_database_that_stands_still_does_not_make_clients_stand_still(own_postgres: EmbeddedPostgres) -> None:
    with served(urls_of(own_postgres, "faro"), limits=Limits(handler_seconds=2.0)) as api:
        agency = api.new_agency()
        conversation, key = api.converse(agency), str(uuid4())
        me = api.of(agency)
        with standing_still(own_postgres):
            read, written = me.get("/conversations"), me.send(conversation, "once", key=key)
            with ThreadPoolExecutor(40) as pool:
                crowd = list(pool.map(lambda _: me.get("/conversations"), range(40)))
            ready = api.ask("GET", f"{BASE_PATH}/readyz")
            alive = api.ask("GET", f"{BASE_PATH}/healthz")
        assert read.refusal == (503, "database_unavailable")
        # By whether it had a connection to send anything on.
        assert written.refusal in ((503, "outcome_unknown"), (503, "database_unavailable"))
        assert {answer.status for answer in crowd} == {503}
        assert (ready.status, alive.status) == (503, 200)
        until_served(api, agency)
        assert api.ask("GET", f"{BASE_PATH}/readyz").status == 200
        answer = me.send(conversation, "once", key=key)
        while answer.status in (409, 503):
            time.sleep(0.1)
            answer = me.send(conversation, "once", key=key)
        assert answer.status == 201
        rows = api.sql(agency, "select 1 from messages where agency_id = :agency_id and direction = 'outbound'")
        assert len(rows) == 1


def test_while_the_database_stands_still_a_worker_makes_no_call_that_is_not_on_record(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    urls = urls_of(own_postgres, "faro")
    with running(urls, tmp_path) as stack:
        agency, stranger = stack.agencies[:2]
        for phone in PHONES:
            stack.write(agency.channels[1], phone, "Hello")
        stack.write(stranger.channels[1], PHONES[0], "Hello")
        stack.stop("worker")
        conversations = [one["id"] for one in stack.conversations(agency)]
        for number in range(EACH):
            for conversation in conversations:
                answer = stack.post(agency, f"/conversations/{conversation}/messages", {"content": f"text {number}"})
                assert answer.status == 201
        # One message of a conversation after the other: it takes a while.
        stack.simulator.set_faults({"latency_ms": 300})
        stack.start("worker")
        wait_until(lambda: len(stack.simulator.accepted) >= len(PHONES))
        with standing_still(own_postgres):
            stopped_at = datetime.now(UTC)
            meanwhile = settled(stack)
        assert len(meanwhile) < EACH * len(PHONES), "the worker had ended before"
        total = EACH * len(PHONES)
        wait_until(lambda: len(stack.simulator.accepted) >= total)
        wait_until(lambda: all(one["status"] == "delivered" for one in sent(stack, conversations)))
        with cursor_of(urls.superuser) as cursor:
            cursor.execute("select message_id, number, started_at, outcome from attempts")
            on_record = {(str(row[0]), row[1]): row[2:] for row in cursor.fetchall()}
        begun = [on_record[attempt_of(entry)] for entry in meanwhile]
        assert all(started_at < stopped_at for started_at, _ in begun)
        assert len(on_record) == len(stack.simulator.accepted) == total
        assert {outcome for _, outcome in on_record.values()} == {"accepted"}
        (theirs,) = stack.conversations(stranger)
        assert [one["content"] for one in stack.messages(stranger, theirs["id"])] == ["Hello"]


def settled(stack: Stack) -> list[dict[str, str]]:
    """What the carrier has accepted when the calls that were under way have ended, and no further one was begun."""
    before = -1
    while before != len(stack.simulator.accepted):
        before = len(stack.simulator.accepted)
        time.sleep(3)
    return stack.simulator.accepted


def attempt_of(entry: dict[str, str]) -> tuple[str, int]:
    """The message and the number of its attempt, as they stand in the address of the callback."""
    *_, message_id, number = entry["status_callback"].partition("#")[0].split("/")
    return str(UUID(message_id)), int(number)


def sent(stack: Stack, conversations: list[str]) -> list[dict[str, object]]:
    agency = stack.agencies[0]
    threads = (stack.messages(agency, conversation) for conversation in conversations)
    return [message for thread in threads for message in thread if message["direction"] == "outbound"]
