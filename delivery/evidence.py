"""What is done when something becomes known about a message, whoever learns it: worker, webhook or reconciler.

Each function may run any number of times, in any order, with the same result, and none of them sends. All take the
conversation first, then the outbox row, then the message; a claim takes the last two in the same order, so that
nobody deadlocks.
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

# The reason is ours and not the carrier's.
INTERNAL = "internal"
# The contact replied STOP to this sender (https://www.twilio.com/docs/api/errors/21610).
OPTED_OUT = "21610"


def accept(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    attempt: int | None,
    twilio_sid: str,
    provider_status: str,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """The carrier has the message under this SID, in this state: bind the one, move to the other."""
    status = message_status.FROM_TWILIO.get(provider_status, "sending")
    conversations.lock(connection, conversation_id=conversation_id)
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
    if messages.bind_twilio_sid(connection, message_id=message_id, twilio_sid=twilio_sid):
        logger.error(
            "duplicate_detected", extra={"agency_id": str(connection.agency_id), "message_id": str(message_id)}
        )
    messages.advance_status(
        connection,
        message_id=message_id,
        status=status,
        error_code=error_code,
        error_message=error_message,
    )
    if attempt is not None:
        attempts.finish(connection, message_id=message_id, number=attempt, outcome="accepted", twilio_sid=twilio_sid)


def reject(
    connection: TenantConnection, *, message_id: UUID, conversation_id: UUID, attempt: int, rejection: Rejected
) -> None:
    """The carrier refused this message for good: it has failed, with the carrier's code."""
    error_code = str(rejection.error_code)
    fail(
        connection,
        message_id=message_id,
        conversation_id=conversation_id,
        error_code=error_code,
        error_message=rejection.error_message,
    )
    attempts.finish(connection, message_id=message_id, number=attempt, outcome="rejected", error_code=error_code)
    if error_code == OPTED_OUT:
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=True)


def fail(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    error_code: str,
    error_message: str,
) -> None:
    """The message will not be sent."""
    _end(connection, message_id=message_id, conversation_id=conversation_id)
    messages.advance_status(
        connection, message_id=message_id, status="failed", error_code=error_code, error_message=error_message
    )


def cancel(connection: TenantConnection, *, message_id: UUID, conversation_id: UUID) -> None:
    """The agency may not send any more: withdrawn before it was sent."""
    _end(connection, message_id=message_id, conversation_id=conversation_id)
    messages.advance_status(connection, message_id=message_id, status="canceled")


def give_up(connection: TenantConnection, *, message_id: UUID, conversation_id: UUID) -> None:
    """There is no more to find out: it stays `unconfirmed` until late evidence or a person decides."""
    _end(connection, message_id=message_id, conversation_id=conversation_id)


def retry_later(
    connection: TenantConnection,
    *,
    message_id: UUID,
    attempt: int,
    reason: str,
    delay_seconds: float,
    error_code: str | None = None,
) -> None:
    """The carrier certainly did not process the attempt: it may be made again, not before the delay."""
    outbox.set_state(
        connection, message_id=message_id, state="queued", from_states=("calling",), delay_seconds=delay_seconds
    )
    attempts.finish(
        connection,
        message_id=message_id,
        number=attempt,
        outcome="not_processed",
        reason=reason,
        error_code=error_code,
    )


def doubt(connection: TenantConnection, *, message_id: UUID, attempt: int, reason: str, delay_seconds: float) -> None:
    """Nobody knows whether the carrier took it: never sent again blindly, and looked into after the delay."""
    if outbox.set_state(
        connection, message_id=message_id, state="unknown", from_states=("calling",), delay_seconds=delay_seconds
    ):
        messages.advance_status(connection, message_id=message_id, status="unconfirmed")
    attempts.finish(connection, message_id=message_id, number=attempt, outcome="unknown", reason=reason)


def _end(connection: TenantConnection, *, message_id: UUID, conversation_id: UUID) -> None:
    conversations.lock(connection, conversation_id=conversation_id)
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)
