"""The numbers and messaging services that locations send from and receive at."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

PAUSE = text("""
    update channels
    set paused_until = statement_timestamp() + make_interval(secs => :seconds), paused_by_error_code = :error_code
    where agency_id = :agency_id
    and id = :channel_id
    returning paused_until
""")

# What was there before the channel was is nobody's inbox.
INBOUND_MARK = text("""
    select coalesce(inbound_complete_until, created_at) as complete_until, clock_timestamp() as now,
        extract(epoch from clock_timestamp() - coalesce(inbound_complete_until, created_at))::float8 as age_seconds
    from channels
    where agency_id = :agency_id
    and id = :channel_id
""")

SET_INBOUND_MARK = text("""
    update channels
    set inbound_complete_until = greatest(inbound_complete_until, :complete_until)
    where agency_id = :agency_id
    and id = :channel_id
""")

LIST_KNOWN_ADDRESSES = text("""
    select address
    from channels
    where agency_id = :agency_id
    and address = any(:addresses)
""")


@dataclass(frozen=True)
class InboundMark:
    """Everything that arrived before `complete_until` is here; `now` is the database's clock."""

    complete_until: datetime
    now: datetime
    age_seconds: float


def pause(connection: TenantConnection, *, channel_id: UUID, seconds: float, error_code: str) -> datetime:
    """Hold the sender's queue: the carrier refused the sender as a whole, not one message. Returns until when."""
    until: datetime = connection.execute(
        PAUSE, channel_id=channel_id, seconds=seconds, error_code=error_code
    ).scalar_one()
    return until


def inbound_mark(connection: TenantConnection, *, channel_id: UUID) -> InboundMark:
    """How far what contacts wrote is known to be here."""
    return InboundMark(**connection.execute(INBOUND_MARK, channel_id=channel_id).one()._mapping)


def set_inbound_mark(connection: TenantConnection, *, channel_id: UUID, complete_until: datetime) -> None:
    """Everything that arrived before is here now; a mark never goes back."""
    connection.execute(SET_INBOUND_MARK, channel_id=channel_id, complete_until=complete_until)


def list_known_addresses(connection: TenantConnection, *, addresses: Collection[str]) -> set[str]:
    """Those of the numbers and messaging services that a channel of the agency sends from."""
    return set(connection.execute(LIST_KNOWN_ADDRESSES, addresses=list(addresses)).scalars())
