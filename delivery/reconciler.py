"""Finds out what became of messages: of attempts whose outcome is unknown, and of sent ones that no callback ended.

An unknown attempt is decided by evidence only. Positive: a callback on the attempt's own URL, or the carrier's list
of messages to that recipient. Negative: the worker that made the attempt is done with it or proven dead, and two
spaced listings, both past a grace period that exceeds the call's deadline, lack it. At most one attempt per sender
and recipient is undecided at a time, so a message in the list that is bound to nothing else is the one looked for;
unless an earlier one with the same content was given up, which could still turn up: then only a callback decides.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import psycopg2

from delivery import evidence, metrics
from delivery.session import Session
from delivery.twilio_gateway import ListedMessage, ListingUnavailable, TwilioAccount, TwilioGateway, address
from persistence import agencies, attempts, conversations, message_status, outbox, outbox_work, provider_events
from persistence.attempts import Job
from persistence.connection import TenantConnection
from persistence.outbox_work import Due
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import CredentialsUnreadable, TwilioCredentials

logger = logging.getLogger(__name__)

BATCH = 100
# How many messages one reconciler asks the carrier about at a time.
PARALLEL = 8
NEGATIVE_LISTINGS_NEEDED = 2
# The carrier's clock and ours may differ by this much.
CLOCK_SKEW = timedelta(minutes=5)
# Some carriers never confirm; then `sent` is the last word, and is never turned into a failure.
FOLLOWED_SECONDS = 72 * 3600.0
LATE_POLL_SECONDS = 3600.0
LATE_AFTER_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Patience:
    """`grace_seconds` must exceed the deadline of a call; `hold_seconds` is how long evidence is waited for.

    What is sent but not ended is asked about every `poll_seconds`.
    """

    grace_seconds: float
    hold_seconds: float
    interval_seconds: float
    poll_seconds: float = 240.0


@dataclass(frozen=True)
class Case:
    """All that is needed to ask the carrier; `unproven` counts the attempts whose outcome nobody knows."""

    job: Job
    account: TwilioAccount
    unproven: int


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
            due = outbox_work.take_due(
                connection,
                limit=BATCH,
                grace_seconds=self._patience.grace_seconds,
                follow_seconds=self._patience.poll_seconds / 2,
                put_off_seconds=self._patience.interval_seconds,
            )
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="reconcile") as pool:
            for one in due:
                pool.submit(self._look_at, one, session)
        return len(due)

    def promote_stuck(self) -> None:
        """Let go what waits behind nothing."""
        with unbound_transaction(self._database) as connection:
            stuck = outbox_work.list_stuck(connection, limit=BATCH)
        for agency_id, conversation_id in stuck:
            with tenant_transaction(self._database, agency_id) as tenant:
                conversations.lock(tenant, conversation_id=conversation_id)
                if outbox.promote_next(tenant, conversation_id=conversation_id):
                    logger.error("promoted_stuck_conversation", extra={"agency_id": str(agency_id)})

    def _look_at(self, due: Due, session: Session) -> None:
        """What cannot be found out now is due again later: one message never keeps the others from being looked at."""
        try:
            if due.state == "calling":
                # Ours, but in nobody's hands: recording its outcome failed.
                dropped = due.worker_key == session.worker_key and not self._holds(due.message_id)
                if dropped or session.is_dead(due.worker_key):
                    self._doubt(due)
            elif due.state == "unknown":
                self._investigate(due)
            elif due.state == "accepted":
                self._follow(due)
        except ListingUnavailable as error:  # no evidence either way
            metrics.looked("listing_unavailable")
            logger.info("listing_unavailable", extra={**_names(due), "reason": error.reason})
        except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
            logger.warning("reconciler_lost_database", extra={"error": type(error).__name__})
        except Exception:
            logger.exception("look_broke_off", extra=_names(due))

    def _doubt(self, due: Due) -> None:
        """The worker ended between recording the attempt and recording its outcome."""
        metrics.looked("worker_ended_during_call")
        logger.warning("worker_ended_during_call", extra=_names(due))
        with tenant_transaction(self._database, due.agency_id) as connection:
            evidence.doubt(
                connection, message_id=due.message_id, attempt=due.attempt, reason="worker_ended", delay_seconds=0.0
            )

    def _investigate(self, due: Due) -> None:
        case = self._case(due)
        found = [] if case is None else self._list(case)
        with tenant_transaction(self._database, due.agency_id) as connection:
            conversations.lock(connection, conversation_id=due.conversation_id)
            if outbox.find(connection, message_id=due.message_id) != outbox.Standing("unknown", due.attempt):
                return  # evidence came in while the carrier was asked
            candidates = [] if case is None else _unbound(connection, due, found)
            if case is not None and self._accept_exact(connection, due, case.job, candidates, attempt=due.attempt):
                return
            # Something from us to them that is bound to nothing, in other words: Twilio may have changed the body
            # (smart encoding, link shortening, a template's text). It proves neither.
            if case is None or candidates or due.age_seconds <= self._patience.grace_seconds:
                self._wait_longer(connection, due, due.negative_listings)
            else:
                self._count_negative(connection, due)

    def _count_negative(self, connection: TenantConnection, due: Due) -> None:
        found_nothing = due.negative_listings + 1
        if found_nothing < NEGATIVE_LISTINGS_NEEDED:
            return self._wait_longer(connection, due, found_nothing)
        unknown = attempts.count_unknown(connection, message_id=due.message_id)
        if agencies.resends_unconfirmed(connection) and unknown == 1:
            metrics.looked("resending")
            logger.warning("resending", extra=_names(due))
            outbox.set_state(
                connection, message_id=due.message_id, state="queued", from_states=("unknown",), delay_seconds=0.0
            )
            return None
        return self._give_up(connection, due)

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
        metrics.looked("unconfirmed")
        logger.warning("unconfirmed", extra=_names(due))
        evidence.give_up(connection, message_id=due.message_id, conversation_id=due.conversation_id)

    def _follow(self, due: Due) -> None:
        """Ask for the status of a message that no callback has ended, and for a second one if there may be one."""
        case = self._case(due)
        if case is None or case.job.twilio_sid is None or due.age_seconds > FOLLOWED_SECONDS:
            return self._stop_following(due)
        listed = self._gateway.fetch_message(case.account, case.job.twilio_sid)
        found = self._list(case) if case.unproven else []
        with tenant_transaction(self._database, due.agency_id) as connection:
            self._accept(connection, due, listed, attempt=None)
            self._accept_exact(connection, due, case.job, _unbound(connection, due, found), attempt=None)
            has_ended = message_status.FROM_TWILIO.get(listed.status) in message_status.TERMINAL
            if has_ended and due.age_seconds > self._patience.hold_seconds:
                outbox.delete(connection, message_id=due.message_id)
            is_late = due.age_seconds > LATE_AFTER_SECONDS
            outbox.set_state(
                connection,
                message_id=due.message_id,
                state="accepted",
                from_states=("accepted",),
                delay_seconds=LATE_POLL_SECONDS if is_late else self._patience.poll_seconds,
            )
        return None

    def _stop_following(self, due: Due) -> None:
        if due.age_seconds <= FOLLOWED_SECONDS:
            return  # the account's tokens are missing, and may come back
        metrics.looked("never_confirmed")
        logger.warning("never_confirmed", extra=_names(due))
        with tenant_transaction(self._database, due.agency_id) as connection:
            outbox.delete(connection, message_id=due.message_id)

    def _accept_exact(
        self, connection: TenantConnection, due: Due, job: Job, candidates: list[ListedMessage], *, attempt: int | None
    ) -> bool:
        """Bind those that can be no other message than this one; two of them are a message that went out twice."""
        exact = [one for one in candidates if one.body == job.content and one.num_media == len(job.media)]
        if not exact or attempts.has_unproven_twin(connection, message_id=due.message_id):
            return False
        metrics.looked("found_at_carrier")
        logger.info("found_at_carrier", extra=_names(due))
        for one in reversed(exact):
            self._accept(connection, due, one, attempt=attempt)
        return True

    def _accept(self, connection: TenantConnection, due: Due, listed: ListedMessage, *, attempt: int | None) -> None:
        error_code = None if listed.error_code is None else str(listed.error_code)
        provider_events.insert(
            connection,
            message_id=due.message_id,
            attempt=attempt,
            twilio_sid=listed.sid,
            provider_status=listed.status,
            error_code=error_code or "",
            status=message_status.FROM_TWILIO.get(listed.status),
            payload={"source": "listing"},
        )
        evidence.accept(
            connection,
            message_id=due.message_id,
            conversation_id=due.conversation_id,
            attempt=attempt,
            twilio_sid=listed.sid,
            provider_status=listed.status,
            error_code=error_code,
            error_message=listed.error_message,
        )

    def _case(self, due: Due) -> Case | None:
        with tenant_transaction(self._database, due.agency_id, read_only=True) as connection:
            jobs = attempts.list_jobs(connection, message_ids=[due.message_id])
            if not jobs:
                return None
            try:
                tokens = self._credentials.find_tokens(connection, account_sid=jobs[0].account_sid)
            except CredentialsUnreadable:
                tokens = None
            if tokens is None:
                return None
            unproven = attempts.count_unknown(connection, message_id=due.message_id)
        return Case(jobs[0], TwilioAccount(jobs[0].account_sid, *tokens), unproven)

    def _list(self, case: Case) -> list[ListedMessage]:
        """What the carrier has from this sender to this contact since the attempt, newest first."""
        job, since = case.job, case.job.attempted_at - CLOCK_SKEW
        listed = self._gateway.list_messages(
            case.account,
            to=address("whatsapp" if job.kind == "whatsapp" else "sms", job.recipient),
            created_after=since,
        )
        return [
            one
            for one in listed
            if one.direction.startswith("outbound")
            and (one.date_created is None or one.date_created >= since)
            and _is_from_sender(one, job)
        ]


def _unbound(connection: TenantConnection, due: Due, found: list[ListedMessage]) -> list[ListedMessage]:
    known = provider_events.list_known_sids(
        connection, conversation_id=due.conversation_id, twilio_sids=[one.sid for one in found]
    )
    return [one for one in found if one.sid not in known]


def _is_from_sender(listed: ListedMessage, job: Job) -> bool:
    if job.sender.startswith("MG"):
        return listed.messaging_service_sid == job.sender
    return listed.from_ == address("whatsapp" if job.kind == "whatsapp" else "sms", job.sender)


def _names(due: Due) -> dict[str, str]:
    return {"agency_id": str(due.agency_id), "message_id": str(due.message_id)}
