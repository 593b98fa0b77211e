"""One channel and one contact, and where their thread stands."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from persistence import json_text
from persistence.connection import TenantConnection
from persistence.errors import ConversationNotFound
from persistence.paging import Position, encode_cursor

# The page is cut before contacts and channels are joined: the other way round costs a hundred times as much. One row
# more than was asked for says whether there is a next page.
# WhatsApp takes free-form content within 24 hours of the contact's last message only
# (https://www.twilio.com/docs/whatsapp/key-concepts#the-24-hour-messaging-window).
# One that was begun and left without a message, as a race could leave it once, is not shown until it has one.
# There is one row without an id when there is no conversation to show. Each conversation is written as the contract has
# it (see persistence.json_text).
LIST_PAGE = text("""
    select counted.total, page.id::text as id, page.last_message_at, json_build_object(
        'id', page.id,
        'location_id', page.location_id,
        'channel', channels.kind,
        'channel_address', channels.address,
        'contact_id', page.contact_id,
        'contact_name', contacts.name,
        'contact_phone', contacts.phone,
        'status', page.status,
        'lead_status', page.lead_status,
        'lead_value', page.lead_value::float8,
        'assigned_to', page.assigned_to,
        'last_message_at', to_char(page.last_message_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'last_message_preview', page.last_message_preview,
        'last_message_direction', page.last_message_direction,
        'created_at', to_char(page.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'updated_at', to_char(page.updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'messaging', json_build_object(
            'can_send_freeform', page.opted_out_at is null
                and (channels.kind <> 'whatsapp' or page.window_expires_at > clock_timestamp()) is true,
            'window_expires_at', case channels.kind when 'whatsapp' then
                to_char(page.window_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') end,
            'blocked_reason', case
                when page.opted_out_at is not null then 'contact_opted_out'
                when channels.kind = 'whatsapp' and (page.window_expires_at > clock_timestamp()) is not true
                    then 'whatsapp_window_closed'
            end)
    )::text as record
    from (
        select coalesce(sum(conversations), 0)::bigint as total
        from conversation_counts
        where agency_id = :agency_id
        and (cast(:location_id as uuid) is null or location_id = :location_id)
        and (cast(:status as text) is null or status = :status)
    ) counted
    left join (
        select *, last_inbound_at + interval '24 hours' as window_expires_at
        from conversations
        where agency_id = :agency_id
        and last_message_at > '-infinity'
        and (cast(:conversation_id as uuid) is null or id = :conversation_id)
        and (cast(:location_id as uuid) is null or location_id = :location_id)
        and (cast(:status as text) is null or status = :status)
        and (cast(:before_at as timestamptz) is null or (last_message_at, id) < (:before_at, cast(:before_id as uuid)))
        order by last_message_at desc, id desc
        limit :limit + 1
        offset :offset
    ) page on true
    left join contacts on contacts.agency_id = :agency_id and contacts.id = page.contact_id
    left join channels on channels.agency_id = :agency_id and channels.id = page.channel_id
    order by page.last_message_at desc, page.id desc
""")

ADD_LAST_MESSAGE = text("""
    update conversations
    set last_message_at = :sent_at,
        last_message_preview = :preview,
        last_message_direction = :direction,
        last_inbound_at = case when :direction = 'inbound' then :sent_at else last_inbound_at end,
        status = case when :direction = 'inbound' and status = 'resolved' then 'open' else status end,
        updated_at = :sent_at
    where agency_id = :agency_id
    and id = :conversation_id
""")

SET_OPTED_OUT = text("""
    update conversations
    set opted_out_at = statement_timestamp(), updated_at = statement_timestamp()
    where agency_id = :agency_id
    and id = :conversation_id
    and opted_out_at is null
""")

CLEAR_OPTED_OUT = text("""
    update conversations
    set opted_out_at = null, updated_at = statement_timestamp()
    where agency_id = :agency_id
    and id = :conversation_id
    and opted_out_at is not null
""")

LOCK = text("""
    select id
    from conversations
    where agency_id = :agency_id
    and id = :conversation_id
    for no key update
""")


@dataclass(frozen=True)
class Page:
    """A page of the list, a JSON array; `next_cursor` is None on the last one, `total` counts the whole filter."""

    conversations: str = field(repr=False)
    total: int
    next_cursor: str | None


def list_page(
    connection: TenantConnection,
    *,
    location_id: UUID | None,
    status: str | None,
    limit: int,
    offset: int = 0,
    before: Position | None = None,
) -> Page:
    """Newest `last_message_at` first, `id` breaking ties, from `offset` or from after the position `before`."""
    before_at, before_id = before or (None, None)
    rows = connection.execute(
        LIST_PAGE,
        conversation_id=None,
        location_id=location_id,
        status=status,
        before_at=before_at,
        before_id=before_id,
        limit=limit,
        offset=offset,
    ).all()
    total = rows[0].total
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(
        conversations=json_text.array(rows[:limit] if rows[0].id is not None else ()),
        total=total,
        next_cursor=encode_cursor((last.last_message_at, last.id)) if last else None,
    )


def get(connection: TenantConnection, *, conversation_id: UUID) -> str:
    """One conversation with its contact and channel, as JSON. Raises ConversationNotFound."""
    row = connection.execute(
        LIST_PAGE,
        conversation_id=conversation_id,
        location_id=None,
        status=None,
        before_at=None,
        before_id=None,
        limit=1,
        offset=0,
    ).one()
    if row.id is None:
        raise ConversationNotFound
    record: str = row.record
    return record


def lock(connection: TenantConnection, *, conversation_id: UUID) -> None:
    """Make this transaction the only one that changes the conversation's queue, from the next statement on until it
    ends."""
    connection.execute_later(LOCK, conversation_id=conversation_id)


def add_last_message(
    connection: TenantConnection, *, conversation_id: UUID, direction: str, preview: str, sent_at: datetime
) -> None:
    """Show the message in the list, at its place."""
    connection.execute_later(
        ADD_LAST_MESSAGE, conversation_id=conversation_id, direction=direction, preview=preview, sent_at=sent_at
    )


def set_opted_out(connection: TenantConnection, *, conversation_id: UUID, opted_out: bool) -> None:
    """Record that the contact does or does not want messages from this channel."""
    connection.execute(SET_OPTED_OUT if opted_out else CLEAR_OPTED_OUT, conversation_id=conversation_id)
