"""The numbers and messaging services that locations send from and receive at."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

GET = text("""
    select id, location_id, kind, address, account_sid, paused_until, inbound_complete_until
    from channels
    where agency_id = :agency_id
    and id = :channel_id
""")

PAUSE = text("""
    update channels
    set paused_until = clock_timestamp() + make_interval(secs => :seconds), paused_by_error_code = :error_code
    where agency_id = :agency_id
    and id = :channel_id
    returning paused_until
""")


@dataclass(frozen=True)
class Channel:
    """One sender: an E.164 number or a messaging service SID, on one Twilio account."""

    id: UUID
    location_id: UUID
    kind: str
    address: str
    account_sid: str
    paused_until: datetime | None
    inbound_complete_until: datetime | None


def get(connection: TenantConnection, *, channel_id: UUID) -> Channel:
    """The channel; it exists, since only a routing row or a conversation names it."""
    return Channel(**connection.execute(GET, channel_id=channel_id).one()._mapping)


def pause(connection: TenantConnection, *, channel_id: UUID, seconds: float, error_code: str) -> datetime:
    """Hold the sender's queue: the carrier refused the sender as a whole, not one message. Returns until when."""
    until: datetime = connection.execute(
        PAUSE, channel_id=channel_id, seconds=seconds, error_code=error_code
    ).scalar_one()
    return until
