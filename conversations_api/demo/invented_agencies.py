"""The demo's three agencies, and how an agency with its locations, numbers and members comes into a database.

There is no API for this yet, so it is done by the owner of the tables, who is bound to one agency at a time like
everybody else. What is there already stays as it is.
"""

from dataclasses import dataclass
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

INSERT_AGENCY = text("""
    insert into agencies (agency_id, name)
    values (:agency_id, :name)
    on conflict do nothing
""")

INSERT_MEMBER = text("""
    insert into agency_members (agency_id, user_id, role)
    values (:agency_id, :user_id, :role)
    on conflict do nothing
""")

INSERT_CLIENT = text("""
    insert into clients (agency_id, id, name)
    values (:agency_id, :id, :name)
    on conflict do nothing
""")

INSERT_LOCATION = text("""
    insert into locations (agency_id, id, client_id, name)
    values (:agency_id, :id, :client_id, :name)
    on conflict do nothing
""")

INSERT_TWILIO_ACCOUNT = text("""
    insert into twilio_accounts (agency_id, account_sid, auth_token)
    values (:agency_id, :account_sid, :auth_token)
    on conflict do nothing
""")

INSERT_CHANNEL = text("""
    insert into channels (agency_id, id, location_id, kind, address, account_sid)
    values (:agency_id, :id, :location_id, :kind, :address, :account_sid)
    on conflict do nothing
""")

INSERT_ROUTE = text("""
    insert into number_routing (account_sid, address, agency_id, channel_id)
    values (:account_sid, :address, :agency_id, :channel_id)
    on conflict do nothing
""")

LIST_ROUTED_AGENCIES = text("""
    select distinct agency_id
    from number_routing
""")


@dataclass(frozen=True)
class TwilioAccount:
    """An account and its token, in clear: it belongs to the simulator."""

    account_sid: str
    auth_token: str


@dataclass(frozen=True)
class Location:
    """A place of one of the agency's clients."""

    id: UUID
    name: str
    client_id: UUID
    client_name: str


@dataclass(frozen=True)
class Channel:
    """A number of a location; `address` is E.164, `kind` whatsapp or sms."""

    id: UUID
    kind: str
    address: str
    location_id: UUID
    account_sid: str

    @property
    def twilio_address(self) -> str:
        return f"whatsapp:{self.address}" if self.kind == "whatsapp" else self.address


@dataclass(frozen=True)
class Agency:
    """One tenant. `members` are (user id, role); `own_account` where it brings a Twilio account of its own."""

    id: UUID
    name: str
    locations: tuple[Location, ...]
    channels: tuple[Channel, ...]
    members: tuple[tuple[str, str], ...]
    own_account: TwilioAccount | None = None


ROLES = ("owner", "admin", "manager", "staff", "viewer", "client_viewer")

# Agency -> its clients, each with its locations. The last agency brings its own Twilio account.
_AGENCIES: dict[str, dict[str, tuple[str, ...]]] = {
    "Harbor Lane Marketing": {
        "Bayside Dental": ("Bayside Dental, Downtown", "Bayside Dental, Pier 4"),
        "Juniper Yoga": ("Juniper Yoga Studio",),
    },
    "Northgate Growth": {"Corner Garage": ("Corner Garage, Mill Road",), "Maple Vets": ("Maple Street Vets",)},
    "Fern and Finch": {"Lantern Bistro": ("Lantern Bistro",), "Birch Physio": ("Birch Physio",)},
}


def user_id(agency_name: str, role: str) -> str:
    """Whom the demo's tokens name: `staff@northgate-growth.example`."""
    return f"{role}@{agency_name.lower().replace(' ', '-')}.example"


def invent(installation: TwilioAccount, own: TwilioAccount) -> list[Agency]:
    """Three agencies with new ids, on numbers that are nobody's. The third one's manager may look into the second."""
    agencies: list[Agency] = []
    numbers = iter(range(100, 200))
    for agency_name, clients in _AGENCIES.items():
        own_account = own if agency_name == list(_AGENCIES)[-1] else None
        locations = [
            Location(uuid_utils.uuid7(), location_name, client_id, client_name)
            for client_name, names in clients.items()
            for client_id in [uuid_utils.uuid7()]
            for location_name in names
        ]
        account_sid = (own_account or installation).account_sid
        channels = [
            Channel(uuid_utils.uuid7(), kind, f"+12025550{next(numbers)}", location.id, account_sid)
            for location in locations
            for kind in ("whatsapp", "sms")
        ]
        members = [(user_id(agency_name, role), role) for role in ROLES]
        if len(agencies) == 1:
            members.append((user_id(list(_AGENCIES)[-1], "manager"), "viewer"))
        agencies.append(
            Agency(uuid_utils.uuid7(), agency_name, tuple(locations), tuple(channels), tuple(members), own_account)
        )
    return agencies


def install(database: Database, agency: Agency, credentials: TwilioCredentials) -> None:
    """Put the agency into the owner's `database`; again changes nothing."""
    with tenant_transaction(database, agency.id) as connection:
        connection.execute(INSERT_AGENCY, name=agency.name)
        for member, role in agency.members:
            connection.execute(INSERT_MEMBER, user_id=member, role=role)
        for location in agency.locations:
            connection.execute(INSERT_CLIENT, id=location.client_id, name=location.client_name)
            connection.execute(INSERT_LOCATION, id=location.id, client_id=location.client_id, name=location.name)
        if agency.own_account is not None:
            connection.execute(
                INSERT_TWILIO_ACCOUNT,
                account_sid=agency.own_account.account_sid,
                auth_token=credentials.encrypt(agency.own_account.auth_token),
            )
        for channel in agency.channels:
            connection.execute(
                INSERT_CHANNEL,
                id=channel.id,
                location_id=channel.location_id,
                kind=channel.kind,
                address=channel.address,
                account_sid=channel.account_sid,
            )
            connection.execute(
                INSERT_ROUTE, account_sid=channel.account_sid, address=channel.twilio_address, channel_id=channel.id
            )


def others_are_at_home(database: Database, agencies: list[Agency]) -> bool:
    """Whether numbers of agencies other than these are routed in this database."""
    with unbound_transaction(database, read_only=True) as connection:
        routed = set(connection.execute(LIST_ROUTED_AGENCIES).scalars())
    return bool(routed - {agency.id for agency in agencies})
