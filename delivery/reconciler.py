"""Finds out what became of messages: of attempts whose outcome is unknown, and of sent ones that no callback ended.

An unknown attempt is decided by evidence only. Positive: a callback on the attempt's own URL, or the carrier's list
of messages to that recipient. Negative: the worker that made the attempt is done with it or proven dead, and two
spaced listings, both past a grace period that exceeds the call's deadline, lack it. At most one attempt per sender
and recipient is undecided at a time, so a message in the list that is bound to nothing else is the one looked for.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from delivery import evidence
from delivery.twilio_gateway import ListedMessage, ListingUnavailable, TwilioAccount, TwilioGateway, address
from delivery.worker import Session
from persistence import agencies, attempts, message_status, messages, outbox, provider_events
from persistence.attempts import Job
from persistence.connection import TenantConnection
from persistence.outbox import Due
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

BATCH = 100
NEGATIVE_LISTINGS_NEEDED = 2
# The carrier's clock and ours may differ by this much.
CLOCK_SKEW = timedelta(minutes=5)
# Some carriers never confirm; then `sent` is the last word, and is never turned into a failure.
FOLLOWED_SECONDS = 72 * 3600.0
POLL_SECONDS = 240.0
LATE_POLL_SECONDS = 3600.0
LATE_AFTER_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Patience:
    """`grace_seconds` must exceed the deadline of a call; `hold_seconds` is how long evidence is waited for."""

    grace_seconds: float
    hold_seconds: float
    interval_seconds: float


class Reconciler:
    """Looks at what is due, once per `run_once`; several may run at a time and share the work."""

    def __init__(
        self,
        *,
        database: Database,
        gateway: TwilioGateway,
        credentials: TwilioCredentials,
        patience: Patience,
        holds: Callable[[UUID], bool] = lambda message_id: False,
    ) -> None:
        """`holds` says whether this process is making an attempt for a message at the moment."""
        self._database = database
        self._gateway = gateway
        self._credentials = credentials
        self._patience = patience
        self._holds = holds

    def run_once(self, session: Session) -> int:
        """Look at up to BATCH messages that are due; how many there were."""
        with unbound_transaction(self._database) as connection:
            due = outbox.take_due(
                connection,
                limit=BATCH,
                grace_seconds=self._patience.grace_seconds,
                put_off_seconds=self._patience.interval_seconds,
            )
        for one in due:
            try:
                self._look_at(one, session)
            except ListingUnavailable as error:  # no evidence either way
                logger.info("listing_unavailable", extra={**_names(one), "reason": error.reason})
        return len(due)

    def _look_at(self, due: Due, session: Session) -> None:
        if due.state == "calling":
            # Ours, but in nobody's hands: recording its outcome failed.
            dropped = due.worker_key == session.worker_key and not self._holds(due.message_id)
            if dropped or session.is_dead(due.worker_key):
                self._doubt(due)
        elif due.state == "unknown":
            self._investigate(due)
        elif due.state == "accepted":
            self._follow(due)

    def _doubt(self, due: Due) -> None:
        """The worker ended between recording the attempt and recording its outcome."""
        with tenant_transaction(self._database, due.agency_id) as connection:
            evidence.doubt(
                connection, message_id=due.message_id, attempt=due.attempt, reason="worker_ended", delay_seconds=0.0
            )

    def _investigate(self, due: Due) -> None:
        job, account = self._job(due)
        if job is None or account is None:
            return self._wait_on(due)
        listed = self._gateway.list_messages(
            account,
            to=address("whatsapp" if job.kind == "whatsapp" else "sms", job.recipient),
            created_after=job.attempted_at - CLOCK_SKEW,
        )
        with tenant_transaction(self._database, due.agency_id) as connection:
            if outbox.find_state(connection, message_id=due.message_id) != "unknown":
                return None  # evidence came in while the carrier was asked
            candidates = [one for one in listed if _is_candidate(one, job) and not self._is_bound(connection, one)]
            exact = [one for one in candidates if one.body == job.content]
            if exact:
                return self._accept(connection, due, exact[-1])
            # Something from us to them that is bound to nothing, in other words: Twilio may have changed the body
            # (smart encoding, link shortening, a template's text). It proves neither.
            if candidates or due.age_seconds <= self._patience.grace_seconds:
                return self._wait_longer(connection, due, due.negative_listings)
            return self._count_negative(connection, due)

    def _count_negative(self, connection: TenantConnection, due: Due) -> None:
        found_nothing = due.negative_listings + 1
        if found_nothing < NEGATIVE_LISTINGS_NEEDED:
            return self._wait_longer(connection, due, found_nothing)
        unknown = attempts.count_unknown(connection, message_id=due.message_id)
        if agencies.resends_unconfirmed(connection) and unknown == 1:
            logger.warning("resending", extra=_names(due))
            outbox.set_state(
                connection, message_id=due.message_id, state="queued", from_states=("unknown",), delay_seconds=0.0
            )
            return None
        return self._give_up(connection, due)

    def _wait_on(self, due: Due) -> None:
        with tenant_transaction(self._database, due.agency_id) as connection:
            self._wait_longer(connection, due, due.negative_listings)

    def _wait_longer(self, connection: TenantConnection, due: Due, negative_listings: int) -> None:
        if due.age_seconds > self._patience.hold_seconds:
            return self._give_up(connection, due)
        outbox.set_state(
            connection,
            message_id=due.message_id,
            state="unknown",
            from_states=("unknown",),
            delay_seconds=self._patience.interval_seconds,
            negative_listings=negative_listings,
        )
        return None

    def _give_up(self, connection: TenantConnection, due: Due) -> None:
        logger.warning("unconfirmed", extra=_names(due))
        evidence.give_up(connection, message_id=due.message_id, conversation_id=due.conversation_id)

    def _accept(self, connection: TenantConnection, due: Due, listed: ListedMessage) -> None:
        logger.info("found_at_carrier", extra=_names(due))
        evidence.accept(
            connection,
            message_id=due.message_id,
            conversation_id=due.conversation_id,
            attempt=due.attempt,
            twilio_sid=listed.sid,
            provider_status=listed.status,
            error_code=None if listed.error_code is None else str(listed.error_code),
            error_message=listed.error_message,
        )

    def _follow(self, due: Due) -> None:
        """Ask for the status of a message that no callback has ended."""
        job, account = self._job(due)
        if due.age_seconds > FOLLOWED_SECONDS or job is None or account is None or job.twilio_sid is None:
            logger.warning("never_confirmed", extra=_names(due))
            with tenant_transaction(self._database, due.agency_id) as connection:
                outbox.delete(connection, message_id=due.message_id)
            return
        listed = self._gateway.fetch_message(account, job.twilio_sid)
        with tenant_transaction(self._database, due.agency_id) as connection:
            self._keep_event(connection, due.message_id, listed)
            self._accept(connection, due, listed)
            outbox.set_state(
                connection,
                message_id=due.message_id,
                state="accepted",
                from_states=("accepted",),
                delay_seconds=LATE_POLL_SECONDS if due.age_seconds > LATE_AFTER_SECONDS else POLL_SECONDS,
            )

    def _keep_event(self, connection: TenantConnection, message_id: UUID, listed: ListedMessage) -> None:
        provider_events.insert(
            connection,
            message_id=message_id,
            attempt=None,
            twilio_sid=listed.sid,
            provider_status=listed.status,
            error_code="" if listed.error_code is None else str(listed.error_code),
            status=message_status.FROM_TWILIO.get(listed.status),
            payload={"source": "poll"},
        )

    def _job(self, due: Due) -> tuple[Job | None, TwilioAccount | None]:
        with tenant_transaction(self._database, due.agency_id, read_only=True) as connection:
            jobs = attempts.list_jobs(connection, message_ids=[due.message_id])
            if not jobs:
                return None, None
            tokens = self._credentials.find_tokens(connection, account_sid=jobs[0].account_sid)
        return jobs[0], None if tokens is None else TwilioAccount(jobs[0].account_sid, *tokens)

    def _is_bound(self, connection: TenantConnection, listed: ListedMessage) -> bool:
        return messages.find_by_twilio_sid(connection, twilio_sid=listed.sid) is not None


def _is_candidate(listed: ListedMessage, job: Job) -> bool:
    """Whether it is from this job's sender, outbound, and not from before the attempt."""
    if not listed.direction.startswith("outbound"):
        return False
    if listed.date_created is not None and listed.date_created < job.attempted_at - CLOCK_SKEW:
        return False
    if job.sender.startswith("MG"):
        return listed.messaging_service_sid == job.sender
    return listed.from_ == address("whatsapp" if job.kind == "whatsapp" else "sms", job.sender)


def _names(due: Due) -> dict[str, str]:
    return {"agency_id": str(due.agency_id), "message_id": str(due.message_id)}
