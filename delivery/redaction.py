"""A person asks to be forgotten: their words are deleted here first, and then at the carrier, message by message.

Each step is committed when it is done, and is not done again: after a crash, or an error of the carrier's, the same
call goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from delivery import lookup
from delivery.twilio_gateway import ListingUnavailable, TwilioAccount, TwilioGateway
from persistence import conversations, redaction
from persistence.redaction import AtCarrier, Thread
from tenancy.transaction import Database, tenant_transaction
from tenancy.twilio_credentials import TwilioCredentials

# So many messages are redacted in one transaction, in which their conversation is locked.
BATCH = 200
# Of a carrier that does not answer so many times in a row, nothing more is asked.
MOST_FAILURES_IN_A_ROW = 5
NO_TOKEN = "no token of the account"  # noqa: S105


class UnknownContact(Exception):
    """The agency has no contact with this phone number"""


@dataclass
class Counts:
    """What was done, and what is left: `under_way` may still be sent, `unconfirmed` may still be at the carrier."""

    here: int = 0
    at_carrier: int = 0
    not_at_carrier: int = 0
    under_way: int = 0
    unconfirmed: int = 0
    reason: str = ""

    @property
    def left(self) -> int:
        return self.under_way + self.unconfirmed


class Redaction:
    """Redacts one person's messages with one agency; `say` is told about progress, in words without theirs."""

    def __init__(
        self,
        *,
        database: Database,
        gateway: TwilioGateway,
        credentials: TwilioCredentials,
        agency_id: UUID,
        say: Callable[[str], None],
    ) -> None:
        self._database, self._gateway, self._credentials = database, gateway, credentials
        self._agency_id, self._say = agency_id, say
        self._request_id = str(uuid4())
        self._failures_in_a_row = 0
        self.counts = Counts()

    def run(self, phone: str) -> Counts:
        """Raises UnknownContact, and what the database raises; what the carrier does is counted."""
        with tenant_transaction(self._database, self._agency_id) as connection:
            contact_id = redaction.find_contact(connection, phone=phone)
            if contact_id is None:
                raise UnknownContact
            threads = redaction.forget_contact(connection, contact_id=contact_id, phone=phone)
        for thread in threads:
            self._redact_here(thread)
        for thread in threads:
            self._redact_at_carrier(thread)
        return self.counts

    def _redact_here(self, thread: Thread) -> None:
        redacted = BATCH
        while redacted == BATCH:
            with tenant_transaction(self._database, self._agency_id) as connection:
                conversations.lock(connection, conversation_id=thread.id)
                redacted = redaction.redact(
                    connection, conversation_id=thread.id, limit=BATCH, request_id=self._request_id
                )
                under_way = len(redaction.list_under_way(connection, conversation_id=thread.id))
            self.counts.here += redacted
            self._say(f"redacted here: {self.counts.here}")
        self.counts.under_way += under_way

    def _redact_at_carrier(self, thread: Thread) -> None:
        with tenant_transaction(self._database, self._agency_id, read_only=True) as connection:
            asked_at = redaction.clock(connection)
            at_carrier = redaction.list_at_carrier(connection, conversation_id=thread.id)
            account = lookup.find_account(connection, self._credentials, account_sid=thread.account_sid)
        for number, message in enumerate(at_carrier, start=1):
            if self._ask(account, message):
                with tenant_transaction(self._database, self._agency_id) as connection:
                    redaction.confirm(connection, message_id=message.message_id, asked_at=asked_at)
            else:
                self.counts.unconfirmed += 1
            if number % 100 == 0 or number == len(at_carrier):
                self._say(f"asked Twilio about: {number} of {len(at_carrier)} in this conversation")

    def _ask(self, account: TwilioAccount | None, message: AtCarrier) -> bool:
        """Whether the carrier has deleted the words of every copy of the message, or has none."""
        if account is None:
            self.counts.reason = NO_TOKEN
            return False
        if self._failures_in_a_row == MOST_FAILURES_IN_A_ROW:
            return False
        try:
            known = [self._gateway.redact_message(account, twilio_sid) for twilio_sid in message.twilio_sids]
        except ListingUnavailable as error:
            self._failures_in_a_row += 1
            self.counts.reason = error.reason
            return False
        self._failures_in_a_row = 0
        if any(known):
            self.counts.at_carrier += 1
        else:
            self.counts.not_at_carrier += 1
        return True
