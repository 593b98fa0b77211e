"""What is done when something becomes known about a message, whoever learns it: worker, webhook or reconciler.

Each function may run any number of times, in any order, with the same result, and none of them sends. All take the
conversation first (if at all), then the outbox row, then the attempt, then the message, and so does a claim: nobody
deadlocks.
"""

import logging
from typing import Any
from uuid import UUID

from delivery import metrics
from delivery.outcomes import Rejected
from persistence import attempts, conversations, message_status, messages, outbox
from persistence.connection import TenantConnection

logger = logging.getLogger(__name__)

# Where a row of the outbox stands while the carrier may or may not have the message, or may be given it again.
UNDECIDED = ("waiting", "queued", "calling", "unknown")
# Where it stands while its latest attempt is open.
OPEN = ("calling", "unknown")

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
    prove(
        connection,
        message_id=message_id,
        conversation_id=conversation_id,
        attempt=attempt,
        twilio_sid=twilio_sid,
        has_ended=status in message_status.TERMINAL,
    )
    messages.advance_status(
        connection,
        message_id=message_id,
        status=status,
        error_code=error_code,
        error_message=error_message,
    )


def prove(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    attempt: int | None,
    twilio_sid: str,
    has_ended: bool = False,
) -> None:
    """The carrier has the message under this SID: it is not sent again. Its status stays as it is, and where it has not
    ended the carrier is asked about it."""
    conversations.lock(connection, conversation_id=conversation_id)
    outbox.lock(connection, message_id=message_id)
    if attempt is not None:
        attempts.finish(connection, message_id=message_id, number=attempt, outcome="accepted", twilio_sid=twilio_sid)
    # Where another attempt may have gone out as well, the message is watched although it has ended.
    if has_ended and attempts.count_unknown(connection, message_id=message_id) == 0:
        outbox.delete(connection, message_id=message_id)
    else:
        outbox.set_state(connection, message_id=message_id, state="accepted", from_states=UNDECIDED, delay_seconds=0.0)
    outbox.promote_next(connection, conversation_id=conversation_id)
    if messages.bind_twilio_sid(connection, message_id=message_id, twilio_sid=twilio_sid):
        metrics.duplicate_detected()
        logger.error(
            "duplicate_detected", extra={"agency_id": str(connection.agency_id), "message_id": str(message_id)}
        )


def end(
    connection: TenantConnection,
    *,
    message_id: UUID,
    conversation_id: UUID,
    attempt: int,
    outcome: str,
    status: str,
    reason: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """This attempt sent nothing and no other will be made: the message is `failed` or `canceled`.

    Unless an earlier attempt may have gone out: then it stays `unconfirmed`, with the error.
    """
    conversations.lock(connection, conversation_id=conversation_id)
    standing = outbox.lock(connection, message_id=message_id)
    attempts.finish(
        connection, message_id=message_id, number=attempt, outcome=outcome, reason=reason, error_code=error_code
    )
    if standing is not None and (standing.attempt != attempt or standing.state not in OPEN):
        return  # a newer attempt was begun, or the message is proven sent: this one's end decides nothing
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)
    nobody_knows = attempts.count_unknown(connection, message_id=message_id) > 0
    messages.advance_status(
        connection,
        message_id=message_id,
        status="unconfirmed" if nobody_knows else status,
        error_code=error_code,
        error_message=error_message,
    )


def reject(
    connection: TenantConnection, *, message_id: UUID, conversation_id: UUID, attempt: int, rejection: Rejected
) -> None:
    """The carrier refused this message for good: it has failed, with the carrier's code."""
    error_code = str(rejection.error_code)
    end(
        connection,
        message_id=message_id,
        conversation_id=conversation_id,
        attempt=attempt,
        outcome="rejected",
        status="failed",
        error_code=error_code,
        error_message=rejection.error_message,
    )
    if error_code == OPTED_OUT:
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=True)


def give_up(
    connection: TenantConnection, *, message_id: UUID, conversation_id: UUID, error_message: str | None = None
) -> None:
    """There is no more to find out: it stays `unconfirmed` until late evidence or a person decides.

    With an error of ours, where one is known to be the reason.
    """
    conversations.lock(connection, conversation_id=conversation_id)
    outbox.delete(connection, message_id=message_id)
    outbox.promote_next(connection, conversation_id=conversation_id)
    if (
        error_message is not None
    ):  # an error comes with a move, and a message that is looked into is `unconfirmed` already
        messages.advance_status(connection, message_id=message_id, status="sending")
    messages.advance_status(
        connection,
        message_id=message_id,
        status="unconfirmed",
        error_code=None if error_message is None else INTERNAL,
        error_message=error_message,
    )


def poison(names: dict[str, Any], *, reason: str) -> None:
    """Raise the alarm over a message that breaks whoever tries to send it, and is tried no more."""
    metrics.looked("poison_message")
    logger.error("poison_message", extra={**names, "reason": reason})


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
        connection,
        message_id=message_id,
        state="queued",
        from_states=OPEN,
        attempt=attempt,
        delay_seconds=delay_seconds,
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
        connection,
        message_id=message_id,
        state="unknown",
        from_states=("calling",),
        attempt=attempt,
        delay_seconds=delay_seconds,
    ):
        messages.advance_status(connection, message_id=message_id, status="unconfirmed")
    attempts.finish(connection, message_id=message_id, number=attempt, outcome="unknown", reason=reason)
