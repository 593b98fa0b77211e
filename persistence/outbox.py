"""What the worker has still to do for each outbound message.

A row is `waiting` behind another message of its conversation (with `attempted_at` where it came out of a backup and
may have been sent all the same), `queued` until `available_at`, `calling` while an attempt is open, `unknown` while it
is found out what became of an attempt, `accepted` until the carrier's last word on it. At most one row of a
conversation is queued, calling or unknown: a unique index keeps that, the lock on the conversation that every writer
here holds makes it never fail.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

CHANNEL = "faro_outbox"

LATEST_ATTEMPT = text("""
    select coalesce(max(number), 0)
    from attempts
    where agency_id = :agency_id
    and message_id = :message_id
""")

INSERT = text("""
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, attempt, state)
    values (:agency_id, :message_id, :conversation_id, :channel_id, :sent_at, :attempt,
        case
            when exists (
                select 1
                from outbox
                where agency_id = :agency_id
                and conversation_id = :conversation_id
                and state = 'waiting') then 'waiting'
            when exists (
                select 1
                from outbox
                where agency_id = :agency_id
                and conversation_id = :conversation_id
                and state in ('queued', 'calling', 'unknown')) then 'waiting'
            else 'queued'
        end)
""")

# Nobody was following the message any more, and the carrier has it after all.
FOLLOW = text("""
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, attempt, attempted_at, state)
    select messages.agency_id, messages.id, messages.conversation_id, conversations.channel_id, messages.sent_at,
        attempts.number, attempts.started_at, 'accepted'
    from messages
    join conversations on conversations.agency_id = messages.agency_id
        and conversations.id = messages.conversation_id
    join attempts on attempts.agency_id = messages.agency_id and attempts.message_id = messages.id
    where messages.agency_id = :agency_id
    and conversations.agency_id = :agency_id
    and attempts.agency_id = :agency_id
    and messages.id = :message_id
    and messages.status in ('sending', 'sent')
    order by attempts.number desc
    limit 1
    on conflict (agency_id, message_id) do nothing
""")

# Sent behind the commit: PostgreSQL has those that notify within a transaction commit one after the other.
NOTIFY = text("notify faro_outbox")

# `state` and `attempt` guard every change: what another process has settled or begun meanwhile is left alone.
SET_STATE = text("""
    update outbox
    set state = :state,
        available_at = clock_timestamp() + make_interval(secs => :delay_seconds),
        negative_listings = :negative_listings
    where agency_id = :agency_id
    and message_id = :message_id
    and state = any(:from_states)
    and attempt = coalesce(cast(:attempt as integer), attempt)
    returning message_id
""")

DELETE = text("""
    delete from outbox
    where agency_id = :agency_id
    and message_id = :message_id
    returning message_id
""")

FIND = text("""
    select state, attempt
    from outbox
    where agency_id = :agency_id
    and message_id = :message_id
""")

LOCK = text("""
    select state, attempt
    from outbox
    where agency_id = :agency_id
    and message_id = :message_id
    for no key update
""")

PROMOTE_NEXT = text("""
    update outbox
    set state = case when attempted_at is null then 'queued' else 'unknown' end, available_at = clock_timestamp()
    where agency_id = :agency_id
    and message_id = (
        select message_id
        from outbox
        where agency_id = :agency_id
        and conversation_id = :conversation_id
        and state = 'waiting'
        order by sent_at, message_id
        limit 1)
    and not exists (
        select 1
        from outbox
        where agency_id = :agency_id
        and conversation_id = :conversation_id
        and state in ('queued', 'calling', 'unknown'))
    returning message_id
""")

# Those that would be next: of a long queue the rest is held when its turn comes near. What is held already stays as it
# is, and what another transaction is about to hold is left to it: an outage makes many ask for the same at once.
HOLD_CHANNEL = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    where agency_id = :agency_id
    and message_id = any(array(
        select message_id
        from outbox
        where agency_id = :agency_id
        and channel_id = :channel_id
        and state = 'queued'
        and available_at < clock_timestamp() + make_interval(secs => :seconds / 2.0)
        order by available_at
        limit 2000
        for update skip locked))
    returning message_id
""")


@dataclass(frozen=True)
class Standing:
    """What is still to do for a message, and the number of its latest attempt."""

    state: str
    attempt: int


def insert(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    channel_id: UUID,
    sent_at: datetime,
    again: bool = False,
) -> None:
    """Queue a message behind those of its conversation, whose row the caller holds locked, and wake a worker.

    `again` where the message has been tried before.
    """
    # Not a subselect of the insert: under Citus the two tables are apart.
    attempt = connection.execute(LATEST_ATTEMPT, message_id=message_id).scalar_one() if again else 0
    connection.execute_later(
        INSERT,
        message_id=message_id,
        conversation_id=conversation_id,
        channel_id=channel_id,
        sent_at=sent_at,
        attempt=attempt,
    )
    connection.execute_after_commit(NOTIFY)


def follow(connection: TenantConnection, *, message_id: UUID) -> None:
    """Have the message followed to its end again, if it has not ended and nobody follows it."""
    connection.execute(FOLLOW, message_id=message_id)


def find(connection: TenantConnection, *, message_id: UUID) -> Standing | None:
    """What is still to do for the message, or None when nothing is."""
    row = connection.execute(FIND, message_id=message_id).first()
    return Standing(**row._mapping) if row else None


def lock(connection: TenantConnection, *, message_id: UUID) -> Standing | None:
    """The same, with the row locked until the transaction ends."""
    row = connection.execute(LOCK, message_id=message_id).first()
    return Standing(**row._mapping) if row else None


def find_state(connection: TenantConnection, *, message_id: UUID) -> str | None:
    """The state of what is still to do for the message, or None when nothing is."""
    standing = find(connection, message_id=message_id)
    return standing.state if standing else None


def set_state(
    connection: TenantConnection,
    *,
    message_id: UUID,
    state: str,
    from_states: tuple[str, ...],
    delay_seconds: float,
    attempt: int | None = None,
    negative_listings: int = 0,
) -> bool:
    """Move the row if it is in one of `from_states`, and `attempt`, if given, is its latest; True when it moved.

    It is not looked at before the delay.
    """
    moved = connection.execute(
        SET_STATE,
        message_id=message_id,
        state=state,
        from_states=list(from_states),
        delay_seconds=delay_seconds,
        attempt=attempt,
        negative_listings=negative_listings,
    )
    return moved.first() is not None


def delete(connection: TenantConnection, *, message_id: UUID) -> bool:
    """Nothing is left to do for the message; True when there was."""
    return connection.execute(DELETE, message_id=message_id).first() is not None


def promote_next(connection: TenantConnection, *, conversation_id: UUID) -> bool:
    """Let the next message of the conversation go, unless one is under way; the caller holds the conversation."""
    promoted = connection.execute(PROMOTE_NEXT, conversation_id=conversation_id).first() is not None
    if promoted:
        connection.execute_after_commit(NOTIFY)
    return promoted


def hold_channel(connection: TenantConnection, *, channel_id: UUID, seconds: float) -> int:
    """Keep what is queued for a sender, and put off the next 2,000 of it; how many were not put off before."""
    return len(connection.execute(HOLD_CHANNEL, channel_id=channel_id, seconds=seconds).all())
