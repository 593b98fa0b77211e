"""What the worker has still to do for each outbound message.

A row is `waiting` behind another message of its conversation, `queued` until `available_at`, `calling` while an
attempt is open, `unknown` while it is found out what became of an attempt, `accepted` until the carrier's last
word on it. At most one row of a conversation is queued, calling or unknown: a unique index keeps that, the lock
on the conversation that every writer here holds makes it never fail.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection, UnboundConnection

CHANNEL = "faro_outbox"

INSERT = text("""
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, attempt, state)
    values (:agency_id, :message_id, :conversation_id, :channel_id, :sent_at,
        (select coalesce(max(number), 0) from attempts where agency_id = :agency_id and message_id = :message_id),
        case when exists (
            select 1
            from outbox
            where agency_id = :agency_id
            and conversation_id = :conversation_id
            and state in ('waiting', 'queued', 'calling', 'unknown')
        ) then 'waiting' else 'queued' end)
""")

NOTIFY = text("notify faro_outbox")

# The agencies that have work are walked one index step each, so the backlog of one costs the others nothing;
# each gives at most :per_agency rows, and they take turns.
CLAIM = text("""
    with recursive agency as (
        (select agency_id from outbox where state = 'queued' order by agency_id limit 1)
        union all
        select (select min_agency.agency_id
            from outbox min_agency
            where min_agency.state = 'queued' and min_agency.agency_id > agency.agency_id
            order by min_agency.agency_id limit 1)
        from agency
        where agency.agency_id is not null
    ),
    due as (
        select picked.agency_id, picked.message_id,
            row_number() over (partition by picked.agency_id order by picked.available_at) as turn
        from agency
        cross join lateral (
            select agency_id, message_id, available_at
            from outbox
            where outbox.agency_id = agency.agency_id
            and state = 'queued'
            and available_at <= clock_timestamp()
            order by available_at
            limit :per_agency
            for update skip locked
        ) picked
        where agency.agency_id is not null
    )
    update outbox
    set state = 'calling', attempt = outbox.attempt + 1, worker_key = :worker_key,
        attempted_at = clock_timestamp(), negative_listings = 0
    from (select agency_id, message_id from due order by turn, random() limit :limit) taken
    where outbox.agency_id = taken.agency_id
    and outbox.message_id = taken.message_id
    returning outbox.agency_id, outbox.message_id, outbox.conversation_id, outbox.channel_id, outbox.attempt
""")

# `state` guards every change: what another process has settled meanwhile is left alone.
SET_STATE = text("""
    update outbox
    set state = :state,
        available_at = clock_timestamp() + make_interval(secs => :delay_seconds),
        negative_listings = :negative_listings
    where agency_id = :agency_id
    and message_id = :message_id
    and state = any(:from_states)
    returning message_id
""")

DELETE = text("""
    delete from outbox
    where agency_id = :agency_id
    and message_id = :message_id
    returning message_id
""")

FIND_STATE = text("""
    select state
    from outbox
    where agency_id = :agency_id
    and message_id = :message_id
""")

PROMOTE_NEXT = text("""
    update outbox
    set state = 'queued', available_at = clock_timestamp()
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

HOLD_CHANNEL = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    where agency_id = :agency_id
    and channel_id = :channel_id
    and state = 'queued'
    and available_at < clock_timestamp() + make_interval(secs => :seconds)
""")

# Rows that need a second look: whose caller may be dead, whose outcome is unknown, whose last word is missing.
# They are put off while they are looked at, so that several workers share the work.
TAKE_DUE = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    from (
        select agency_id, message_id
        from outbox
        where (state in ('unknown', 'accepted') and available_at <= clock_timestamp())
        or (state = 'calling' and available_at <= clock_timestamp()
            and attempted_at <= clock_timestamp() - make_interval(secs => :grace_seconds))
        order by available_at
        limit :limit
        for update skip locked
    ) due
    where outbox.agency_id = due.agency_id
    and outbox.message_id = due.message_id
    returning outbox.agency_id, outbox.message_id, outbox.conversation_id, outbox.channel_id, outbox.state,
        outbox.attempt, outbox.worker_key, outbox.negative_listings,
        extract(epoch from clock_timestamp() - outbox.attempted_at)::float8 as age_seconds
""")

STATISTICS = text("""
    select state, count(*), extract(epoch from clock_timestamp() - min(available_at))::float8 as oldest_seconds
    from outbox
    group by state
""")


@dataclass(frozen=True)
class Claim:
    """A message that this worker has taken, and the number of the attempt that it is about to make."""

    agency_id: UUID
    message_id: UUID
    conversation_id: UUID
    channel_id: UUID
    attempt: int


@dataclass(frozen=True)
class Due:
    """A message that needs a second look, `age_seconds` after its latest attempt."""

    agency_id: UUID
    message_id: UUID
    conversation_id: UUID
    channel_id: UUID
    state: str
    attempt: int
    worker_key: int
    negative_listings: int
    age_seconds: float


def insert(
    connection: TenantConnection, *, message_id: UUID, conversation_id: UUID, channel_id: UUID, sent_at: datetime
) -> None:
    """Queue a message behind those of its conversation, whose row the caller holds locked, and wake a worker."""
    connection.execute(
        INSERT, message_id=message_id, conversation_id=conversation_id, channel_id=channel_id, sent_at=sent_at
    )
    connection.execute(NOTIFY)


def claim(connection: UnboundConnection, *, worker_key: int, limit: int, per_agency: int) -> list[Claim]:
    """Take up to `limit` messages that are due, from the agencies in turn; the caller records the attempts."""
    rows = connection.execute(CLAIM, worker_key=worker_key, limit=limit, per_agency=per_agency)
    return [Claim(**row._mapping) for row in rows]


def take_due(connection: UnboundConnection, *, limit: int, grace_seconds: float, put_off_seconds: float) -> list[Due]:
    """Take up to `limit` messages for a second look; no other worker takes them for `put_off_seconds`."""
    rows = connection.execute(TAKE_DUE, limit=limit, grace_seconds=grace_seconds, seconds=put_off_seconds)
    return [Due(**row._mapping) for row in rows]


def find_state(connection: TenantConnection, *, message_id: UUID) -> str | None:
    """What is still to do for the message, or None when nothing is."""
    state: str | None = connection.execute(FIND_STATE, message_id=message_id).scalar()
    return state


def set_state(
    connection: TenantConnection,
    *,
    message_id: UUID,
    state: str,
    from_states: tuple[str, ...],
    delay_seconds: float,
    negative_listings: int = 0,
) -> bool:
    """Move the row if it is in one of `from_states`, not to be looked at before the delay; True when it moved."""
    moved = connection.execute(
        SET_STATE,
        message_id=message_id,
        state=state,
        from_states=list(from_states),
        delay_seconds=delay_seconds,
        negative_listings=negative_listings,
    )
    return moved.first() is not None


def delete(connection: TenantConnection, *, message_id: UUID) -> bool:
    """Nothing is left to do for the message; True when there was."""
    return connection.execute(DELETE, message_id=message_id).first() is not None


def promote_next(connection: TenantConnection, *, conversation_id: UUID) -> None:
    """Let the next message of the conversation go, unless one is under way; the caller holds the conversation."""
    if connection.execute(PROMOTE_NEXT, conversation_id=conversation_id).first() is not None:
        connection.execute(NOTIFY)


def hold_channel(connection: TenantConnection, *, channel_id: UUID, seconds: float) -> None:
    """Keep all that is queued for a sender, and try none of it before then."""
    connection.execute(HOLD_CHANNEL, channel_id=channel_id, seconds=seconds)


def statistics(connection: UnboundConnection) -> list[dict[str, Any]]:
    """How many messages stand in each state, and for how long the longest has been due."""
    return [dict(row._mapping) for row in connection.execute(STATISTICS)]
