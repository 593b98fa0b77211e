"""What the carrier accepted, written down for many messages of one agency at a time.

The same changes as `delivery.evidence.accept` makes for one message, in its order: conversations, outbox, attempts,
messages. SIDs and attempt numbers go in as JSON objects by message id: a join with them would not run under Citus.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from persistence import message_status, outbox
from persistence.connection import TenantConnection, UnboundConnection

# Whoever holds a conversation of one agency does not keep those of others from being written down with it for long.
BE_BRIEF = "SET LOCAL lock_timeout = '100ms'"

# In one order, so that two transactions that lock several never wait for each other.
LOCK_CONVERSATIONS = text("""
    select id
    from conversations
    where agency_id = :agency_id
    and id = any(:conversation_ids)
    order by id
    for no key update
""")

FOLLOW = text("""
    update outbox
    set state = 'accepted', available_at = clock_timestamp(), negative_listings = 0
    where agency_id = :agency_id
    and message_id = any(:message_ids)
    and state in ('waiting', 'queued', 'calling', 'unknown')
""")

FINISH = text("""
    update attempts
    set finished_at = statement_timestamp(), outcome = 'accepted', reason = null, error_code = null,
        twilio_sid = coalesce(twilio_sid, cast(:twilio_sids as jsonb) ->> cast(message_id as text))
    where agency_id = :agency_id
    and message_id = any(:message_ids)
    and number = cast(cast(:numbers as jsonb) ->> cast(message_id as text) as integer)
    and (outcome is null or outcome = 'unknown')
""")

# As `outbox.PROMOTE_NEXT`, for many: what came out of a backup may have been sent, and is looked into.
PROMOTE = text("""
    update outbox
    set state = case when outbox.attempted_at is null then 'queued' else 'unknown' end, available_at = clock_timestamp()
    from unnest(cast(:conversation_ids as uuid[])) as freed (conversation_id)
    cross join lateral (
        select message_id
        from outbox
        where agency_id = :agency_id
        and conversation_id = freed.conversation_id
        and state = 'waiting'
        order by sent_at, message_id
        limit 1
    ) following
    where outbox.agency_id = :agency_id
    and outbox.message_id = following.message_id
    and not exists (
        select 1
        from outbox other
        where other.agency_id = :agency_id
        and other.conversation_id = freed.conversation_id
        and other.state in ('queued', 'calling', 'unknown'))
    returning outbox.message_id
""")

# One that has a SID already, because its callback was faster or because it went out twice, is left to a closer look.
BIND = text("""
    update messages
    set twilio_sid = cast(:twilio_sids as jsonb) ->> cast(id as text),
        status = case when status = any(:sources) then 'sending' else status end
    where agency_id = :agency_id
    and id = any(:message_ids)
    and twilio_sid is null
    returning id
""")


@dataclass(frozen=True)
class Acceptance:
    """One message that the carrier has, and under which SID, by which attempt."""

    message_id: UUID
    conversation_id: UUID
    attempt: int
    twilio_sid: str


def be_brief(connection: TenantConnection | UnboundConnection) -> None:
    """Wait for no lock longer than a moment in this transaction: whoever writes it can do the rest by itself."""
    connection.transaction.run_text_later(BE_BRIEF)


def insert_all(connection: TenantConnection, *, accepted: Sequence[Acceptance]) -> set[UUID]:
    """Write them down; the messages that were bound. The others have a SID already, and nothing was done about it.

    Each is of a conversation of its own. Raises what the database raises when a SID belongs to another message.
    """
    ids = [one.message_id for one in accepted]
    conversation_ids = [one.conversation_id for one in accepted]
    twilio_sids = json.dumps({str(one.message_id): one.twilio_sid for one in accepted})
    numbers = json.dumps({str(one.message_id): one.attempt for one in accepted})
    connection.execute_later(LOCK_CONVERSATIONS, conversation_ids=conversation_ids)
    connection.execute_later(FOLLOW, message_ids=ids)
    connection.execute_later(FINISH, message_ids=ids, twilio_sids=twilio_sids, numbers=numbers)
    if connection.execute(PROMOTE, conversation_ids=conversation_ids).first() is not None:
        connection.execute_after_commit(outbox.NOTIFY)
    bound = connection.execute(
        BIND, message_ids=ids, twilio_sids=twilio_sids, sources=list(message_status.sources_of("sending"))
    )
    return set(bound.scalars())
