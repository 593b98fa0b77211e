"""A worker that really sends, to a simulator that really answers, for an agency beside a look-alike one."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from delivery.follower import Follower
from delivery.reconciler import Patience, Reconciler
from delivery.session import Session
from delivery.simulator.server import TwilioSimulator
from delivery.twilio_gateway import TwilioAccount, TwilioGateway
from delivery.worker import Sending, Worker
from persistence import messages, outbox, sends
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction
from tenancy.twilio_credentials import TwilioCredentials, generate_key
from tests.agencies import ACCOUNT_SID, Agency, Urls, insert_message, make_conversation

AUTH_TOKEN = "0123456789abcdef0123456789abcdef"
# Nothing listens there: what these tests learn, they learn without callbacks.
NOWHERE = "http://127.0.0.1:9"
PATIENCE = Patience(grace_seconds=1.0, hold_seconds=20.0, interval_seconds=0.2)


class Office:
    """The carrier, the worker, and short ways to say what happens in a test."""

    def __init__(self, urls: Urls, database: Database, worker_database: Database, simulator: TwilioSimulator) -> None:
        self.urls, self.database, self.worker_database, self.simulator = urls, database, worker_database, simulator
        self.credentials = TwilioCredentials(generate_key(), account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN)
        self.account = TwilioAccount(ACCOUNT_SID, AUTH_TOKEN)
        self.gateway = TwilioGateway(
            base_url=simulator.url, connect_timeout_seconds=1.0, total_deadline_seconds=2.0, max_concurrency=16
        )
        self.reconciler = Reconciler(
            database=worker_database, gateway=self.gateway, credentials=self.credentials, patience=PATIENCE
        )
        self.follower = self.new_follower(poll_seconds=0.0)

    def new_follower(self, *, poll_seconds: float, retry_seconds: float = 0.2) -> Follower:
        return Follower(
            database=self.worker_database,
            gateway=self.gateway,
            credentials=self.credentials,
            poll_seconds=poll_seconds,
            retry_seconds=retry_seconds,
            hold_seconds=PATIENCE.hold_seconds,
        )

    def new_worker(self, *, sending: Sending | None = None) -> Worker:
        return Worker(
            database=self.worker_database,
            session_url=self.urls.worker,
            gateway=self.gateway,
            credentials=self.credentials,
            sending=sending or Sending(NOWHERE, concurrency=8, validity_seconds=3600, first_look_seconds=0.0),
        )

    def queue(self, agency: Agency, conversation_id: UUID, content: str) -> UUID:
        """What POST does."""
        with tenant_transaction(self.database, agency.id) as connection:
            sender = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=False)
            message = insert_message(
                connection, conversation_id=conversation_id, direction="outbound", status="queued", content=content
            )
            outbox.insert(
                connection,
                message_id=message["id"],
                conversation_id=conversation_id,
                channel_id=sender.channel_id,
                sent_at=message["sent_at"],
            )
        message_id: UUID = message["id"]
        return message_id

    def converse(self, agency: Agency, phone: str = "+12025550199") -> UUID:
        with tenant_transaction(self.database, agency.id) as connection:
            return make_conversation(connection, agency, phone=phone)

    def message(self, agency: Agency, message_id: UUID) -> dict[str, Any]:
        with tenant_transaction(self.database, agency.id, read_only=True) as connection:
            return messages.get(connection, message_id=message_id)

    def state(self, agency: Agency, message_id: UUID) -> str | None:
        with tenant_transaction(self.database, agency.id, read_only=True) as connection:
            return outbox.find_state(connection, message_id=message_id)

    def reconcile_until(self, condition: Callable[[], bool]) -> None:
        with transaction.session(self.urls.worker) as connection:
            session = Session(connection)
            wait_until(condition, between=lambda: (self.reconciler.run_once(session), self.follower.run_once()))


def wait_until(condition: Callable[[], bool], *, between: Callable[[], object] = lambda: None) -> None:
    """Wait for something that will come true; half a minute is for the slowest machine."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        between()
        time.sleep(0.05)


@pytest.fixture
def simulator() -> Iterator[TwilioSimulator]:
    with TwilioSimulator({ACCOUNT_SID: AUTH_TOKEN}) as running:
        yield running


@pytest.fixture
def office(urls: Urls, database: Database, worker_database: Database, simulator: TwilioSimulator) -> Office:
    return Office(urls, database, worker_database, simulator)


@contextmanager
def running(office: Office) -> Iterator[Worker]:
    """A worker that works while the block runs, and ends by itself after it."""
    with running_worker(office.new_worker()) as worker:
        yield worker


@contextmanager
def running_worker(worker: Worker) -> Iterator[Worker]:
    """The same, of a worker that was made before."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(timeout=15)
        assert not thread.is_alive()


@pytest.fixture
def worker(office: Office) -> Iterator[Worker]:
    """A running worker."""
    with running(office) as worker:
        yield worker
