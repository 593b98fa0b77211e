"""When an attempt that was certainly not processed is made again. Pure: no clock, no dice of its own."""

from typing import Final

FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 300.0
# With full jitter about three hours in all, after which an answer in a conversation is no answer any more.
MOST_ATTEMPTS: Final = 80

# Of attempts that an error of ours ended before anything was called; about a quarter of a minute.
MOST_BROKEN_ATTEMPTS: Final = 5
# Of attempts during which the worker itself died: one, and one resend. It may not be the message's fault.
MOST_DEATHS: Final = 2

# Codes by which Twilio refuses the account or the sender and not the message: the queue is kept.
# https://www.twilio.com/docs/api/errors
SENDER_PAUSED_SECONDS: Final[dict[int, float]] = {
    20003: 60.0,  # authentication failed: wrong or rotated token
    20005: 300.0,  # account not active
    30002: 300.0,  # account suspended
    30001: 30.0,  # queue overflow
    21611: 30.0,  # this sender's queue at Twilio is full
    63017: 300.0,  # channel rate limit
    63018: 60.0,  # channel rate limit exceeded
    63038: 900.0,  # daily message cap
}


def delay_seconds(attempt: int, *, retry_after_seconds: float | None, dice: float) -> float:
    """Exponential back-off with full jitter, never before what Twilio asked for. `dice` is from [0, 1)."""
    ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt - 1, 20))
    return max(retry_after_seconds or 0.0, 0.1 + ceiling * dice)
