"""How a send begins: whether it was done before, and else which place the message takes, in one round trip.

A send that is repeated with the same Idempotency-Key happens once, and gets the first answer again. A key that is being
used by an open transaction is seen through an advisory lock that ends with it, without waiting.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy
from sqlalchemy import text

from persistence import agencies, idempotency
from persistence.connection import TenantConnection
from persistence.errors import (
    AgencySuspended,
    ContactOptedOut,
    ConversationForbidden,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    WhatsAppWindowClosed,
)

# The next statement reads it: in one statement with the lock, the key would be looked for before it is held.
TRY_LOCK_KEY = text("""
    select set_config('app.key_is_held', cast(pg_try_advisory_xact_lock(
        hashtextextended(cast(:agency_id as text) || ' ' || :key, 0)) as text), true)
""")

# The row of a conversation is taken before the clock is asked: its messages have one order, that of their commits. It
# is not taken, and so not waited for, where there is an answer already or somebody else is about to give one.
# A key counts for 24 hours, whether or not it has been cleared away since.
BEGIN_SEND = text("""
    with earlier as (
        select fingerprint, response, message_id,
            created_at <= statement_timestamp() - interval '24 hours' as has_expired
        from idempotency_keys
        where agency_id = :agency_id
        and key = :key
    )
    select (cast(:key as text) is null or current_setting('app.key_is_held') = 'true') as key_is_held,
        earlier.*, sender.*
    from (select 1) as always
    left join earlier on true
    left join (
        select conversations.channel_id, conversations.opted_out_at is not null as opted_out,
            agencies.status as agency_status,
            greatest(clock_timestamp(), conversations.last_message_at + interval '1 microsecond') as next_sent_at,
            channels.kind = 'whatsapp'
                and coalesce(conversations.last_inbound_at + interval '24 hours' <= clock_timestamp(), true)
                as window_closed
        from conversations
        join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
        join agencies on agencies.agency_id = conversations.agency_id
        where conversations.agency_id = :agency_id
        and channels.agency_id = :agency_id
        and agencies.agency_id = :agency_id
        and conversations.id = :conversation_id
        and (cast(:key as text) is null or (
            current_setting('app.key_is_held') = 'true'
            and not exists (select 1 from earlier where not has_expired)))
        for no key update of conversations
    ) sender on true
""")


@dataclass(frozen=True)
class FirstAnswer:
    """The answer that the first request with a key was given."""

    response: str
    message_id: UUID


@dataclass(frozen=True)
class Sender:
    """The channel of a conversation, and the place of the next message in its thread."""

    channel_id: UUID
    next_sent_at: datetime


def begin(
    connection: TenantConnection, *, conversation_id: UUID, is_template: bool, key: str | None, fingerprint: bytes
) -> FirstAnswer | Sender:
    """The answer to repeat, or, for the first request with its key and for one without, what `lock_for_sending` gives.

    The key is then held until the transaction ends. Raises IdempotencyInProgress while another transaction holds the
    key, IdempotencyKeyReused when the key was used for a request with another fingerprint, and what `lock_for_sending`
    raises.
    """
    if key is None:
        return lock_for_sending(connection, conversation_id=conversation_id, is_template=is_template)
    connection.execute_later(TRY_LOCK_KEY, key=key)
    row = connection.execute(BEGIN_SEND, conversation_id=conversation_id, key=key).one()
    if not row.key_is_held:
        raise IdempotencyInProgress
    if row.has_expired:
        idempotency.delete(connection, key=key)
    elif row.fingerprint is not None:
        if bytes(row.fingerprint) != fingerprint:
            raise IdempotencyKeyReused
        return FirstAnswer(response=row.response, message_id=row.message_id)
    return _sender(connection, row, is_template=is_template)


def lock_for_sending(connection: TenantConnection, *, conversation_id: UUID, is_template: bool) -> Sender:
    """What to send from and when, with the conversation locked until the transaction ends.

    Raises AgencySuspended, ConversationForbidden when the agency has no such conversation, ContactOptedOut, and
    WhatsAppWindowClosed for free-form content outside the 24 hours.
    """
    row = connection.execute(BEGIN_SEND, conversation_id=conversation_id, key=None).one()
    return _sender(connection, row, is_template=is_template)


def _sender(connection: TenantConnection, row: "sqlalchemy.Row[Any]", *, is_template: bool) -> Sender:
    if row.channel_id is None:
        agencies.require_active(connection)
        raise ConversationForbidden
    if row.agency_status != "active":
        raise AgencySuspended
    if row.opted_out:
        raise ContactOptedOut
    if row.window_closed and not is_template:
        raise WhatsAppWindowClosed
    return Sender(channel_id=row.channel_id, next_sent_at=row.next_sent_at)
