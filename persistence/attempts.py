"""One row per call of the carrier, committed before the call: what a crash cannot take back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

# With `returning`, Citus inserts what it selects by statements; without, by COPY, which row-level security refuses.
START = text("""
    insert into attempts (agency_id, message_id, number, worker_key)
    select outbox.agency_id, outbox.message_id, outbox.attempt, outbox.worker_key
    from outbox
    join messages on messages.agency_id = outbox.agency_id and messages.id = outbox.message_id
    where outbox.agency_id = :agency_id
    and messages.agency_id = :agency_id
    and outbox.message_id = any(:message_ids)
    returning message_id
""")

MARK_SENDING = text("""
    update messages
    set status = 'sending'
    where agency_id = :agency_id
    and id = any(:message_ids)
    and status in ('queued', 'unconfirmed')
""")

# The joins of LIST_JOBS stand in their best order: looking for a better one takes the planner four times as long as all
# the rest. Of a backlog its statistics know nothing yet: it would take it for one row, and merge it with all
# conversations of the agency; so each row is looked up by its key.
_LOOK_UP_BY_KEY = ("SET LOCAL join_collapse_limit = 1", "SET LOCAL enable_mergejoin = off")

LIST_JOBS = text("""
    select messages.id as message_id, messages.conversation_id, messages.content, messages.media, messages.template,
        channels.id as channel_id, channels.kind, channels.address as sender, channels.account_sid,
        extract(epoch from channels.paused_until - clock_timestamp())::float8 as paused_seconds,
        contacts.phone as recipient, conversations.opted_out_at is not null as opted_out,
        agencies.status = 'active' as agency_is_active,
        outbox.attempt, outbox.attempted_at, outbox.negative_listings, messages.twilio_sid
    from messages
    join outbox on outbox.agency_id = messages.agency_id and outbox.message_id = messages.id
    join conversations on conversations.agency_id = messages.agency_id and conversations.id = messages.conversation_id
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    join contacts on contacts.agency_id = conversations.agency_id and contacts.id = conversations.contact_id
    join agencies on agencies.agency_id = messages.agency_id
    where messages.agency_id = :agency_id
    and agencies.agency_id = :agency_id
    and outbox.agency_id = :agency_id
    and conversations.agency_id = :agency_id
    and channels.agency_id = :agency_id
    and contacts.agency_id = :agency_id
    and messages.id = any(:message_ids)
""")

# `unproven`: another attempt may have gone out as well.
LIST_FOLLOWED = text("""
    select messages.id as message_id, messages.twilio_sid, messages.status, channels.account_sid,
        exists (
            select 1
            from attempts
            where attempts.agency_id = :agency_id
            and attempts.message_id = messages.id
            and (attempts.outcome is null or attempts.outcome = 'unknown')) as unproven
    from messages
    join conversations on conversations.agency_id = messages.agency_id and conversations.id = messages.conversation_id
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    where messages.agency_id = :agency_id
    and conversations.agency_id = :agency_id
    and channels.agency_id = :agency_id
    and messages.id = any(:message_ids)
""")

FINISH = text("""
    update attempts
    set finished_at = statement_timestamp(), outcome = :outcome, reason = :reason,
        error_code = :error_code, twilio_sid = coalesce(twilio_sid, :twilio_sid)
    where agency_id = :agency_id
    and message_id = :message_id
    and number = :number
    and (outcome is null or outcome = 'unknown')
""")

FIND_AGE = text("""
    select extract(epoch from clock_timestamp() - started_at)::float8
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
    and number = :number
""")

FIND_UNDECIDED_SINCE = text("""
    select min(started_at)
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
    and (outcome is null or outcome = 'unknown')
""")

COUNT_UNKNOWN = text("""
    select count(*)
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
    and (outcome is null or outcome = 'unknown')
""")

COUNT_TRIED = text("""
    select count(*)
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
    and outcome = 'not_processed'
    and reason <> all(:held_back)
""")

COUNT_BROKEN = text("""
    select count(*) filter (where outcome = 'not_processed' and left(reason, 6) = 'error_') as before_the_call,
        count(*) filter (where outcome = 'unknown' and reason = 'worker_ended') as with_the_worker
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
""")

# Another message to the same contact with the same content, of which one attempt may or may not have arrived.
HAS_UNPROVEN_TWIN = text("""
    select exists (
        select 1
        from messages this
        join messages twin on twin.agency_id = this.agency_id and twin.conversation_id = this.conversation_id
        join attempts on attempts.agency_id = twin.agency_id and attempts.message_id = twin.id
        where this.agency_id = :agency_id
        and twin.agency_id = :agency_id
        and attempts.agency_id = :agency_id
        and this.id = :message_id
        and twin.id <> this.id
        and twin.direction = 'outbound'
        and twin.content = this.content
        and (attempts.outcome is null or attempts.outcome = 'unknown'))
""")

# Why an attempt was recorded and then not made: it says nothing about the message.
HELD_BACK = ("sender_paused", "sender_refused", "credentials_missing", "carrier_in_trouble")


@dataclass(frozen=True)
class Job:
    """All that one call of the carrier needs, read in the transaction that recorded the attempt."""

    agency_id: UUID
    message_id: UUID
    conversation_id: UUID
    content: str
    media: list[dict[str, Any]]
    template: dict[str, Any] | None
    channel_id: UUID
    kind: str
    sender: str
    account_sid: str
    paused_seconds: float | None
    recipient: str
    opted_out: bool
    agency_is_active: bool
    attempt: int
    attempted_at: datetime | None
    negative_listings: int
    twilio_sid: str | None


@dataclass(frozen=True)
class Broken:
    """Attempts that an error of ours ended before anything was called, and those during which the worker died."""

    before_the_call: int
    with_the_worker: int


@dataclass(frozen=True)
class Followed:
    """A message that the carrier has, and what is known of it."""

    message_id: UUID
    twilio_sid: str | None
    status: str
    account_sid: str
    unproven: bool


def start(connection: TenantConnection, *, message_ids: Sequence[UUID]) -> None:
    """Record the attempts that the outbox rows name, and show their messages as `sending`."""
    connection.execute_later(START, message_ids=list(message_ids))
    connection.execute_later(MARK_SENDING, message_ids=list(message_ids))


def list_jobs(connection: TenantConnection, *, message_ids: Sequence[UUID]) -> list[Job]:
    """What is to be sent, or was tried, for each of these messages that are in the outbox."""
    for setting in _LOOK_UP_BY_KEY:
        connection.transaction.run_text_later(setting)
    rows = connection.execute(LIST_JOBS, message_ids=list(message_ids))
    return [Job(agency_id=connection.agency_id, **row._mapping) for row in rows]


def list_followed(connection: TenantConnection, *, message_ids: Sequence[UUID]) -> list[Followed]:
    """What is known of these messages, which the carrier has accepted."""
    rows = connection.execute(LIST_FOLLOWED, message_ids=list(message_ids))
    return [Followed(**row._mapping) for row in rows]


def finish(
    connection: TenantConnection,
    *,
    message_id: UUID,
    number: int,
    outcome: str,
    reason: str | None = None,
    error_code: str | None = None,
    twilio_sid: str | None = None,
) -> None:
    """Record what was observed; what is known already is not overwritten."""
    connection.execute(
        FINISH,
        message_id=message_id,
        number=number,
        outcome=outcome,
        reason=reason,
        error_code=error_code,
        twilio_sid=twilio_sid,
    )


def find_age_seconds(connection: TenantConnection, *, message_id: UUID, number: int) -> float | None:
    """How long ago this call was begun, or None when there is no record of it."""
    age: float | None = connection.execute(FIND_AGE, message_id=message_id, number=number).scalar()
    return age


def find_undecided_since(connection: TenantConnection, *, message_id: UUID) -> datetime | None:
    """When the first of the calls was begun of which nobody knows the outcome, or None when there is none."""
    begun: datetime | None = connection.execute(FIND_UNDECIDED_SINCE, message_id=message_id).scalar()
    return begun


def count_unknown(connection: TenantConnection, *, message_id: UUID) -> int:
    """How many calls for this message have no proven outcome."""
    count: int = connection.execute(COUNT_UNKNOWN, message_id=message_id).scalar_one()
    return count


def count_tried(connection: TenantConnection, *, message_id: UUID) -> int:
    """How many calls for this message the carrier did not process."""
    count: int = connection.execute(COUNT_TRIED, message_id=message_id, held_back=list(HELD_BACK)).scalar_one()
    return count


def count_broken(connection: TenantConnection, *, message_id: UUID) -> Broken:
    """How often an attempt of this message failed by our own fault."""
    return Broken(**connection.execute(COUNT_BROKEN, message_id=message_id).one()._mapping)


def has_unproven_twin(connection: TenantConnection, *, message_id: UUID) -> bool:
    """Whether a message in the carrier's list could as well be another one of ours."""
    return bool(connection.execute(HAS_UNPROVEN_TWIN, message_id=message_id).scalar())
