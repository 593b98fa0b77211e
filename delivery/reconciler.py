"""Finds out what became of attempts whose outcome is unknown.

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
from uuid import UUID

import psycopg2

from delivery import evidence, lookup, metrics, retry_policy
from delivery.lookup import names
from delivery.session import Session
from delivery.twilio_gateway import ListingUnavailable, TwilioGateway
from persistence import agencies, attempts, conversations, outbox, outbox_work
from persistence.connection import TenantConnection
from persistence.outbox_work import Due
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

BATCH = 100
# How many messages one reconciler asks the carrier about at a time.
PARALLEL = 8
NEGATIVE_LISTINGS_NEEDED = 2


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
            due = outbox_work.take_due(
                connection,
                limit=BATCH,
                grace_seconds=self._patience.grace_seconds,
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
        except ListingUnavailable as error:  # no evidence either way
            metrics.looked("listing_unavailable")
            logger.info("listing_unavailable", extra={**names(due), "reason": error.reason})
        except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
            logger.warning("reconciler_lost_database", extra={"error": type(error).__name__})
        except Exception:
            logger.exception("look_broke_off", extra=names(due))

    def _doubt(self, due: Due) -> None:
        """The worker ended between recording the attempt and recording its outcome."""
        metrics.looked("worker_ended_during_call")
        logger.warning("worker_ended_during_call", extra=names(due))
        with tenant_transaction(self._database, due.agency_id) as connection:
            evidence.doubt(
                connection, message_id=due.message_id, attempt=due.attempt, reason="worker_ended", delay_seconds=0.0
            )

    def _investigate(self, due: Due) -> None:
        case = lookup.find_case(self._database, self._credentials, due)
        found = [] if case is None else lookup.list_since(self._database, self._gateway, case)
        with tenant_transaction(self._database, due.agency_id) as connection:
            conversations.lock(connection, conversation_id=due.conversation_id)
            if outbox.find(connection, message_id=due.message_id) != outbox.Standing("unknown", due.attempt):
                return  # evidence came in while the carrier was asked
            candidates = [] if case is None else lookup.unbound(connection, due, found)
            if case is not None and lookup.accept_exact(connection, due, case.job, candidates, attempt=due.attempt):
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
            # However old the attempt is: after an outage of ours it is the first listing that comes late.
            return self._look_again(connection, due, found_nothing)
        unknown = attempts.count_unknown(connection, message_id=due.message_id)
        if agencies.resends_unconfirmed(connection) and unknown == 1:
            metrics.looked("resending")
            logger.warning("resending", extra=names(due))
            outbox.set_state(
                connection, message_id=due.message_id, state="queued", from_states=("unknown",), delay_seconds=0.0
            )
            return None
        return self._give_up(connection, due)

    def _wait_longer(self, connection: TenantConnection, due: Due, negative_listings: int) -> None:
        if due.age_seconds > self._patience.hold_seconds:
            return self._give_up(connection, due)
        return self._look_again(connection, due, negative_listings)

    def _look_again(self, connection: TenantConnection, due: Due, negative_listings: int) -> None:
        outbox.set_state(
            connection,
            message_id=due.message_id,
            state="unknown",
            from_states=("unknown",),
            delay_seconds=self._patience.interval_seconds,
            negative_listings=negative_listings,
        )

    def _give_up(self, connection: TenantConnection, due: Due) -> None:
        metrics.looked("unconfirmed")
        logger.warning("unconfirmed", extra=names(due))
        error_message = None
        if attempts.count_broken(connection, message_id=due.message_id).with_the_worker >= retry_policy.MOST_DEATHS:
            # Nobody can tell a death before the first byte from one after it, so it is not said to have failed.
            evidence.poison(names(due), reason="worker_ended")
            error_message = "The worker ended each time that it tried to send the message."
        evidence.give_up(
            connection,
            message_id=due.message_id,
            conversation_id=due.conversation_id,
            error_message=error_message,
        )
