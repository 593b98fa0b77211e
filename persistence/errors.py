"""What can go wrong with the things that are kept, in the words of the inbox.

The docstring of each class is the message that a person reads; none of them knows of HTTP.
"""


class InboxError(Exception):
    """The request cannot be done."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class ConversationNotFound(InboxError):
    """The agency has no such conversation."""


class MessageNotFound(InboxError):
    """The agency has no such message."""


class ConversationForbidden(InboxError):
    """You may not send to this conversation."""


class AgencySuspended(InboxError):
    """The agency is suspended, or not set up here, and sends nothing."""


class IdempotencyInProgress(InboxError):
    """A request with this Idempotency-Key is still running; repeat it after it has ended."""


class IdempotencyKeyReused(InboxError):
    """This Idempotency-Key was used for another request; a new request needs a new key."""


class ContactOptedOut(InboxError):
    """The contact has opted out of messages from this channel."""


class WhatsAppWindowClosed(InboxError):
    """The contact has not written within 24 hours; WhatsApp then takes only an approved template."""


class NotResendable(InboxError):
    """Only an unconfirmed message can be resent."""


class InvalidFields(InboxError):
    """The request names something that cannot be used."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        """`errors` are (field, message) pairs."""
        super().__init__()
        self.errors = errors
