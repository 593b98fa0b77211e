"""A worker's own database session: its lock, which proves that it lives, and its ear for NOTIFY.

Each attempt names the worker by the key of an advisory lock that this session holds. PostgreSQL releases it when the
process dies, however it dies, and not while it is merely stopped; a worker that has lost its session makes no
further call. That is what lets another worker conclude that an attempt will never be made.
"""

import secrets
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from persistence import outbox
from persistence.attempts import Job

# A message's id is a UUID, made once: it is no other agency's.
OWNED = """
    select outbox.message_id, outbox.attempt
    from outbox
    join unnest(%s::uuid[], %s::uuid[]) as asked (agency_id, message_id)
        on outbox.agency_id = asked.agency_id and outbox.message_id = asked.message_id
    where outbox.state = 'calling'
    and outbox.worker_key = %s
"""


class Session:
    """Threads take turns: one that polls for notifications would swallow the reply that another waits for."""

    def __init__(self, connection: "psycopg2.extensions.connection") -> None:
        self._connection = connection
        self._turn = threading.Lock()
        # Who waits for leave to call, and for what.
        self._asking: list[tuple[Job, Future[bool]]] = []
        self.worker_key = secrets.randbits(63)
        with connection.cursor() as cursor:
            cursor.execute("select pg_advisory_lock(%s)", (self.worker_key,))
            cursor.execute(f"listen {outbox.CHANNEL}")

    def is_alive(self) -> bool:
        """Whether the session, and with it the lock, still stands: asked of the server, not remembered."""
        try:
            return self._ask("select true") is True
        except psycopg2.Error:
            return False

    def may_call(self, job: Job) -> bool:
        """Whether the attempt is still this worker's: it was not declared dead, and nothing was proven since.

        The server is asked after the call of this method, once for all who wait for their turn at the time.
        """
        answer: Future[bool] = Future()
        self._asking.append((job, answer))
        with self._turn:
            if not answer.done():
                self._answer_all()
        return answer.result(timeout=0)  # whoever had the turn has answered

    def _answer_all(self) -> None:
        asking: list[tuple[Job, Future[bool]]] = []
        while self._asking:  # taken one by one, so that nobody adds to a list that is not looked at again
            asking.append(self._asking.pop())
        agency_ids = [str(job.agency_id) for job, _ in asking]
        message_ids = [str(job.message_id) for job, _ in asking]
        owned: set[tuple[str, int]] = set()
        try:
            with suppress(psycopg2.Error), self._connection.cursor() as cursor:
                cursor.execute(OWNED, (agency_ids, message_ids, self.worker_key))
                owned = {(str(message_id), attempt) for message_id, attempt in cursor}
        finally:
            for job, answer in asking:
                answer.set_result((str(job.message_id), job.attempt) in owned)

    def is_dead(self, worker_key: int) -> bool:
        """Whether no session holds that worker's lock any more. Raises psycopg2.Error when it cannot be asked."""
        if worker_key == self.worker_key:
            return False
        with self.alone_with(worker_key) as nobody_else:
            return nobody_else

    @contextmanager
    def alone_with(self, key: int) -> Iterator[bool]:
        """Hold an advisory lock while the block runs; False, and no lock, when another session has it.

        One session may hold a lock twice: the threads of a process must not ask for the same one.
        """
        locked = bool(self._ask("select pg_try_advisory_lock(%s)", key))
        try:
            yield locked
        finally:
            if locked:
                self._ask("select pg_advisory_unlock(%s)", key)

    def wait(self, wake: socket.socket, seconds: float) -> None:
        """Return when work was announced, when `wake` has been written to, or after the time."""
        sources: list[Any] = [self._connection, wake]
        ready, _, _ = select.select(sources, [], [], seconds)
        if wake in ready:
            with suppress(BlockingIOError):
                wake.recv(4096)
        if self._connection in ready:
            with self._turn:
                self._connection.poll()
        self._connection.notifies.clear()

    def _ask(self, statement: str, *parameters: object) -> object:
        with self._turn, self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            row = cursor.fetchone()
            return None if row is None else row[0]
