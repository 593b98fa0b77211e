"""The people whom locations talk with: one row per agency and phone."""

from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence.connection import TenantConnection

# DO UPDATE and not DO NOTHING: the row must come back, and be locked, when another request has just made it.
UPSERT = text("""
    insert into contacts (agency_id, id, phone, name)
    values (:agency_id, :id, :phone, :name)
    on conflict (agency_id, phone) do update
    set name = coalesce(excluded.name, contacts.name),
        updated_at = case when excluded.name is distinct from contacts.name and excluded.name is not null
            then excluded.updated_at else contacts.updated_at end
    returning id
""")


def upsert(connection: TenantConnection, *, phone: str, name: str | None) -> UUID:
    """The id of the contact with this phone, made if need be; a name that is given replaces the one that was."""
    contact_id: UUID = connection.execute(UPSERT, id=uuid_utils.uuid7(), phone=phone, name=name).scalar_one()
    return contact_id
