"""Which agency a number belongs to: the one question that is answered before an agency is bound."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from persistence.connection import UnboundConnection

# An address is as Twilio writes it: +12025550100, whatsapp:+12025550100, or MG... for a messaging service.
# It is a row for a number that is nobody's, too, so that time does not tell which numbers there are.
FIND = text("""
    select agency_id is not null as known,
        coalesce(agency_id, '00000000-0000-0000-0000-000000000000') as agency_id,
        coalesce(channel_id, '00000000-0000-0000-0000-000000000000') as channel_id
    from (select) as asked
    left join number_routing on account_sid = :account_sid and address = :address
""")

LIST = text("""
    select account_sid, address, agency_id, channel_id
    from number_routing
    order by account_sid, address
""")


@dataclass(frozen=True)
class Route:
    """Whose number it is, and which of their channels."""

    agency_id: UUID
    channel_id: UUID


@dataclass(frozen=True)
class Number:
    """One address on one account, with its route."""

    account_sid: str
    address: str
    agency_id: UUID
    channel_id: UUID


def find(connection: UnboundConnection, *, account_sid: str, addresses: list[str]) -> Route | None:
    """The route of the first of these addresses that is known on this account, or None."""
    for address in addresses:
        row = connection.execute(FIND, account_sid=account_sid, address=address).one()
        if row.known:
            return Route(row.agency_id, row.channel_id)
    return None


def list_numbers(connection: UnboundConnection) -> list[Number]:
    """Every number of the installation."""
    return [Number(**row._mapping) for row in connection.execute(LIST)]
