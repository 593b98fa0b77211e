"""A release under load: processes are replaced one by one, tables change, and no request of anybody fails."""

import http.client
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
import pytest

from conversations_api import addresses, child_processes
from conversations_api.child_processes import Child
from conversations_api.embedded_postgres import EmbeddedPostgres
from persistence import schema
from tenancy import transaction
from tests.stack import Stack, database_of_its_own, running

STOP_SECONDS = 15.0


class Load:
    """Clients behind a proxy, which goes on to the other instance when one takes no connection, and retries nothing."""

    def __init__(self, stack: Stack, ports: list[int], conversations: list[str]) -> None:
        self.stack, self.ports, self.conversations = stack, ports, conversations
        self.sent: list[str] = []
        self.failed: list[str] = []
        self.answered = 0
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in self._threads:
                thread.join()

    def _run(self, number: int) -> None:
        agency = self.stack.agencies[0]
        headers = {"Authorization": f"Bearer {self.stack.token(agency)}", "Content-Type": "application/json"}
        turn = number
        while not self._done.wait(0.05):
            turn += 1
            path = f"/api/v1/conversations/{self.conversations[turn % len(self.conversations)]}/messages"
            body = json.dumps({"content": f"{number}.{turn}"}) if turn % 2 else None
            try:
                status, answer = self._ask(turn, "POST" if body else "GET", path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(type(error).__name__)
                continue
            self.answered += 1
            if status not in (200, 201):
                self.failed.append(f"{status} {answer[:200]!r}")
            elif body:
                self.sent.append(json.loads(answer)["id"])

    def _ask(self, turn: int, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        for attempt in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", self.ports[(turn + attempt) % 2], timeout=60)
            try:
                connection.connect()
            except ConnectionRefusedError:
                time.sleep(0.05)
                continue
            try:
                connection.request(method, path, body=body, headers={**headers, "Connection": "close"})
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()
        raise ConnectionRefusedError


@pytest.fixture
def own_stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(
            urls,
            tmp_path_factory.mktemp("rolling"),
            WEB_CONCURRENCY="1",
            HANDLER_THREADS="16",  # a place for each client: who waits for one while a table is locked is shed
            SEND_DEADLINE_SECONDS="5",
            STATUS_POLL_SECONDS="2",
        ) as stack,
    ):
        yield stack


def start(stack: Stack, name: str, command: str, **variables: str) -> Child:
    child = child_processes.start(
        name,
        [sys.executable, "-m", "conversations_api", command],
        environment=stack.environment | variables,
        log_path=stack.folder / f"{name}.log",
    )
    stack.children[name] = child
    return child


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/api/v1/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def replace(stack: Stack, name: str, command: str, **variables: str) -> None:
    """Stop one process as an orchestrator does, and start its successor."""
    process = stack.children[name].process
    process.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    assert process.wait(60) == 0
    assert time.monotonic() - asked_at < STOP_SECONDS
    start(stack, name, command, **variables)
    if command == "serve":
        wait_for_port(int(variables.get("PORT", stack.port)))


def change_tables(owner_url: str) -> None:
    """What a release's expanding migration does, on the tables that every request uses, under the lock timeout."""
    with transaction.session(owner_url) as connection, connection.cursor() as cursor:
        cursor.execute(schema.SET_LOCK_TIMEOUT)
        for table in ("conversations", "messages", "outbox", "attempts"):
            for statement in (f"alter table {table} add column note text", f"alter table {table} drop column note"):
                for _ in range(20):
                    try:
                        cursor.execute(statement)
                        break
                    except psycopg2.errors.LockNotAvailable:
                        time.sleep(0.2)
                else:
                    raise AssertionError(f"{statement} never got its lock")


def test_a_rolling_restart_and_a_migration_under_load_fail_no_request_and_double_no_message(
    own_stack: Stack,
) -> None:
    agency = own_stack.agencies[0]
    for number in range(12):
        own_stack.write(agency.channels[1], f"+1404555{number:04d}", "Hello")
    conversations = [one["id"] for one in own_stack.conversations(agency)]
    second = str(addresses.free_port())
    start(own_stack, "serve 2", "serve", PORT=second)
    start(own_stack, "worker 2", "worker")
    wait_for_port(int(second))
    load = Load(own_stack, [own_stack.port, int(second)], conversations)
    with load.running():
        time.sleep(1)
        replace(own_stack, "worker", "worker")
        replace(own_stack, "serve", "serve")
        change_tables(own_stack.urls.owner)
        replace(own_stack, "worker 2", "worker")
        replace(own_stack, "serve 2", "serve", PORT=second)
        time.sleep(1)
    assert load.failed == []
    assert load.answered > 20
    # The first instance's successor knows nothing of our old connection.
    with suppress(OSError, http.client.HTTPException):
        next(own_stack.conversations(agency))
    settled = ("delivered", "read")
    deadline = time.monotonic() + 60
    while True:
        threads = [message for one in conversations for message in own_stack.messages(agency, one)]
        statuses = {message["id"]: message["status"] for message in threads}
        if all(statuses[id_] in settled for id_ in load.sent):
            break
        assert time.monotonic() < deadline, Counter(statuses[id_] for id_ in load.sent)
        time.sleep(0.5)
    accepted = Counter(one["status_callback"].split("/")[-2] for one in own_stack.simulator.accepted)
    assert accepted == Counter(load.sent)
