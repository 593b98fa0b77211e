"""The `redact` command: deletes the words of one person, here and at Twilio, and says in a last line what was done.

It runs as the owner, bound to one agency: no role that serves may change what was said.
"""

from collections.abc import Callable
from uuid import UUID

from conversations_api import logging as service_logging
from conversations_api import wiring
from conversations_api.settings import Settings
from delivery.redaction import Counts, Redaction
from delivery.twilio_gateway import TwilioGateway
from tenancy.transaction import Database


class NotAllRedacted(Exception):
    """Something is left; the message says what."""


def redact(settings: Settings, agency_id: UUID, phone: str, *, say: Callable[[str], None]) -> None:
    """Tells `say` what it does; may be run again, whatever became of it.

    Raises NotAllRedacted, UnknownContact, UnsafeDatabase, DatabaseUnavailable and OutcomeUnknown.
    """
    service_logging.configure(settings.log_level)
    wiring.check_owners_database(settings.migration_database_url)
    database = Database(settings.migration_database_url, pool_size=1)
    try:
        redaction = Redaction(
            database=database,
            gateway=TwilioGateway(
                base_url=settings.twilio_base_url,
                connect_timeout_seconds=settings.send_connect_timeout_seconds,
                total_deadline_seconds=settings.send_deadline_seconds,
                max_concurrency=1,
            ),
            credentials=wiring.make_twilio_credentials(settings),
            agency_id=agency_id,
            say=say,
        )
        counts = redaction.run(phone)
    finally:
        database.close()
    say(
        f"redacted here: {counts.here}; at Twilio: {counts.at_carrier}; not found at Twilio: {counts.not_at_carrier}; "
        f"left: {counts.left}"
    )
    if counts.left:
        raise NotAllRedacted(_what_is_left(counts))


def _what_is_left(counts: Counts) -> str:
    parts = []
    if counts.under_way:
        parts.append(f"{counts.under_way} are not sent yet and were left as they are")
    if counts.unconfirmed:
        parts.append(f"Twilio has not confirmed {counts.unconfirmed} ({counts.reason})")
    return f"some messages are left: {', and '.join(parts)}; run it again later"
