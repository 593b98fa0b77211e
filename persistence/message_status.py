"""How a message's status may move: data, so that it can be read, drawn and tested as a whole.

A status never falls. The first terminal state stays, except that what was delivered may become read; and
`unconfirmed`, which only says that nobody knows, gives way to any evidence, or to a person who asks for a resend.
"""

from typing import Final

# From each status to those that may follow it, given evidence from the carrier or from our own worker.
TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "received": frozenset(),
    "queued": frozenset({"sending", "sent", "delivered", "read", "failed", "undelivered", "unconfirmed", "canceled"}),
    "sending": frozenset({"sent", "delivered", "read", "failed", "undelivered", "unconfirmed", "canceled"}),
    "unconfirmed": frozenset({"queued", "sending", "sent", "delivered", "read", "failed", "undelivered", "canceled"}),
    "sent": frozenset({"delivered", "read", "failed", "undelivered"}),
    "delivered": frozenset({"read"}),
    "read": frozenset(),
    "failed": frozenset(),
    "undelivered": frozenset(),
    "canceled": frozenset(),
}

# After these nothing is expected from the carrier any more, but for `read` after `delivered`.
TERMINAL: Final = frozenset({"delivered", "read", "failed", "undelivered", "canceled"})

# Twilio's MessageStatus values (https://www.twilio.com/docs/messaging/api/message-resource#message-status-values)
# as ours. What Twilio calls queued is already past our own queue.
FROM_TWILIO: Final[dict[str, str]] = {
    "accepted": "sending",
    "scheduled": "sending",
    "queued": "sending",
    "sending": "sending",
    "sent": "sent",
    "delivered": "delivered",
    "partially_delivered": "delivered",
    "read": "read",
    "failed": "failed",
    "undelivered": "undelivered",
    "canceled": "canceled",
}


def sources_of(status: str) -> tuple[str, ...]:
    """The statuses from which `status` may be reached."""
    return tuple(sorted(source for source, targets in TRANSITIONS.items() if status in targets))
