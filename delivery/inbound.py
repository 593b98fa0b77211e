"""What a contact wrote, stored once, whether Twilio's webhook brings it or the reconciler that lists the missed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from delivery import opt_out_words
from persistence import arrivals, conversations, messages, storable_text
from persistence.arrivals import AlreadyHere
from persistence.connection import TenantConnection

__all__ = ["AlreadyHere", "InboundMessage", "store"]


@dataclass(frozen=True)
class InboundMessage:
    """`sender` is the contact's number as Twilio writes it, with or without `whatsapp:`."""

    twilio_sid: str
    sender: str = field(repr=False)
    content: str = field(repr=False)
    media: Sequence[dict[str, str | None]] = field(default=(), repr=False)
    profile_name: str | None = field(default=None, repr=False)
    opt_out_type: str | None = None
    said_at: datetime | None = None  # where it was found later; what is new was said now


def store(connection: TenantConnection, *, channel_id: UUID, message: InboundMessage) -> None:
    """Store the message with its contact and conversation, made if need be.

    Raises AlreadyHere when it is here already: the transaction must not be committed then.
    """
    conversation_id, sent_at = arrivals.receive(
        connection,
        channel_id=channel_id,
        phone=storable_text.repair(message.sender.removeprefix("whatsapp:")),
        name=storable_text.repair(message.profile_name) if message.profile_name else None,
        twilio_sid=message.twilio_sid,
    )
    # A customer's message cannot be refused: what cannot be stored of it is replaced, and the message says so.
    content = storable_text.repair(message.content)
    opted_out = opt_out_words.opted_out(content, message.opt_out_type)
    overruled = opted_out is not None and _has_said_otherwise_since(connection, conversation_id, message.said_at)
    messages.insert(
        connection,
        conversation_id=conversation_id,
        direction="inbound",
        status="received",
        sent_at=sent_at,
        content=content,
        media=message.media,
        twilio_sid=message.twilio_sid,
        content_repaired=content != message.content,
    )
    if opted_out is not None and not overruled:
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=opted_out)


def _has_said_otherwise_since(connection: TenantConnection, conversation_id: UUID, said_at: datetime | None) -> bool:
    """Whether the contact's last word on being written to is a newer one."""
    if said_at is None:
        return False
    newer = arrivals.list_since(connection, conversation_id=conversation_id, since=said_at)
    return any(opt_out_words.opted_out(content, None) is not None for content in newer)
