"""Which agency a number belongs to: the one question that is answered before an agency is bound."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from persistence.connection import UnboundConnection

# An address is as Twilio writes it: +12025550100, whatsapp:+12025550100, or MG... for a messaging service.
# All addresses are looked for, and it is a row where they are nobody's, too: time does not tell which ones there are.
FIND = text("""
    select found.agency_id is not null as known,
        coalesce(found.agency_id, '00000000-0000-0000-0000-000000000000') as agency_id,
        coalesce(found.channel_id, '00000000-0000-0000-0000-000000000000') as channel_id
    from (select) as asked
    left join (
        select agency_id, channel_id
        from number_routing
        where account_sid = :account_sid
        and address = any(cast(:addresses as text[]))
        order by array_position(cast(:addresses as text[]), address)
        limit 1
    ) found on true
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
    row = connection.execute(FIND, account_sid=account_sid, addresses=addresses).one()
    return Route(row.agency_id, row.channel_id) if row.known else None


def list_numbers(connection: UnboundConnection) -> list[Number]:
    """Every number of the installation."""
    return [Number(**row._mapping) for row in connection.execute(LIST)]
