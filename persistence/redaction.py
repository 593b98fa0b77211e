"""What is left of a person's conversations when they ask to be forgotten: that there were messages, and no words.

Ids, statuses, times, error codes and the carrier's SIDs stay. What is still on its way to the carrier is left as it is:
it must not go out empty. The phone number stays too, with the opt-out that it may carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from persistence import audit_records
from persistence.connection import TenantConnection

FIND_CONTACT = text("""
    select id
    from contacts
    where agency_id = :agency_id
    and phone = :phone
""")

LIST_THREADS = text("""
    select conversations.id, channels.account_sid
    from conversations
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    where conversations.agency_id = :agency_id
    and channels.agency_id = :agency_id
    and conversations.contact_id = :contact_id
    order by conversations.id
""")

FORGET_NAME = text("""
    update contacts
    set name = null, updated_at = statement_timestamp()
    where agency_id = :agency_id
    and id = :contact_id
    and name is not null
""")

# Those that may still be handed to the carrier.
LIST_UNDER_WAY = text("""
    select message_id
    from outbox
    where agency_id = :agency_id
    and conversation_id = :conversation_id
    and state <> 'accepted'
""")

# The database's clock, as a value and as the contract writes it.
CLOCK = text("""
    select now, to_char(now at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as written
    from clock_timestamp() as now
""")

REDACT = text("""
    update messages
    set content = '', media = '[]', template = null, transcript = null, error_message = null, redacted_at = :now
    where agency_id = :agency_id
    and id in (
        select id
        from messages
        where agency_id = :agency_id
        and conversation_id = :conversation_id
        and redacted_at is null
        and not id = any(:message_ids)
        order by id
        limit :limit)
    returning id
""")

EMPTY_PREVIEW = text("""
    update conversations
    set last_message_preview = '', updated_at = :now
    where agency_id = :agency_id
    and id = :conversation_id
    and last_message_preview <> ''
""")

EMPTY_EVENTS = text("""
    update provider_events
    set payload = '{}'
    where agency_id = :agency_id
    and message_id = any(:message_ids)
    and payload <> '{}'
""")

# Also those of messages that are not here.
EMPTY_EVENTS_OF_PHONE = text("""
    update provider_events
    set payload = '{}'
    where agency_id = :agency_id
    and payload ->> 'To' in (:phone, 'whatsapp:' || :phone)
    and not message_id = any(:message_ids)
""")

# The first answer is repeated with the message as it is now, so that its key goes on protecting from a second send.
EMPTY_ANSWERS = text("""
    update idempotency_keys
    set response = cast(cast(response as jsonb) || jsonb_build_object('content', '', 'media', cast('[]' as jsonb),
        'media_url', null, 'media_type', null, 'template', null, 'transcript', null,
        'redacted_at', cast(:redacted_at as text)) as text)
    where agency_id = :agency_id
    and message_id = any(:message_ids)
""")

# A message has one SID in its row; a second one, of a message that went out twice, stands in its events and attempts.
# What became known after the carrier had confirmed may be one that it has not been asked about.
LIST_AT_CARRIER = text("""
    select id as message_id, twilio_sid
    from messages
    where agency_id = :agency_id
    and conversation_id = :conversation_id
    and redacted_at is not null
    and carrier_redacted_at is null
    and twilio_sid ~ '^(SM|MM)[0-9a-fA-F]{32}$'
    union
    select messages.id, provider_events.twilio_sid
    from messages
    join provider_events on provider_events.agency_id = messages.agency_id
        and provider_events.message_id = messages.id
    where messages.agency_id = :agency_id
    and provider_events.agency_id = :agency_id
    and messages.conversation_id = :conversation_id
    and messages.redacted_at is not null
    and (messages.carrier_redacted_at is null or provider_events.received_at > messages.carrier_redacted_at)
    and provider_events.twilio_sid ~ '^(SM|MM)[0-9a-fA-F]{32}$'
    union
    select messages.id, attempts.twilio_sid
    from messages
    join attempts on attempts.agency_id = messages.agency_id and attempts.message_id = messages.id
    where messages.agency_id = :agency_id
    and attempts.agency_id = :agency_id
    and messages.conversation_id = :conversation_id
    and messages.redacted_at is not null
    and (messages.carrier_redacted_at is null or attempts.finished_at > messages.carrier_redacted_at)
    and attempts.twilio_sid ~ '^(SM|MM)[0-9a-fA-F]{32}$'
    order by message_id, twilio_sid
""")

CONFIRM = text("""
    update messages
    set carrier_redacted_at = :now
    where agency_id = :agency_id
    and id = :message_id
    and redacted_at is not null
""")


@dataclass(frozen=True)
class Thread:
    """A conversation of the person, and the Twilio account that its channel belongs to."""

    id: UUID
    account_sid: str


@dataclass(frozen=True)
class AtCarrier:
    """A redacted message of which the carrier may still have the words, and every SID that it has it under."""

    message_id: UUID
    twilio_sids: tuple[str, ...]


def find_contact(connection: TenantConnection, *, phone: str) -> UUID | None:
    """The contact with this number (E.164), or None."""
    contact_id: UUID | None = connection.execute(FIND_CONTACT, phone=phone).scalar()
    return contact_id


def forget_contact(connection: TenantConnection, *, contact_id: UUID, phone: str) -> list[Thread]:
    """Delete the person's name, and their number from what the carrier reported; their conversations.

    The reports of messages that are still under way stay whole, as those messages do.
    """
    connection.execute_later(FORGET_NAME, contact_id=contact_id)
    threads = [Thread(**row._mapping) for row in connection.execute(LIST_THREADS, contact_id=contact_id)]
    under_way = [each for thread in threads for each in list_under_way(connection, conversation_id=thread.id)]
    connection.execute_later(EMPTY_EVENTS_OF_PHONE, phone=phone, message_ids=under_way)
    return threads


def list_under_way(connection: TenantConnection, *, conversation_id: UUID) -> list[UUID]:
    """The messages that may still be handed to the carrier; ask under the conversation's lock."""
    return list(connection.execute(LIST_UNDER_WAY, conversation_id=conversation_id).scalars())


def redact(connection: TenantConnection, *, conversation_id: UUID, limit: int, request_id: str) -> int:
    """Delete the words of up to `limit` messages, wherever they are kept; how many there were.

    The conversation must be locked, so that nothing is sent or received meanwhile.
    """
    under_way = list_under_way(connection, conversation_id=conversation_id)
    clock = connection.execute(CLOCK).one()
    redacted: Sequence[UUID] = (
        connection.execute(REDACT, conversation_id=conversation_id, message_ids=under_way, limit=limit, now=clock.now)
        .scalars()
        .all()
    )
    connection.execute_later(EMPTY_PREVIEW, conversation_id=conversation_id, now=clock.now)
    connection.execute_later(EMPTY_EVENTS, message_ids=list(redacted))
    connection.execute_later(EMPTY_ANSWERS, message_ids=list(redacted), redacted_at=clock.written)
    for message_id in redacted:
        audit_records.insert(
            connection,
            user_id="operator",
            role="operator",
            action="redact_message",
            tenant_source="command",
            request_id=request_id,
            message_id=message_id,
        )
    return len(redacted)


def list_at_carrier(connection: TenantConnection, *, conversation_id: UUID) -> list[AtCarrier]:
    """The redacted messages of which the carrier has not confirmed that it has deleted the words."""
    found: dict[UUID, tuple[str, ...]] = {}
    for row in connection.execute(LIST_AT_CARRIER, conversation_id=conversation_id):
        found[row.message_id] = (*found.get(row.message_id, ()), row.twilio_sid)
    return [AtCarrier(message_id, twilio_sids) for message_id, twilio_sids in found.items()]


def clock(connection: TenantConnection) -> datetime:
    """The database's clock; read it before the carrier is asked, for `confirm`."""
    now: datetime = connection.execute(CLOCK).one().now
    return now


def confirm(connection: TenantConnection, *, message_id: UUID, asked_at: datetime) -> None:
    """Remember that the carrier has deleted the words under every SID that was known when it was asked."""
    connection.execute_later(CONFIRM, message_id=message_id, now=asked_at)
