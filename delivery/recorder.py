"""Writes down what attempts came to, on threads of its own: a place that has made its call makes the next one.

What ends within a moment is written together, one transaction for all that the carrier accepted of one agency: that
costs a tenth of what each by itself costs. Whatever goes wrong with several is done again one by one, so that no
message suffers for another.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from uuid import UUID

from delivery import recording
from delivery.outcomes import Accepted
from persistence.attempts import Job
from persistence.connection import TenantConnection
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction

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


class Recorder:
    """`recorded` is told of each job when it is written down, or cannot be."""

    def __init__(self, *, database: Database, stopping: threading.Event, recorded: Callable[[Job], None]) -> None:
        self._database = database
        self._stopping = stopping
        self._recorded = recorded
        self._queue: SimpleQueue[Ended | None] = SimpleQueue()
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
            first = self._queue.get()
            if first is None:
                return []
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

    def _write_all(self, batch: list[Ended]) -> None:
        together: defaultdict[UUID, list[Ended]] = defaultdict(list)
        for ended in batch:
            if ended.accepted is not None and recording.is_plain(ended.accepted):
                together[ended.job.agency_id].append(ended)
            else:
                self._write(ended)
        for agency_id, group in together.items():
            if len(group) == 1 or not self._write_together(agency_id, group):
                for ended in group:
                    self._write(ended)

    def _write_together(self, agency_id: UUID, group: list[Ended]) -> bool:
        try:
            with tenant_transaction(self._database, agency_id) as tenant:
                recording.record_accepted(tenant, [(one.job, one.accepted) for one in group if one.accepted])
        except Exception:  # it is told when it happens to one of them alone
            return False
        for ended in group:
            self._recorded(ended.job)
        return True

    def _write(self, ended: Ended) -> None:
        """What was observed is written down as soon as the database takes it; each record may be repeated."""
        names = recording.names(ended.job)
        try:
            while not self._is_written(ended):
                self._stopping.wait(RETRY_SECONDS)
        except Exception as error:  # the attempt stays open, and is looked into as one that nobody holds
            logger.error("send_broke_off", exc_info=True, extra={**names, "error": type(error).__name__})
        finally:
            self._recorded(ended.job)

    def _is_written(self, ended: Ended) -> bool:
        stopping = self._stopping.is_set()
        try:
            with tenant_transaction(self._database, ended.job.agency_id) as tenant:
                ended.record(tenant)
        except (DatabaseUnavailable, OutcomeUnknown):
            if stopping:
                raise
            return False
        return True
