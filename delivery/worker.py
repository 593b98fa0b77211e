"""The process that sends: takes work, records the attempt, commits, and only then calls the carrier."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from uuid import UUID

import psycopg2

from delivery import metrics, recording
from delivery.breaker import Breaker
from delivery.claiming import Claimer, Sending
from delivery.outcomes import TOO_MANY_REQUESTS, Accepted, NotProcessed, Outcome, Unknown
from delivery.pace import Pace
from delivery.recorder import Ended, Recorder
from delivery.session import Session
from delivery.twilio_gateway import OutboundMessage, TwilioAccount, TwilioGateway
from persistence import workers
from persistence.attempts import Job
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

__all__ = ["Sending", "Worker"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0
# Between two claims under load, for some more places to come free: one claim for each message costs more than it sends.
BREATH_SECONDS = 0.01
# Not trouble of the carrier: the worker itself stepped back right before the call.
OWN_REASONS = ("leave_to_send_withdrawn", "leave_to_send_unknown", "no_free_place", "deadline_before_write")


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
        self._sending = sending
        self._breaker = Breaker(time.monotonic)
        self._pace = Pace(sending.concurrency, time.monotonic)
        self._claimer = Claimer(database=database, credentials=credentials, sending=sending, pace=self._pace)
        self._stopping = threading.Event()
        # The messages whose attempts this process is making. The main thread adds, others remove, each its own key.
        self._holding: dict[UUID, Job] = {}
        # Those among them whose call has ended, and which wait to be written down.
        self._ended: set[UUID] = set()
        self._recorder = Recorder(database=database, stopping=self._stopping, recorded=self._release)
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
        places = self._sending.concurrency + self._sending.reserved
        with self._recorder.running(), ThreadPoolExecutor(places, thread_name_prefix="send") as pool:
            while not self._stopping.is_set():
                try:
                    with transaction.session(self._session_url) as connection:
                        session = Session(connection)
                        on_session(session)
                        self._work(session, pool)
                except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
                    logger.warning("worker_lost_database", extra={"error": type(error).__name__})
                except Exception as error:  # rows that cannot be read must not end the process, only be heard of
                    logger.error("claiming_broke_off", exc_info=True, extra={"error": type(error).__name__})
                # A new session is a new owner: every call of the old one ends first.
                while self._holding and not self._stopping.is_set():
                    self._stopping.wait(0.1)
                self._stopping.wait(POLL_SECONDS)

    def _work(self, session: Session, pool: ThreadPoolExecutor) -> None:
        logger.info("worker_started", extra={"worker_key": session.worker_key})
        beat_at = 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + HEARTBEAT_SECONDS
                    with unbound_transaction(self._database) as connection:
                        workers.beat(connection, worker_key=session.worker_key)
                    metrics.worker_beat()
                jobs = self._claimer.claim(session, self._holding, self._ended)
            except (DatabaseUnavailable, OutcomeUnknown):
                # A statement that failed is no reason to give up the session, and with it the calls under way.
                if not session.is_alive():
                    raise
                jobs = []
            for job, account in jobs:
                pool.submit(self._handle, session, job, account)
            if not jobs:
                session.wait(self._wake, POLL_SECONDS)
            else:
                self._stopping.wait(BREATH_SECONDS)
        while self._holding:  # the session outlives the calls that it vouches for
            time.sleep(0.02)
        with unbound_transaction(self._database) as connection:
            workers.delete(connection, worker_key=session.worker_key)

    def _handle(self, session: Session, job: Job, account: TwilioAccount | None) -> None:
        """Make the attempt, or not, and have it written down what came of it."""
        try:
            ended = self._attempt(session, job, account)
        except Exception as error:  # the attempt stays open, and is looked into as one that nobody holds
            logger.error("send_broke_off", exc_info=True, extra={**recording.names(job), "error": type(error).__name__})
            self._release(job)
        else:
            self._ended.add(job.message_id)
            self._recorder.put(ended)
            self._rouse()

    def _attempt(self, session: Session, job: Job, account: TwilioAccount | None) -> Ended:
        """Call the carrier unless something forbids it."""
        pause = 0.0
        if account is not None and job.agency_is_active and not job.opted_out and not (job.paused_seconds or 0.0) > 0.0:
            pause = self._breaker.pause_seconds(job.account_sid)
            if pause <= 0.0:
                outcome = self._call(session, job, account)
                record = partial(
                    recording.record, job=job, outcome=outcome, first_look_seconds=self._sending.first_look_seconds
                )
                return Ended(job, record, outcome if isinstance(outcome, Accepted) else None)
        return Ended(job, partial(recording.withhold, job=job, has_account=account is not None, pause_seconds=pause))

    def _call(self, session: Session, job: Job, account: TwilioAccount) -> Outcome:
        try:
            message = self._message(job)
        except Exception as error:  # nothing has left us
            logger.error("send_broke_off", exc_info=True, extra={**recording.names(job), "error": type(error).__name__})
            return NotProcessed(None, f"error_{type(error).__name__}")
        begun_at = self._pace.now()
        outcome = self._gateway.create_message(account, message, may_send=lambda: session.may_call(job))
        self._notice(job.account_sid, outcome, begun_at)
        return outcome

    def _notice(self, account_sid: str, outcome: Outcome, begun_at: float) -> None:
        """Fewer calls at a time when the carrier asks for fewer; none for a while when nothing else helps."""
        if not isinstance(outcome, NotProcessed | Unknown):
            self._breaker.succeeded(account_sid)
            self._pace.processed(account_sid)
            return
        if outcome.reason == TOO_MANY_REQUESTS:
            if self._pace.refused(account_sid, begun_at=begun_at):
                logger.warning("account_slowed", extra={"account_sid": account_sid})
            if not self._pace.is_slowest(account_sid):
                return
        if outcome.reason not in OWN_REASONS and self._breaker.failed(account_sid):
            logger.error("carrier_in_trouble", extra={"account_sid": account_sid, "reason": outcome.reason})

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

    def _release(self, job: Job) -> None:
        """The attempt is in nobody's hands any more."""
        self._holding.pop(job.message_id, None)
        self._ended.discard(job.message_id)
        self._rouse()

    def _rouse(self) -> None:
        with suppress(BlockingIOError):
            self._waker.send(b".")
