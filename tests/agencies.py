"""Agencies that look alike: the same names, numbers and phones in each, so that only agency_id tells rows apart."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence import arrivals, conversation_counts, messages, sends
from persistence.connection import TenantConnection
from tenancy.transaction import Database, tenant_transaction, unbound_transaction

ACCOUNT_SID = "AC" + "0" * 31 + "1"
CONTACT_PHONE = "+12025550199"


MISCOUNTED = text("""
    select agency_id, location_id, status, counted.conversations, kept.conversations
    from (
        select agency_id, location_id, status, count(*) as conversations
        from conversations
        group by agency_id, location_id, status
    ) counted
    full join conversation_counts kept using (agency_id, location_id, status)
    where coalesce(counted.conversations, 0) <> coalesce(kept.conversations, 0)
""")


@dataclass(frozen=True)
class Urls:
    """The URLs of one database, by role."""

    app: str
    worker: str
    owner: str
    superuser: str


@dataclass(frozen=True)
class Agency:
    """One agency with a client, a location, a WhatsApp and an SMS channel."""

    id: UUID
    location_id: UUID
    whatsapp_id: UUID
    sms_id: UUID
    sms_address: str
    whatsapp_address: str


def make_agency(owner_url: str, number: int, *, status: str = "active") -> Agency:
    """Provision one agency as an operator would; `number` gives its channels their phone number."""
    phone = f"+1202555{number:04d}"
    agency = Agency(*(uuid_utils.uuid7() for _ in range(4)), phone, f"whatsapp:{phone}")
    database = Database(owner_url, pool_size=1)
    try:
        with tenant_transaction(database, agency.id) as connection:
            for statement, parameters in _statements(agency, phone, status):
                connection.execute(text(statement), **parameters)
    finally:
        database.close()
    return agency


def _statements(agency: Agency, phone: str, status: str) -> list[tuple[str, dict[str, object]]]:
    client_id = uuid_utils.uuid7()
    channel = """
        insert into channels (agency_id, id, location_id, kind, address, account_sid)
        values (:agency_id, :id, :location_id, :kind, :address, :account_sid)"""
    route = """
        insert into number_routing (account_sid, address, agency_id, channel_id)
        values (:account_sid, :address, :agency_id, :channel_id)"""
    statements: list[tuple[str, dict[str, object]]] = [
        ("insert into agencies (agency_id, name, status) values (:agency_id, 'Agency', :status)", {"status": status}),
        (
            "insert into agency_members (agency_id, user_id, role) values (:agency_id, 'user_member', 'staff')",
            {},
        ),
        ("insert into clients (agency_id, id, name) values (:agency_id, :id, 'Client')", {"id": client_id}),
        (
            "insert into locations (agency_id, id, client_id, name) values (:agency_id, :id, :client_id, 'Location')",
            {"id": agency.location_id, "client_id": client_id},
        ),
    ]
    for kind, channel_id, address in (
        ("whatsapp", agency.whatsapp_id, agency.whatsapp_address),
        ("sms", agency.sms_id, agency.sms_address),
    ):
        values: dict[str, object] = {"id": channel_id, "location_id": agency.location_id, "kind": kind}
        statements.append((channel, {**values, "address": phone, "account_sid": ACCOUNT_SID}))
        statements.append((route, {"account_sid": ACCOUNT_SID, "address": address, "channel_id": channel_id}))
    return statements


def make_conversation(
    connection: TenantConnection, agency: Agency, *, phone: str = CONTACT_PHONE, content: str = "Hello", sid: str = ""
) -> UUID:
    """A contact writes over SMS: the conversation of that contact."""
    twilio_sid = sid or f"SM{uuid_utils.uuid4().hex}"
    conversation_id, sent_at = arrivals.receive(
        connection, channel_id=agency.sms_id, phone=phone, name=None, twilio_sid=twilio_sid
    )
    messages.insert(
        connection,
        conversation_id=conversation_id,
        direction="inbound",
        status="received",
        sent_at=sent_at,
        content=content,
        twilio_sid=twilio_sid,
    )
    return conversation_id


def insert_message(connection: TenantConnection, *, conversation_id: UUID, **values: Any) -> dict[str, Any]:
    """A message at the end of a thread."""
    sender = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=True)
    return messages.insert(connection, conversation_id=conversation_id, sent_at=sender.next_sent_at, **values)


def set_status(connection: TenantConnection, status: str, conversation_id: UUID | str | None = None) -> None:
    """Sort one conversation, or all of them; the counts go with it."""
    sorted_ = connection.execute(
        text("""
            select id, location_id, status
            from conversations
            where agency_id = :agency_id
            and (cast(:id as uuid) is null or id = cast(:id as uuid))
            and status <> :status"""),
        id=None if conversation_id is None else str(conversation_id),
        status=status,
    ).all()
    for row in sorted_:
        connection.execute(
            text("update conversations set status = :status where agency_id = :agency_id and id = :id"),
            id=row.id,
            status=status,
        )
        conversation_counts.move_one(connection, location_id=row.location_id, status=status, from_status=row.status)


def miscounted(superuser_url: str) -> list[tuple[object, ...]]:
    """Where the kept counts of conversations are not what there are, over all agencies of a database."""
    database = Database(superuser_url, pool_size=1)
    try:
        with unbound_transaction(database, read_only=True) as connection:
            return [tuple(row) for row in connection.execute(MISCOUNTED)]
    finally:
        database.close()
