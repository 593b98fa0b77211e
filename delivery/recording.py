"""Writes down what came of an attempt that this worker made, or chose not to make.

Each function takes the agency's open transaction, and may run again when the reply of a commit was lost.
"""

import logging
import secrets
from collections.abc import Sequence

from delivery import evidence, retry_policy
from delivery.outcomes import Accepted, NotProcessed, Outcome, Rejected, Unknown
from persistence import acceptances, attempts, channels, message_status, outbox
from persistence.attempts import Job
from persistence.connection import TenantConnection

logger = logging.getLogger(__name__)

CREDENTIALS_PAUSE_SECONDS = 60.0
_DICE = secrets.SystemRandom()


def record(connection: TenantConnection, job: Job, outcome: Outcome, *, first_look_seconds: float) -> None:
    """Move message, outbox and attempt to what the call came to; an unknown one is looked into after the delay."""
    match outcome:
        case Accepted():
            evidence.accept(
                connection,
                message_id=job.message_id,
                conversation_id=job.conversation_id,
                attempt=job.attempt,
                twilio_sid=outcome.twilio_sid,
                provider_status=outcome.provider_status,
            )
        case Rejected(error_code=code) if code in retry_policy.SENDER_PAUSED_SECONDS:
            seconds = retry_policy.SENDER_PAUSED_SECONDS[code]
            hold_back(connection, job, reason="sender_refused", seconds=seconds, error_code=str(code))
            channels.pause(connection, channel_id=job.channel_id, seconds=seconds, error_code=str(code))
            logger.error("sender_paused", extra={**names(job), "error_code": code})
        case Rejected():
            evidence.reject(
                connection,
                message_id=job.message_id,
                conversation_id=job.conversation_id,
                attempt=job.attempt,
                rejection=outcome,
            )
        case NotProcessed():
            _retry(connection, job, outcome)
        case Unknown(reason=reason):
            logger.warning("outcome_unknown", extra={**names(job), "reason": reason})
            evidence.doubt(
                connection,
                message_id=job.message_id,
                attempt=job.attempt,
                reason=reason,
                delay_seconds=first_look_seconds,
            )


def is_plain(accepted: Accepted) -> bool:
    """Whether the carrier took the message and no more, as it does: its way has begun."""
    return message_status.FROM_TWILIO.get(accepted.provider_status, "sending") == "sending"


def record_accepted(connection: TenantConnection, accepted: Sequence[tuple[Job, Accepted]]) -> None:
    """The same as `record` for several at a time, all of one agency, accepted plainly, of different conversations."""
    bound = acceptances.insert_all(
        connection,
        accepted=[
            acceptances.Acceptance(job.message_id, job.conversation_id, job.attempt, outcome.twilio_sid)
            for job, outcome in accepted
        ],
    )
    for job, outcome in accepted:
        if job.message_id not in bound:
            record(connection, job, outcome, first_look_seconds=0.0)


def withhold(connection: TenantConnection, job: Job, *, has_account: bool, pause_seconds: float) -> None:
    """What became of agency, contact, sender or carrier since the message was queued forbids the call."""
    if not job.agency_is_active:
        _end(connection, job, status="canceled", reason="agency_suspended")
    elif job.opted_out:
        _end(connection, job, status="failed", error_code=evidence.OPTED_OUT, error_message="The contact opted out.")
    elif not has_account:
        logger.error("twilio_credentials_missing", extra=names(job))
        hold_back(connection, job, reason="credentials_missing", seconds=CREDENTIALS_PAUSE_SECONDS)
    elif job.paused_seconds is not None and job.paused_seconds > 0.0:
        hold_back(connection, job, reason="sender_paused", seconds=job.paused_seconds)
    else:
        hold_back(connection, job, reason="carrier_in_trouble", seconds=pause_seconds)


def hold_back(
    connection: TenantConnection, job: Job, *, reason: str, seconds: float, error_code: str | None = None
) -> None:
    """Keep the message and all that is queued for its sender, in their order, and try none of it before then."""
    evidence.retry_later(
        connection,
        message_id=job.message_id,
        attempt=job.attempt,
        reason=reason,
        delay_seconds=seconds,
        error_code=error_code,
    )
    outbox.hold_channel(connection, channel_id=job.channel_id, seconds=seconds)


def _retry(connection: TenantConnection, job: Job, outcome: NotProcessed) -> None:
    if outcome.reason.startswith("error_"):
        broken = 1 + attempts.count_broken(connection, message_id=job.message_id).before_the_call
        if broken >= retry_policy.MOST_BROKEN_ATTEMPTS:
            evidence.poison(names(job), reason=outcome.reason)
            _end(
                connection,
                job,
                status="failed",
                reason=outcome.reason,
                error_code=evidence.INTERNAL,
                error_message="The message could not be handed to the carrier.",
            )
            return
    tries = 1 + attempts.count_tried(connection, message_id=job.message_id)
    if tries >= retry_policy.MOST_ATTEMPTS:
        logger.error("send_gave_up", extra={**names(job), "reason": outcome.reason})
        _end(
            connection,
            job,
            status="failed",
            reason=outcome.reason,
            error_code=evidence.INTERNAL,
            error_message="The carrier could not be reached in time.",
        )
        return
    delay = retry_policy.delay_seconds(tries, retry_after_seconds=outcome.retry_after_seconds, dice=_DICE.random())
    evidence.retry_later(
        connection, message_id=job.message_id, attempt=job.attempt, reason=outcome.reason, delay_seconds=delay
    )


def _end(
    connection: TenantConnection,
    job: Job,
    *,
    status: str,
    reason: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    evidence.end(
        connection,
        message_id=job.message_id,
        conversation_id=job.conversation_id,
        attempt=job.attempt,
        outcome="not_processed",
        status=status,
        reason=reason,
        error_code=error_code,
        error_message=error_message,
    )


def names(job: Job) -> dict[str, str]:
    """What a log line may say of a message."""
    return {"agency_id": str(job.agency_id), "message_id": str(job.message_id)}
