"""Where a contact's message arrives: one contact for each phone, and one conversation for each channel and contact."""

from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence import conversation_counts
from persistence.connection import TenantConnection

# Before the conversation is locked, as UPSERT_CONTACT is, so that two who know the contact by another name never wait
# for each other. Of two at once the one that began first may win; the contact's next message says it again.
RENAME_CONTACT = text("""
    update contacts
    set name = :name, updated_at = statement_timestamp()
    where agency_id = :agency_id
    and phone = :phone
    and name is distinct from :name
""")

# Nothing is written for a message that is here already, nor where nothing is new; in the latter case the row is locked
# all the same. So of a contact's first message whoever brings it, too, waits here, and sees afterwards what was stored.
UPSERT_CONTACT = text("""
    insert into contacts (agency_id, id, phone, name)
    select :agency_id, cast(:id as uuid), :phone, :name
    where not exists (
        select 1
        from messages
        where agency_id = :agency_id
        and twilio_sid = :twilio_sid)
    on conflict (agency_id, phone) do update
    set name = excluded.name, updated_at = excluded.updated_at
    where excluded.name is distinct from contacts.name
    and excluded.name is not null
""")

# One that is new takes its place in the list from its first message, which is inserted next in the same transaction.
INSERT_CONVERSATION = text("""
    insert into conversations (agency_id, id, location_id, channel_id, contact_id, last_message_at,
        last_message_direction)
    select channels.agency_id, cast(:id as uuid), channels.location_id, channels.id, contacts.id, '-infinity', 'inbound'
    from channels
    join contacts on contacts.agency_id = channels.agency_id
    where channels.agency_id = :agency_id
    and contacts.agency_id = :agency_id
    and channels.id = :channel_id
    and contacts.phone = :phone
    and not exists (
        select 1
        from messages
        where messages.agency_id = :agency_id
        and messages.twilio_sid = :twilio_sid)
    on conflict (agency_id, channel_id, contact_id) do nothing
""")

# The time of a message is strictly later than the one before it, also when the clock is set back: the thread
# keeps its order, and the preview never goes backwards. It is read first and then written: Citus takes a clock in an
# update only as a value. Who has waited here for one that brought the same message does not see it; the unique index
# does, and the transaction ends as Conflict (see tenancy.driver_errors).
FIND_PLACE = text("""
    select conversations.id, location_id, status, last_message_at = '-infinity' as is_new,
        greatest(clock_timestamp(), last_message_at + interval '1 microsecond') as sent_at,
        exists (
            select 1
            from messages
            where messages.agency_id = :agency_id
            and messages.twilio_sid = :twilio_sid) as is_here
    from conversations
    join contacts on contacts.agency_id = conversations.agency_id and contacts.id = conversations.contact_id
    where conversations.agency_id = :agency_id
    and contacts.agency_id = :agency_id
    and conversations.channel_id = :channel_id
    and contacts.phone = :phone
    for no key update of conversations
""")

LIST_SINCE = text("""
    select content
    from messages
    where agency_id = :agency_id
    and conversation_id = :conversation_id
    and direction = 'inbound'
    and sent_at > :since
    order by sent_at desc, id desc
    limit 1000
""")


class AlreadyHere(Exception):
    """A message with this SID is stored: leave the transaction by this, so that nothing of it stays."""


def receive(
    connection: TenantConnection, *, channel_id: UUID, phone: str, name: str | None, twilio_sid: str
) -> tuple[UUID, datetime]:
    """The one conversation of this channel and contact, made if need be, and when this message was received; it is
    locked until the transaction ends. What a contact writes reopens a resolved conversation.

    Insert the message before the transaction ends; it may end as Conflict, and is then to be done again. Raises
    AlreadyHere, when it must not be committed: another message with the SID may have been stored while this one's
    contact and conversation were made.
    """
    whose: dict[str, Any] = {"channel_id": channel_id, "phone": phone, "twilio_sid": twilio_sid}
    if name is not None:
        connection.execute_later(RENAME_CONTACT, phone=phone, name=name)
    row = connection.execute(FIND_PLACE, **whose).first()
    if row is None:  # the contact's first message to this channel
        contact = {"phone": phone, "name": name, "twilio_sid": twilio_sid}
        connection.execute_later(UPSERT_CONTACT, id=uuid_utils.uuid7(), **contact)
        connection.execute_later(INSERT_CONVERSATION, id=uuid_utils.uuid7(), **whose)
        row = connection.execute(FIND_PLACE, **whose).first()
    if row is None or row.is_here:
        raise AlreadyHere
    if row.is_new:
        conversation_counts.add_one(connection, location_id=row.location_id, status="open")
    elif row.status == "resolved":
        conversation_counts.move_one(connection, location_id=row.location_id, status="open", from_status=row.status)
    return row.id, row.sent_at


def list_since(connection: TenantConnection, *, conversation_id: UUID, since: datetime) -> list[str]:
    """What the contact has written since then, the newest first: the thousand last messages at most."""
    return list(connection.execute(LIST_SINCE, conversation_id=conversation_id, since=since).scalars())
