"""Takes work for one worker and records its attempts, in one transaction: it is ours and attempted, or neither.

How much may be taken is decided here, by counting what is under way: no more than the worker has places, with some
kept for agencies that have nothing under way; and of an account that the carrier has slowed down, no more than its pace
allows (`delivery.pace`). Agencies of an account that has no room are passed over, so that they cost the others nothing.
"""

import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from delivery import lookup
from delivery.pace import Pace
from delivery.session import Session
from delivery.twilio_gateway import TwilioAccount
from persistence import attempts, outbox_work
from persistence.attempts import Job
from persistence.connection import TenantConnection, UnboundConnection
from persistence.outbox_work import Claim
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

# How many messages of one agency a claim takes at most: the rest of the places are for the others.
PER_AGENCY = 16
# Of an account that turned out to have no room: by then its agencies are known, and passed over.
GIVEN_BACK_SECONDS = 0.25
# How long a token that was read is used: a claim asks for one only now and then.
TOKEN_SECONDS = 5.0
# After a claim that failed, messages are claimed one by one for so long: the one that fails is found and put off.
CAREFUL_SECONDS = 60.0
PUT_OFF_SECONDS = 300.0


@dataclass(frozen=True)
class Sending:
    """How messages are sent: `validity_seconds` bounds how late the carrier may still send an accepted one."""

    public_base_url: str
    concurrency: int
    validity_seconds: int
    first_look_seconds: float

    @property
    def reserved(self) -> int:
        """Places beyond `concurrency` for agencies that have nothing under way, whoever holds all the others."""
        return max(1, self.concurrency // 4)


@dataclass(frozen=True)
class _Share:
    """What one claim may take; `room` is how many more calls each slowed account gets, `slowed` are the agencies of
    those that get some."""

    limit: int
    per_agency: int
    passed_over: set[UUID]
    room: dict[str, int]
    slowed: set[UUID]


class Claimer:
    """Used by the worker's main thread only."""

    def __init__(self, *, database: Database, credentials: TwilioCredentials, sending: Sending, pace: Pace) -> None:
        self._database = database
        self._credentials = credentials
        self._sending = sending
        self._pace = pace
        self._careful_until = 0.0
        # Which agencies send by which account, as far as this process has seen.
        self._agencies: defaultdict[str, set[UUID]] = defaultdict(set)
        # The accounts that were read, and until when they count.
        self._accounts: dict[tuple[UUID, str], tuple[TwilioAccount, float]] = {}

    def claim(
        self, session: Session, holding: dict[UUID, Job], ended: set[UUID]
    ) -> list[tuple[Job, TwilioAccount | None]]:
        """Take work, add it to what is held, and record the attempts. Calls that have `ended` leave their place.

        When the reply of the commit is lost it may be ours: nothing is called then, and the reconciler finds it.
        Raises DatabaseUnavailable and OutcomeUnknown.
        """
        # While little can be written down, little is begun.
        left = ended.copy() if len(ended) < self._sending.concurrency else set()
        share = self._share([job for message_id, job in holding.copy().items() if message_id not in left])
        if share.limit <= 0:
            return []
        claims: list[Claim] = []
        begun: list[tuple[Job, TwilioAccount | None]] = []
        try:
            with unbound_transaction(self._database) as connection:
                claims = self._take(connection, session, share)
                by_agency = attrgetter("agency_id")
                for agency_id, group in groupby(sorted(claims, key=by_agency), key=by_agency):
                    begun += self._begin(connection, agency_id, [claim.message_id for claim in group], share.room)
                # Before the commit: from then on the reconciler may see an attempt that nobody seems to hold.
                holding.update({job.message_id: job for job, _ in begun})
        except BaseException as error:
            for job, _ in begun:
                holding.pop(job.message_id, None)
            if isinstance(error, DatabaseUnavailable | OutcomeUnknown) or not isinstance(error, Exception):
                raise
            self._beware(claims, error)
            return []
        return begun

    def _take(self, connection: UnboundConnection, session: Session, share: _Share) -> list[Claim]:
        """First those whose account is not slowed, who have all places; then as many of the others as the account with
        the least room gets."""

        def take(limit: int, passed_over: set[UUID]) -> list[Claim]:
            return outbox_work.claim(
                connection,
                worker_key=session.worker_key,
                limit=limit,
                per_agency=share.per_agency,
                passed_over=list(passed_over),
            )

        claims = take(share.limit, share.passed_over | share.slowed)
        rooms = [left for left in share.room.values() if left > 0]
        left = min([share.limit - len(claims), *rooms])
        return claims + take(left, share.passed_over) if share.slowed and left > 0 else claims

    def _share(self, under_way: list[Job]) -> _Share:
        limit, passed_over, per_agency = self._sending.concurrency - len(under_way), set[UUID](), PER_AGENCY
        if limit <= 0:
            limit, passed_over, per_agency = limit + self._sending.reserved, {job.agency_id for job in under_way}, 1
        calls = Counter(job.account_sid for job in under_way)
        room = {account_sid: most - calls[account_sid] for account_sid, most in self._pace.slowed().items()}
        slowed = set[UUID]()
        for account_sid, left in room.items():
            (slowed if left > 0 else passed_over).update(self._agencies[account_sid])
        if time.monotonic() < self._careful_until:
            limit = min(limit, 1)
        return _Share(limit, per_agency, passed_over, room, slowed)

    def _begin(
        self, connection: UnboundConnection, agency_id: UUID, message_ids: list[UUID], room: dict[str, int]
    ) -> list[tuple[Job, TwilioAccount | None]]:
        tenant = transaction.bind(connection, agency_id)
        jobs, surplus = [], set()
        for job in attempts.list_jobs(tenant, message_ids=message_ids):
            self._agencies[job.account_sid].add(agency_id)
            left = room.get(job.account_sid)
            if left is None or left > 0:
                jobs.append(job)
            else:
                surplus.add(job.message_id)
            if left is not None:
                room[job.account_sid] = left - 1
        if surplus:
            outbox_work.give_back(
                connection, agency_id=agency_id, message_ids=list(surplus), seconds=GIVEN_BACK_SECONDS
            )
        attempts.start(tenant, message_ids=[one for one in message_ids if one not in surplus])
        return [(job, self._find_account(tenant, job.account_sid)) for job in jobs]

    def _find_account(self, tenant: TenantConnection, account_sid: str) -> TwilioAccount | None:
        account, until = self._accounts.get((tenant.agency_id, account_sid), (None, 0.0))
        if time.monotonic() >= until:
            account = lookup.find_account(tenant, self._credentials, account_sid=account_sid)
            if account is not None:
                self._accounts[tenant.agency_id, account_sid] = account, time.monotonic() + TOKEN_SECONDS
        return account

    def _beware(self, claims: list[Claim], error: Exception) -> None:
        """One message whose attempt cannot be recorded keeps no other from being sent."""
        self._careful_until = time.monotonic() + CAREFUL_SECONDS
        extra = {"error": type(error).__name__}
        if len(claims) == 1:
            (claim,) = claims
            extra |= {"agency_id": str(claim.agency_id), "message_id": str(claim.message_id)}
            with unbound_transaction(self._database) as connection:
                outbox_work.put_off(
                    connection, agency_id=claim.agency_id, message_id=claim.message_id, seconds=PUT_OFF_SECONDS
                )
        logger.error("claiming_broke_off", exc_info=error, extra=extra)
