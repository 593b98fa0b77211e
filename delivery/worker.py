"""The process that sends: takes work, records the attempt, commits, and only then calls the carrier.

Each attempt names the worker by the key of an advisory lock that the worker's own database session holds. The lock
goes when the process dies, however it dies, and not while it is merely stopped; a worker that has lost its session
makes no further call. That is what lets another worker conclude that an attempt will never be made.
"""

import logging
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg2

from delivery import evidence, retry_policy
from delivery.twilio_gateway import (
    Accepted,
    NotProcessed,
    OutboundMessage,
    Outcome,
    Rejected,
    TwilioAccount,
    TwilioGateway,
)
from persistence import attempts, channels, outbox, workers
from persistence.attempts import Job
from persistence.connection import TenantConnection
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import CredentialsUnreadable, TwilioCredentials

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0
# How many messages of one agency a claim takes at most: the rest of the places are for the others.
PER_AGENCY = 16
RECORD_RETRY_SECONDS = 0.5
CREDENTIALS_PAUSE_SECONDS = 60.0

_DICE = secrets.SystemRandom()


@dataclass(frozen=True)
class Sending:
    """How messages are sent: `validity_seconds` bounds how late the carrier may still send an accepted one."""

    public_base_url: str
    concurrency: int
    validity_seconds: int
    first_look_seconds: float


class Session:
    """The worker's own database session: its lock, which proves that it lives, and its ear for NOTIFY.

    Threads take turns: one that polls for notifications would swallow the reply that another waits for.
    """

    def __init__(self, connection: "psycopg2.extensions.connection") -> None:
        self._connection = connection
        self._turn = threading.Lock()
        self.worker_key = secrets.randbits(63)
        with connection.cursor() as cursor:
            cursor.execute("select pg_try_advisory_lock(%s)", (self.worker_key,))
            cursor.execute(f"listen {outbox.CHANNEL}")

    def is_alive(self) -> bool:
        """Whether the session, and with it the lock, still stands: asked of the server, not remembered."""
        try:
            with self._turn, self._connection.cursor() as cursor:
                cursor.execute("select 1")
        except psycopg2.Error:
            return False
        return True

    def is_dead(self, worker_key: int) -> bool:
        """Whether no session holds that worker's lock any more. Raises psycopg2.Error when it cannot be asked."""
        if worker_key == self.worker_key:
            return False
        with self._turn, self._connection.cursor() as cursor:
            cursor.execute("select pg_try_advisory_lock(%s)", (worker_key,))
            row = cursor.fetchone()
            if row is None or not row[0]:
                return False
            cursor.execute("select pg_advisory_unlock(%s)", (worker_key,))
        return True

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


class Worker:
    """Sends until it is told to stop; what it has begun it ends."""

    def __init__(
        self,
        *,
        database: Database,
        session_url: str,
        gateway: TwilioGateway,
        credentials: TwilioCredentials,
        sending: Sending,
    ) -> None:
        self._database = database
        self._session_url = session_url
        self._gateway = gateway
        self._credentials = credentials
        self._sending = sending
        self._stopping = threading.Event()
        # The messages whose attempts this process is making; each is added and removed once, so no lock is needed.
        self._holding: set[UUID] = set()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)

    def stop(self) -> None:
        """Take no more work; `run` returns when the calls under way have ended. Safe in a signal handler."""
        self._stopping.set()
        self._rouse()

    def holds(self, message_id: UUID) -> bool:
        """Whether this process is making an attempt for the message at the moment."""
        return message_id in self._holding

    def run(self, on_session: Callable[[Session], None] = lambda session: None) -> None:
        """Work until stopped; a lost database is waited for. `on_session` is told of each new session."""
        with ThreadPoolExecutor(self._sending.concurrency, thread_name_prefix="send") as pool:
            while not self._stopping.is_set():
                try:
                    with transaction.session(self._session_url) as connection:
                        session = Session(connection)
                        on_session(session)
                        self._work(session, pool)
                except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
                    logger.warning("worker_lost_database", extra={"error": type(error).__name__})
                # A new session is a new owner: every call of the old one ends first.
                while self._holding and not self._stopping.is_set():
                    self._stopping.wait(0.1)
                self._stopping.wait(POLL_SECONDS)

    def _work(self, session: Session, pool: ThreadPoolExecutor) -> None:
        logger.info("worker_started", extra={"worker_key": session.worker_key})
        beat_at = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + HEARTBEAT_SECONDS
                with unbound_transaction(self._database) as connection:
                    workers.beat(connection, worker_key=session.worker_key)
            free = self._sending.concurrency - len(self._holding)
            jobs = self._claim(session, free) if free else []
            for job, account in jobs:
                pool.submit(self._handle, session, job, account)
            if not jobs:
                session.wait(self._wake, POLL_SECONDS)
        with unbound_transaction(self._database) as connection:
            workers.delete(connection, worker_key=session.worker_key)

    def _claim(self, session: Session, limit: int) -> list[tuple[Job, TwilioAccount | None]]:
        """Take work and record the attempts, in one transaction: it is ours and attempted, or neither."""
        jobs: list[tuple[Job, TwilioAccount | None]] = []
        with unbound_transaction(self._database) as connection:
            claims = outbox.claim(connection, worker_key=session.worker_key, limit=limit, per_agency=PER_AGENCY)
            self._holding.update(claim.message_id for claim in claims)
            try:
                by_agency = attrgetter("agency_id")
                for agency_id, group in groupby(sorted(claims, key=by_agency), key=by_agency):
                    tenant = transaction.bind(connection, agency_id)
                    message_ids = [claim.message_id for claim in group]
                    attempts.start(tenant, message_ids=message_ids)
                    for job in attempts.list_jobs(tenant, message_ids=message_ids):
                        jobs.append((job, self._account(tenant, job)))
            except BaseException:
                self._holding.difference_update(claim.message_id for claim in claims)
                raise
        return jobs

    def _account(self, tenant: TenantConnection, job: Job) -> TwilioAccount | None:
        try:
            tokens = self._credentials.find_tokens(tenant, account_sid=job.account_sid)
        except CredentialsUnreadable:
            tokens = None
        return None if tokens is None else TwilioAccount(job.account_sid, *tokens)

    def _handle(self, session: Session, job: Job, account: TwilioAccount | None) -> None:
        """Make the attempt, or not, and write down what came of it."""
        try:
            if account is None or not job.agency_is_active or job.opted_out or (job.paused_seconds or 0.0) > 0.0:
                self._persist(lambda: self._withhold(job, account))
                return
            outcome = self._gateway.create_message(account, self._message(job), may_send=session.is_alive)
            self._persist(lambda: self._record(job, outcome))
        except Exception as error:  # the attempt stays open, and is looked into as one that nobody holds
            logger.error("send_broke_off", exc_info=True, extra={**_names(job), "error": type(error).__name__})
        finally:
            self._holding.discard(job.message_id)
            self._rouse()

    def _withhold(self, job: Job, account: TwilioAccount | None) -> None:
        """What became of the agency, the contact or the sender since the message was queued forbids the call."""
        ids = {"message_id": job.message_id, "conversation_id": job.conversation_id}
        with tenant_transaction(self._database, job.agency_id) as connection:
            if not job.agency_is_active:
                evidence.cancel(connection, **ids)
            elif job.opted_out:
                evidence.fail(connection, **ids, error_code=evidence.OPTED_OUT, error_message="The contact opted out.")
            else:
                if account is None:
                    logger.error("twilio_credentials_missing", extra=_names(job))
                evidence.retry_later(
                    connection,
                    message_id=job.message_id,
                    attempt=job.attempt,
                    reason="credentials_missing" if account is None else "sender_paused",
                    delay_seconds=CREDENTIALS_PAUSE_SECONDS if account is None else job.paused_seconds or 0.0,
                )

    def _message(self, job: Job) -> OutboundMessage:
        callback = f"/api/v1/webhooks/twilio/status/{job.agency_id}/{job.message_id}/{job.attempt}"
        template = job.template or {}
        return OutboundMessage(
            sender=job.sender,
            recipient=job.recipient,
            channel="whatsapp" if job.kind == "whatsapp" else "sms",
            content=job.content,
            media_urls=tuple(media["url"] for media in job.media),
            content_sid=template.get("content_sid"),
            content_variables=template.get("variables"),
            status_callback_url=self._sending.public_base_url + callback,
            validity_period_seconds=self._sending.validity_seconds,
        )

    def _record(self, job: Job, outcome: Outcome) -> None:
        ids: dict[str, Any] = {"message_id": job.message_id, "conversation_id": job.conversation_id}
        with tenant_transaction(self._database, job.agency_id) as connection:
            match outcome:
                case Accepted(twilio_sid=sid, provider_status=status):
                    evidence.accept(connection, **ids, attempt=job.attempt, twilio_sid=sid, provider_status=status)
                case Rejected(error_code=code) if code in retry_policy.SENDER_PAUSED_SECONDS:
                    seconds = retry_policy.SENDER_PAUSED_SECONDS[code]
                    evidence.retry_later(
                        connection,
                        message_id=job.message_id,
                        attempt=job.attempt,
                        reason="sender_refused",
                        delay_seconds=seconds,
                        error_code=str(code),
                    )
                    outbox.hold_channel(connection, channel_id=job.channel_id, seconds=seconds)
                    channels.pause(connection, channel_id=job.channel_id, seconds=seconds, error_code=str(code))
                    logger.error("sender_paused", extra={**_names(job), "error_code": code})
                case Rejected():
                    evidence.reject(connection, **ids, attempt=job.attempt, rejection=outcome)
                case NotProcessed(reason=reason) if job.attempt >= retry_policy.MOST_ATTEMPTS:
                    evidence.fail(
                        connection,
                        **ids,
                        error_code=evidence.INTERNAL,
                        error_message="The carrier could not be reached in time.",
                    )
                    logger.error("send_gave_up", extra={**_names(job), "reason": reason})
                case NotProcessed(retry_after_seconds=after, reason=reason):
                    delay = retry_policy.delay_seconds(job.attempt, retry_after_seconds=after, dice=_DICE.random())
                    evidence.retry_later(
                        connection, message_id=job.message_id, attempt=job.attempt, reason=reason, delay_seconds=delay
                    )
                case _:
                    evidence.doubt(
                        connection,
                        message_id=job.message_id,
                        attempt=job.attempt,
                        reason=outcome.reason,
                        delay_seconds=self._sending.first_look_seconds,
                    )

    def _persist(self, record: Callable[[], None]) -> None:
        """What was observed is written down as soon as the database takes it; each record may be repeated."""
        while True:
            try:
                return record()
            except (DatabaseUnavailable, OutcomeUnknown):
                if self._stopping.wait(RECORD_RETRY_SECONDS):
                    return record()

    def _rouse(self) -> None:
        with suppress(BlockingIOError):
            self._waker.send(b".")


def _names(job: Job) -> dict[str, str]:
    return {"agency_id": str(job.agency_id), "message_id": str(job.message_id)}
