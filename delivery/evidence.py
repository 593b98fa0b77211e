"""What is done when something becomes known about a message, whoever learns it: worker, webhook or reconciler.

Each function first takes the conversation and then the message, so that they cannot deadlock, and each may run any
number of times, in any order, with the same result. None of them sends.
"""

import logging
from uuid import UUID

from delivery.outcomes import Rejected
from persistence import attempts, conversations, message_status, messages, outbox
from persistence.connection import TenantConnection

logger = logging.getLogger(__name__)

# Where a row of the outbox stands while the carrier may or may not have the message.
UNDECIDED = ("queued", "calling", "unknown")
FIRST_POLL_SECONDS = 120.0

# The contact replied STOP to this sender (https://www.twilio.com/docs/api/errors/21610).
OPTED_OUT = 21610


def accept(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    attempt: int | None,
    twilio_sid: str,
    provider_status: str,
    error_code: int | None = None,
) -> None:
    """The carrier has the message under this SID, in this state: bind the one, move to the other."""
    conversations.lock(connection, conversation_id=conversation_id)
    if messages.bind_twilio_sid(connection, message_id=message_id, twilio_sid=twilio_sid):
        logger.error(
            "duplicate_detected", extra={"agency_id": str(connection.agency_id), "message_id": str(message_id)}
        )
    if attempt is not None:
        attempts.finish(connection, message_id=message_id, number=attempt, outcome="accepted", twilio_sid=twilio_sid)
    status = message_status.FROM_TWILIO.get(provider_status)
    if status is not None:
        messages.advance_status(
            connection,
            message_id=message_id,
            status=status,
            error_code=error_code,
            error_message="The carrier reported an error." if error_code is not None else None,
        )
    if status in message_status.TERMINAL:
        outbox.delete(connection, message_id=message_id)
    else:
        outbox.set_state(
            connection,
            message_id=message_id,
            state="accepted",
            from_states=UNDECIDED,
            delay_seconds=FIRST_POLL_SECONDS,
        )
    outbox.promote_next(connection, conversation_id=conversation_id)


def reject(
    connection: TenantConnection, *, message_id: UUID, conversation_id: UUID, attempt: int, rejection: Rejected
) -> None:
    """The carrier refused this message for good: it has failed, with the carrier's code."""
    attempts.finish(
        connection,
        message_id=message_id,
        number=attempt,
        outcome="rejected",
        error_code=rejection.error_code,
    )
    fail(
        connection,
        message_id=message_id,
        conversation_id=conversation_id,
        error_code=rejection.error_code,
        error_message=rejection.error_message,
    )
    if rejection.error_code == OPTED_OUT:
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=True)


def fail(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    error_code: int | None,
    error_message: str,
) -> None:
    """The message will not be sent."""
    conversations.lock(connection, conversation_id=conversation_id)
    messages.advance_status(
        connection, message_id=message_id, status="failed", error_code=error_code, error_message=error_message
    )
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)


def retry_later(
    connection: TenantConnection, *, message_id: UUID, attempt: int, reason: str, delay_seconds: float
) -> None:
    """The carrier certainly did not process the attempt: it may be made again, not before the delay."""
    attempts.finish(connection, message_id=message_id, number=attempt, outcome="not_processed", reason=reason)
    outbox.set_state(
        connection, message_id=message_id, state="queued", from_states=("calling",), delay_seconds=delay_seconds
    )


def doubt(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    attempt: int,
    reason: str,
    delay_seconds: float,
) -> None:
    """Nobody knows whether the carrier took it: never sent again by itself, and looked into after the delay."""
    conversations.lock(connection, conversation_id=conversation_id)
    attempts.finish(connection, message_id=message_id, number=attempt, outcome="unknown", reason=reason)
    if outbox.set_state(
        connection, message_id=message_id, state="unknown", from_states=("calling",), delay_seconds=delay_seconds
    ):
        messages.advance_status(connection, message_id=message_id, status="unconfirmed")


def give_up(connection: TenantConnection, *, message_id: UUID, conversation_id: UUID) -> None:
    """There is no more to find out: it stays `unconfirmed` until late evidence or a person decides."""
    conversations.lock(connection, conversation_id=conversation_id)
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)


def cancel(connection: TenantConnection, *, message_id: UUID, conversation_id: UUID) -> None:
    """The agency may not send any more: withdrawn before it was sent."""
    conversations.lock(connection, conversation_id=conversation_id)
    messages.advance_status(connection, message_id=message_id, status="canceled")
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)
