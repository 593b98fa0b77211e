"""What one create call can come to, read off what was observed rather than off an exception's class.

Twilio's create has no idempotency key, so the line between "not processed" and "unknown" decides whether a customer
gets a message twice. 429 was never processed (https://www.twilio.com/docs/api/errors/20429), and is about the sender
where its code says so, as that of the daily limit does (https://www.twilio.com/docs/api/errors/63038); after a 500 the
message may well have been sent (https://www.twilio.com/docs/api/errors/20500); whatever is not listed here may have
been, too.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from delivery import http_exchange, retry_policy
from persistence import storable_text

_SID = re.compile(r"(?:SM|MM)[0-9a-f]{32}", re.ASCII)
TOO_MANY_REQUESTS = "http_429"
_LONGEST_RETRY_AFTER_SECONDS = 3600.0


@dataclass(frozen=True)
class Accepted:
    """Twilio has the message: 201 with a well-formed SID."""

    twilio_sid: str
    provider_status: str


@dataclass(frozen=True)
class Rejected:
    """Twilio refused this message: 4xx with an error code. `error_message` may quote a phone number: do not log it."""

    error_code: int
    error_message: str = field(repr=False)
    http_status: int


@dataclass(frozen=True)
class NotProcessed:
    """Certainly not sent: no byte left us, or Twilio answered 429. It may be tried again."""

    retry_after_seconds: float | None
    reason: str


@dataclass(frozen=True)
class Unknown:
    """It may have been sent. Only evidence decides; it is never sent again blindly."""

    reason: str


Outcome = Accepted | Rejected | NotProcessed | Unknown


def outcome_of(answer: http_exchange.Answer) -> Outcome:
    """The outcome of a create call that was answered. `reason` is a word for logs and never quotes the answer."""
    content = _json_object(answer.body)
    sid, status, code = content.get("sid"), content.get("status"), _error_code(content)
    if answer.status == 429 and code not in retry_policy.SENDER_PAUSED_SECONDS:
        return NotProcessed(_retry_after(answer.headers.get("retry-after")), TOO_MANY_REQUESTS)
    if answer.status == 201 and isinstance(sid, str) and _SID.fullmatch(sid):
        return Accepted(sid, status if isinstance(status, str) else "accepted")
    if 400 <= answer.status < 500 and code is not None:
        words = str(content.get("message") or content.get("detail") or "")
        return Rejected(code, storable_text.repair(words)[:500], answer.status)
    return Unknown("created_without_sid" if answer.status == 201 else f"http_{answer.status}")


def _error_code(content: dict[str, object]) -> int | None:
    code = content.get("code")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _json_object(body: bytes) -> dict[str, object]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _retry_after(value: str | None) -> float | None:
    """Seconds from either form of the header (RFC 9110, 10.2.3), or None where it says nothing usable."""
    text = (value or "").strip()
    try:
        seconds = float(text) if text.isdecimal() else _seconds_until(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS)


def _seconds_until(moment: datetime) -> float:
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
