"""What the worker asks of the outbox as a whole, before any agency is bound: what is to be sent, what to be looked at.

The one exception to one transaction, one agency: only the worker's role sees rows of every agency here, and all that
it does about a message it does bound to that message's agency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from persistence.connection import UnboundConnection

# The agencies that have work are walked one index step each, so the backlog of one costs the others nothing;
# each gives at most :per_agency rows, and they take turns.
# That it is a hundred at most is for the planner, which knows neither :most nor how long the backlog is.
CLAIM = text("""
    with recursive agency as (
        (select agency_id from outbox where state = 'queued' order by agency_id limit 1)
        union all
        select following.agency_id
        from agency
        cross join lateral (
            select outbox.agency_id
            from outbox
            where outbox.state = 'queued' and outbox.agency_id > agency.agency_id
            order by outbox.agency_id
            limit 1
        ) following
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
        where agency.agency_id <> all(cast(:passed_over as uuid[]))
    )
    update outbox
    set state = 'calling', attempt = outbox.attempt + 1, worker_key = :worker_key,
        attempted_at = clock_timestamp(), negative_listings = 0
    from (
        select agency_id, message_id, row_number() over (order by turn, random()) as place
        from due
        order by place
        limit 100
    ) taken
    where taken.place <= :most
    and outbox.agency_id = taken.agency_id
    and outbox.message_id = taken.message_id
    returning outbox.agency_id, outbox.message_id, outbox.conversation_id, outbox.channel_id, outbox.attempt
""")

# In the transaction that claimed them: no attempt was recorded, so there was none.
GIVE_BACK = text("""
    update outbox
    set state = 'queued', attempt = attempt - 1,
        available_at = clock_timestamp() + make_interval(secs => :seconds)
    where agency_id = :agency_id
    and message_id = any(:message_ids)
    and state = 'calling'
""")

PUT_OFF = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    where agency_id = :agency_id
    and message_id = :message_id
    and state = 'queued'
""")

# Rows that need a second look: whose caller may be dead, whose outcome is unknown.
# They are put off while they are looked at, so that several workers share the work.
TAKE_DUE = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    from (
        select agency_id, message_id
        from outbox
        where state in ('calling', 'unknown')
        and available_at <= clock_timestamp()
        and (state <> 'calling' or attempted_at <= clock_timestamp() - make_interval(secs => :grace_seconds))
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

# Rows whose last word is missing, all that are due at once: the carrier is asked about an account's together. One that
# was to be sent again has no attempt of its own yet where proof of an earlier one came first.
TAKE_FOLLOWED = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    from (
        select agency_id, message_id
        from outbox
        where state = 'accepted'
        and available_at <= clock_timestamp()
        and coalesce(attempted_at, sent_at) <= clock_timestamp() - make_interval(secs => :young_seconds)
        order by available_at
        limit :limit
        for update skip locked
    ) due
    where outbox.agency_id = due.agency_id
    and outbox.message_id = due.message_id
    returning outbox.agency_id, outbox.message_id, outbox.conversation_id, outbox.channel_id, outbox.state,
        outbox.attempt, outbox.worker_key, outbox.negative_listings,
        extract(epoch from clock_timestamp() - coalesce(outbox.attempted_at, outbox.sent_at))::float8 as age_seconds
""")

FOLLOW_SOONER = text("""
    update outbox
    set available_at = clock_timestamp() + make_interval(secs => :seconds)
    from unnest(cast(:agency_ids as uuid[]), cast(:message_ids as uuid[])) as unanswered (agency_id, message_id)
    where outbox.agency_id = unanswered.agency_id
    and outbox.message_id = unanswered.message_id
    and outbox.state = 'accepted'
""")

# Whoever ends a message lets the next one go in the same transaction, so there should be none: a safety net.
LIST_STUCK = text("""
    with recursive conversation as (
        (select agency_id, conversation_id
            from outbox
            where state = 'waiting'
            order by agency_id, conversation_id
            limit 1)
        union all
        select following.agency_id, following.conversation_id
        from conversation
        cross join lateral (
            select outbox.agency_id, outbox.conversation_id
            from outbox
            where outbox.state = 'waiting'
            and (outbox.agency_id, outbox.conversation_id) > (conversation.agency_id, conversation.conversation_id)
            order by outbox.agency_id, outbox.conversation_id
            limit 1
        ) following
    )
    select agency_id, conversation_id
    from conversation
    where not exists (
        select 1
        from outbox
        where outbox.agency_id = conversation.agency_id
        and outbox.conversation_id = conversation.conversation_id
        and outbox.state in ('queued', 'calling', 'unknown'))
    limit :limit
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


def claim(
    connection: UnboundConnection, *, worker_key: int, limit: int, per_agency: int, passed_over: Sequence[UUID] = ()
) -> list[Claim]:
    """Take up to `limit` messages that are due, a hundred at most, from the agencies in turn; the caller records the
    attempts."""
    rows = connection.execute(
        CLAIM, worker_key=worker_key, most=limit, per_agency=per_agency, passed_over=list(passed_over)
    )
    return [Claim(**row._mapping) for row in rows]


def give_back(connection: UnboundConnection, *, agency_id: UUID, message_ids: Sequence[UUID], seconds: float) -> None:
    """Undo a claim in its own transaction, before its attempts are recorded: due again after the time."""
    connection.execute(GIVE_BACK, agency_id=agency_id, message_ids=list(message_ids), seconds=seconds)


def put_off(connection: UnboundConnection, *, agency_id: UUID, message_id: UUID, seconds: float) -> None:
    """Try a queued message no sooner than after this time."""
    connection.execute(PUT_OFF, agency_id=agency_id, message_id=message_id, seconds=seconds)


def take_due(connection: UnboundConnection, *, limit: int, grace_seconds: float, put_off_seconds: float) -> list[Due]:
    """Take up to `limit` messages for a second look; no other worker takes them for `put_off_seconds`."""
    rows = connection.execute(TAKE_DUE, limit=limit, grace_seconds=grace_seconds, seconds=put_off_seconds)
    return [Due(**row._mapping) for row in rows]


def take_followed(
    connection: UnboundConnection, *, limit: int, young_seconds: float, put_off_seconds: float
) -> list[Due]:
    """Take what the carrier accepted at least `young_seconds` ago and has not ended; due again after the time."""
    rows = connection.execute(TAKE_FOLLOWED, limit=limit, young_seconds=young_seconds, seconds=put_off_seconds)
    return [Due(**row._mapping) for row in rows]


def follow_sooner(connection: UnboundConnection, *, unanswered: Sequence[Due], seconds: float) -> None:
    """The carrier could not be asked about these: they are due again already after this time."""
    connection.execute(
        FOLLOW_SOONER,
        agency_ids=[due.agency_id for due in unanswered],
        message_ids=[due.message_id for due in unanswered],
        seconds=seconds,
    )


def list_stuck(connection: UnboundConnection, *, limit: int) -> list[tuple[UUID, UUID]]:
    """(agency, conversation) where messages wait although none is under way."""
    return [(row.agency_id, row.conversation_id) for row in connection.execute(LIST_STUCK, limit=limit)]


def statistics(connection: UnboundConnection) -> list[dict[str, Any]]:
    """How many messages stand in each state, and for how long the longest has been due."""
    return [dict(row._mapping) for row in connection.execute(STATISTICS)]
