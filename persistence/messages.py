"""What was said in a conversation, by whom, and what became of it."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence import conversations, json_text, message_status
from persistence.connection import TenantConnection
from persistence.errors import ConversationNotFound, InvalidFields, MessageNotFound

logger = logging.getLogger(__name__)
PREVIEW_LENGTH = 160
ONE_MESSAGE_FOR_EACH_SID = "messages_agency_id_twilio_sid_key"  # the constraint that keeps it

GET = text("""
    select id, conversation_id, direction, content, media, template, transcript, status, error_code, error_message,
        twilio_sid, sent_by, sent_at, delivered_at, read_at, created_at, duplicate_detected, redacted_at
    from messages
    where agency_id = :agency_id
    and id = :message_id
""")

# One row when the conversation exists; `sent_at` is null when `before` is not a message of it.
FIND_PLACE = text("""
    select messages.sent_at
    from conversations
    left join messages on messages.agency_id = conversations.agency_id
        and messages.conversation_id = conversations.id
        and messages.id = cast(:before as uuid)
        and messages.agency_id = :agency_id
    where conversations.agency_id = :agency_id
    and conversations.id = :conversation_id
""")

# Each message as the contract writes it (see persistence.json_text); what `_record` makes of one, in SQL. One more than
# was asked for says whether there are earlier ones.
LIST_PAGE = text("""
    select page.id::text as id, row_to_json(page)::text as record
    from (
        select id, conversation_id, direction, content, media,
            media -> 0 ->> 'url' as media_url,
            media -> 0 ->> 'content_type' as media_type,
            template, transcript, status,
            case when error_code is not null
                then json_build_object('code', error_code, 'message', error_message) end as error,
            twilio_sid, sent_by,
            to_char(messages.sent_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as sent_at,
            to_char(messages.delivered_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as delivered_at,
            to_char(messages.read_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as read_at,
            to_char(messages.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as created_at,
            duplicate_detected,
            to_char(messages.redacted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as redacted_at
        from messages
        where agency_id = :agency_id
        and conversation_id = :conversation_id
        and (cast(:before as uuid) is null or (messages.sent_at, messages.id) < (
            (
                select earlier.sent_at
                from messages earlier
                where earlier.agency_id = :agency_id
                and earlier.conversation_id = :conversation_id
                and earlier.id = cast(:before as uuid)
            ),
            cast(:before as uuid)))
        order by messages.sent_at desc, messages.id desc
        limit :limit + 1
    ) page
    order by page.sent_at desc, page.id desc
""")

INSERT = text("""
    insert into messages (agency_id, id, conversation_id, direction, content, media, template, status, twilio_sid,
        content_repaired, sent_by, sent_at, created_at)
    values (:agency_id, :id, :conversation_id, :direction, :content, cast(:media as jsonb), cast(:template as jsonb),
        :status, :twilio_sid, :content_repaired, :sent_by, :sent_at, :sent_at)
""")

# What nobody has said of a new message yet.
_UNSAID = ("transcript", "error_code", "error_message", "delivered_at", "read_at", "redacted_at")

FIND_BY_TWILIO_SID = text("""
    select id
    from messages
    where agency_id = :agency_id
    and twilio_sid = :twilio_sid
""")

CLOCK = text("select clock_timestamp()")

# An error once stored is never erased, and the first one stays; so does the first time of a delivery. The carrier's
# words may quote a phone number: a redacted message keeps the code alone.
ADVANCE_STATUS = text("""
    update messages
    set status = :status,
        error_code = coalesce(error_code, :error_code),
        error_message = case when error_code is null and redacted_at is null then :error_message
            else error_message end,
        delivered_at = coalesce(delivered_at, cast(:delivered_at as timestamptz)),
        read_at = coalesce(read_at, cast(:read_at as timestamptz))
    where agency_id = :agency_id
    and id = :message_id
    and status = any(:sources)
    returning status
""")

# A second SID for one message means that it went out twice: the first stays. A SID that is another's is not bound.
BIND_TWILIO_SID = text("""
    with owner as (
        select id
        from messages
        where agency_id = :agency_id
        and twilio_sid = :twilio_sid
        and id <> :message_id
    )
    update messages
    set duplicate_detected = duplicate_detected or (twilio_sid is not null and not exists (select 1 from owner)),
        twilio_sid = coalesce(twilio_sid, case when not exists (select 1 from owner) then :twilio_sid end)
    where agency_id = :agency_id
    and id = :message_id
    and (twilio_sid is null or (twilio_sid <> :twilio_sid and not duplicate_detected))
    returning duplicate_detected, (select id from owner) as owner_id
""")

FIND_OUTBOUND = text("""
    select messages.conversation_id, messages.status, messages.twilio_sid, messages.redacted_at is not null as redacted,
        channels.account_sid
    from messages
    join conversations on conversations.agency_id = messages.agency_id
        and conversations.id = messages.conversation_id
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    where messages.agency_id = :agency_id
    and conversations.agency_id = :agency_id
    and channels.agency_id = :agency_id
    and messages.id = :message_id
    and messages.direction = 'outbound'
""")


@dataclass(frozen=True)
class Page:
    """A page of the thread, newest first: a JSON array; `next_before` is the id that asks for the page before it."""

    messages: str = field(repr=False)
    has_more: bool
    next_before: str | None


@dataclass(frozen=True)
class Outbound:
    """An outbound message: where it stands, and the Twilio account that its channel belongs to."""

    conversation_id: UUID
    status: str
    twilio_sid: str | None
    redacted: bool
    account_sid: str


def get(connection: TenantConnection, *, message_id: UUID) -> dict[str, Any]:
    """One message. Raises MessageNotFound."""
    row = connection.execute(GET, message_id=message_id).first()
    if row is None:
        raise MessageNotFound
    return _record(dict(row._mapping))


def list_page(connection: TenantConnection, *, conversation_id: UUID, limit: int, before: UUID | None) -> Page:
    """Newest first, from the end of the thread or from after the message `before`.

    Raises ConversationNotFound, and InvalidFields when `before` is not a message of this conversation.
    """
    rows = connection.execute(LIST_PAGE, conversation_id=conversation_id, before=before, limit=limit).all()
    if not rows:  # rare, and only then is there a question why
        _require_place(connection, conversation_id, before)
    more = len(rows) > limit
    return Page(json_text.array(rows[:limit]), has_more=more, next_before=rows[limit - 1].id if more else None)


def _require_place(connection: TenantConnection, conversation_id: UUID, before: UUID | None) -> None:
    place = connection.execute(FIND_PLACE, conversation_id=conversation_id, before=before).first()
    if place is None:
        raise ConversationNotFound
    if before is not None and place.sent_at is None:
        raise InvalidFields(("before", "must be the id of a message of this conversation"))


def insert(
    connection: TenantConnection,
    *,
    conversation_id: UUID,
    direction: str,
    status: str,
    sent_at: datetime,
    content: str = "",
    media: Sequence[dict[str, str | None]] = (),
    template: dict[str, Any] | None = None,
    twilio_sid: str | None = None,
    sent_by: str | None = None,
    content_repaired: bool = False,
) -> dict[str, Any]:
    """The new message, last in its thread; the conversation's last-message columns go with it. It is sent with what
    comes next, or with the commit.

    `sent_at` is its place, from `sends.lock_for_sending` or `arrivals.receive`.
    """
    conversations.add_last_message(
        connection,
        conversation_id=conversation_id,
        direction=direction,
        preview=preview(content),
        sent_at=sent_at,
    )
    message = {
        "id": uuid_utils.uuid7(),
        "conversation_id": conversation_id,
        "direction": direction,
        "status": status,
        "content": content,
        "media": list(media),
        "template": template,
        "twilio_sid": twilio_sid,
        "sent_by": sent_by,
        "sent_at": sent_at,
    }
    connection.execute_later(
        INSERT,
        **{
            **message,
            "media": json.dumps(message["media"]),
            "template": None if template is None else json.dumps(template),
            "content_repaired": content_repaired,
        },
    )
    return _record({**message, **dict.fromkeys(_UNSAID), "duplicate_detected": False, "created_at": sent_at})


def find_by_twilio_sid(connection: TenantConnection, *, twilio_sid: str) -> UUID | None:
    """The message that has this SID, or None."""
    message_id: UUID | None = connection.execute(FIND_BY_TWILIO_SID, twilio_sid=twilio_sid).scalar()
    return message_id


def find_outbound(connection: TenantConnection, *, message_id: UUID) -> Outbound | None:
    """The outbound message, or None."""
    row = connection.execute(FIND_OUTBOUND, message_id=message_id).first()
    return Outbound(**row._mapping) if row else None


def advance_status(
    connection: TenantConnection,
    *,
    message_id: UUID,
    status: str,
    error_code: str | None = None,
    error_message: str | None = None,
) -> bool:
    """Move the status forward if `message_status.TRANSITIONS` allows it; True when it moved."""
    # The database's clock, as a value: Citus takes no other in an update.
    now = connection.execute(CLOCK).scalar_one() if status in ("delivered", "read") else None
    moved = connection.execute(
        ADVANCE_STATUS,
        message_id=message_id,
        status=status,
        delivered_at=now,
        read_at=now if status == "read" else None,
        error_code=error_code,
        error_message=error_message,
        sources=list(message_status.sources_of(status)),
    )
    return moved.first() is not None


def bind_twilio_sid(connection: TenantConnection, *, message_id: UUID, twilio_sid: str) -> bool:
    """Store the SID that the carrier gave; True when it is a second one, so that the message went out twice."""
    row = connection.execute(BIND_TWILIO_SID, message_id=message_id, twilio_sid=twilio_sid).first()
    if row is not None and row.owner_id is not None:
        ids = {"message_id": str(message_id), "owner_id": str(row.owner_id), "twilio_sid": twilio_sid}
        logger.error("sid_of_another_message", extra={"agency_id": str(connection.agency_id), **ids})
    return row is not None and bool(row.duplicate_detected)


def preview(content: str) -> str:
    """The content as one line of plain text, at most 160 characters."""
    return re.sub(r"\s+", " ", content).strip()[:PREVIEW_LENGTH]


def _record(record: dict[str, Any]) -> dict[str, Any]:
    error_code, error_message = record.pop("error_code"), record.pop("error_message")
    record["error"] = None if error_code is None else {"code": error_code, "message": error_message}
    first_media = record["media"][0] if record["media"] else {"url": None, "content_type": None}
    record["media_url"], record["media_type"] = first_media["url"], first_media["content_type"]
    return record
