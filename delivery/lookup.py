"""What the carrier says of a message when it is asked: who asks, what is asked, and what an answer proves.

A message in the carrier's list is taken for one of ours only if it can be no other: bound to nothing else, from no
other sender of the installation, with the same text and as many media, and with no twin of the same text of which
nobody knows whether it arrived.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from delivery import evidence, metrics
from delivery.twilio_gateway import ListedMessage, TwilioAccount, TwilioGateway, address, is_before
from persistence import attempts, channels, message_status, provider_events
from persistence.attempts import Job
from persistence.connection import TenantConnection
from persistence.outbox_work import Due
from tenancy import number_routing
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import CredentialsUnreadable, TwilioCredentials

logger = logging.getLogger(__name__)

# The carrier's clock and ours may differ by this much.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Case:
    """All that is needed to ask the carrier about one message, which it may have had since then."""

    job: Job
    account: TwilioAccount
    since: datetime | None


@dataclass(frozen=True)
class Candidate:
    """A message in the carrier's list from the number in question; `by_other_sender` where it went out through a
    messaging service that another channel sends by, and whose pool has the number."""

    listed: ListedMessage
    by_other_sender: bool


def find_account(
    connection: TenantConnection, credentials: TwilioCredentials, *, account_sid: str
) -> TwilioAccount | None:
    """The account as the bound agency may use it, or None when there is no token for it that can be read."""
    try:
        tokens = credentials.find_tokens(connection, account_sid=account_sid)
    except CredentialsUnreadable:
        tokens = None
    return None if tokens is None else TwilioAccount(account_sid, *tokens)


def find_case(database: Database, credentials: TwilioCredentials, due: Due) -> Case | None:
    """None when the message or its account's token is gone."""
    with tenant_transaction(database, due.agency_id, read_only=True) as connection:
        jobs = attempts.list_jobs(connection, message_ids=[due.message_id])
        account = find_account(connection, credentials, account_sid=jobs[0].account_sid) if jobs else None
        undecided = attempts.find_undecided_since(connection, message_id=due.message_id)
    if account is None:
        return None
    # A person may have it sent again days after the first attempt.
    begun = [at for at in (jobs[0].attempted_at, undecided) if at is not None]
    return Case(jobs[0], account, since=min(begun) - CLOCK_SKEW if begun else None)


def list_since(database: Database, gateway: TwilioGateway, case: Case) -> list[Candidate]:
    """What the carrier has from this sender to this contact since the first attempt that may have gone out, newest
    first. Raises ListingUnavailable.
    """
    job, since = case.job, case.since
    listed = gateway.list_messages(
        case.account, to=address("whatsapp" if job.kind == "whatsapp" else "sms", job.recipient), created_after=since
    )
    found = [
        one
        for one in listed
        if one.direction.startswith("outbound")
        and (since is None or not is_before(one, since))
        and _is_from_sender(one, job)
    ]
    services = {sid for one in found if (sid := one.messaging_service_sid) and sid != job.sender}
    others = _list_other_senders(database, job, services) if services else set()
    return [Candidate(one, by_other_sender=one.messaging_service_sid in others) for one in found]


def unbound(connection: TenantConnection, due: Due, found: list[Candidate]) -> list[Candidate]:
    """Those that belong to no message yet."""
    known = provider_events.list_known_sids(
        connection, conversation_id=due.conversation_id, twilio_sids=[one.listed.sid for one in found]
    )
    return [one for one in found if one.listed.sid not in known]


def accept_exact(
    connection: TenantConnection, due: Due, job: Job, candidates: list[Candidate], *, attempt: int | None
) -> bool:
    """Bind those that can be no other message than this one; two of them are a message that went out twice."""
    exact = [
        one.listed
        for one in candidates
        if not one.by_other_sender and one.listed.body == job.content and one.listed.num_media == len(job.media)
    ]
    # Without text and media it was redacted, and so may those be that the carrier lists: they all look alike.
    if not exact or not (job.content or job.media) or attempts.has_unproven_twin(connection, message_id=due.message_id):
        return False
    metrics.looked("found_at_carrier")
    logger.info("found_at_carrier", extra=names(due))
    for one in reversed(exact):
        accept(connection, due, one, attempt=attempt)
    return True


def accept(connection: TenantConnection, due: Due, listed: ListedMessage, *, attempt: int | None) -> None:
    """Keep what the carrier says of this message as an event, and apply it."""
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


def names(due: Due) -> dict[str, str]:
    """What a log line may say of a message."""
    return {"agency_id": str(due.agency_id), "message_id": str(due.message_id)}


def _is_from_sender(listed: ListedMessage, job: Job) -> bool:
    if job.sender.startswith("MG"):
        return listed.messaging_service_sid == job.sender
    return listed.from_ == address("whatsapp" if job.kind == "whatsapp" else "sms", job.sender)


def _list_other_senders(database: Database, job: Job, services: set[str]) -> set[str]:
    """Those of the messaging services that other channels send by, of whatever agency.

    Twilio's description of a message gives one that used no service "a unique default value" for it. So a service that
    nobody of ours sends by proves nothing: a message that lists under it may be the number's own.
    """
    with unbound_transaction(database, read_only=True) as connection:
        routes = {
            service: number_routing.find(connection, account_sid=job.account_sid, addresses=[service])
            for service in services
        }
    with tenant_transaction(database, job.agency_id, read_only=True) as tenant:
        own = channels.list_known_addresses(tenant, addresses=services)
    return own | {service for service, route in routes.items() if route and route.agency_id != job.agency_id}
