"""Writes down what attempts came to, on threads of its own: a place that has made its call makes the next one.

What ends within a moment is written together, in one transaction that is bound to one agency after the other: a commit
costs more than all that is committed. Whatever goes wrong with several is done again, agency by agency and then one by
one, so that no message suffers for another; and what goes wrong with one is tried again after a while, behind what
came meanwhile, so that nobody who holds conversations keeps others from being written down.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from queue import Empty, SimpleQueue
from uuid import UUID

from delivery import recording
from delivery.outcomes import Accepted
from persistence import acceptances
from persistence.attempts import Job
from persistence.connection import TenantConnection
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction, unbound_transaction

logger = logging.getLogger(__name__)

THREADS = 3
MOST_AT_A_TIME = 64
# What one waits for company. The next message of its conversation waits as long.
GATHERING_SECONDS = 0.02
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Ended:
    """An attempt that was made or withheld: how to write it down, and what the carrier accepted, if it did."""

    job: Job
    record: Callable[[TenantConnection], None]
    accepted: Accepted | None = None
    by_itself: bool = False  # it could not be written before


class Recorder:
    """`recorded` is told of each job when it is written down, or cannot be."""

    def __init__(self, *, database: Database, stopping: threading.Event, recorded: Callable[[Job], None]) -> None:
        self._database = database
        self._stopping = stopping
        self._recorded = recorded
        self._queue: SimpleQueue[Ended | None] = SimpleQueue()
        # What could not be written, and from when on it is tried again: in the order of these times.
        self._again: deque[tuple[float, Ended]] = deque()
        self._gathering = threading.Lock()

    def put(self, ended: Ended) -> None:
        """Have it written down; returns at once."""
        self._queue.put(ended)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write while the block runs, and what is left at its end."""
        threads = [threading.Thread(target=self._run, name=f"record_{n}", daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for _ in threads:
                self._queue.put(None)
            for thread in threads:
                thread.join()

    def _run(self) -> None:
        while batch := self._gather():
            self._write_all(batch)

    def _gather(self) -> list[Ended]:
        """What there is to write, or nothing at the end. One thread gathers, while the others write."""
        with self._gathering:
            first = self._next()
            if first is None or first.by_itself:
                return [first] if first else []
            self._stopping.wait(GATHERING_SECONDS)
            batch = [first]
            while len(batch) < MOST_AT_A_TIME:
                try:
                    ended = self._queue.get_nowait()
                except Empty:
                    break
                if ended is None:  # the sign to end, which may be another thread's as well
                    self._queue.put(None)
                    break
                batch.append(ended)
            return batch

    def _next(self) -> Ended | None:
        """Wait for what has ended, and for what is to be tried again; None at the end, when neither is left."""
        while True:
            if self._again and (self._stopping.is_set() or self._again[0][0] <= time.monotonic()):
                return self._again.popleft()[1]
            with suppress(Empty):
                ended = self._queue.get(timeout=RETRY_SECONDS / 2)
                if ended is not None or not self._again:
                    return ended
                self._queue.put(None)

    def _write_all(self, batch: list[Ended]) -> None:
        plain: list[Ended] = []
        left: list[Ended] = []
        for ended in batch:
            is_plain = not ended.by_itself and ended.accepted is not None and recording.is_plain(ended.accepted)
            (plain if is_plain else left).append(ended)
        groups = _by_agency(plain)
        if groups and not self._write_together(groups):
            for agency_id, group in groups:
                if len(groups) == 1 or not self._write_together([(agency_id, group)]):
                    left += group
        for ended in left:
            self._write(ended)

    def _write_together(self, groups: list[tuple[UUID, list[Ended]]]) -> bool:
        """Whether it went well, and at once."""
        try:
            with unbound_transaction(self._database) as connection:
                acceptances.be_brief(connection)
                for agency_id, group in groups:
                    tenant = transaction.bind(connection, agency_id)
                    recording.record_accepted(tenant, [(one.job, one.accepted) for one in group if one.accepted])
        except Exception:  # it is told when it happens to one of them alone
            return False
        for _, group in groups:
            for ended in group:
                self._recorded(ended.job)
        return True

    def _write(self, ended: Ended) -> None:
        """What was observed is written down as soon as the database takes it; each record may be repeated."""
        stopping = self._stopping.is_set()  # then this is the last time
        try:
            with tenant_transaction(self._database, ended.job.agency_id) as tenant:
                if ended.by_itself:
                    acceptances.be_brief(tenant)
                ended.record(tenant)
        except Exception as error:
            if isinstance(error, DatabaseUnavailable | OutcomeUnknown) and not stopping:
                self._again.append((time.monotonic() + RETRY_SECONDS, replace(ended, by_itself=True)))
                return
            # The attempt stays open, and is looked into as one that nobody holds.
            extra = {**recording.names(ended.job), "error": type(error).__name__}
            logger.error("send_broke_off", exc_info=True, extra=extra)
        self._recorded(ended.job)


def _by_agency(batch: list[Ended]) -> list[tuple[UUID, list[Ended]]]:
    """In one order, so that two transactions that lock the same never wait for each other."""
    whose = attrgetter("job.agency_id")
    return [(agency_id, list(group)) for agency_id, group in groupby(sorted(batch, key=whose), key=whose)]
