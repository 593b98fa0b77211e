"""Who sent what, and how the agency was chosen. Append-only: no role that serves requests may change or read it."""

from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence.connection import TenantConnection

INSERT = text("""
    insert into audit_records (agency_id, id, user_id, role, action, tenant_source, request_id, message_id)
    values (:agency_id, :id, :user_id, :role, :action, :tenant_source, :request_id, :message_id)
""")


def insert(
    connection: TenantConnection,
    *,
    user_id: str,
    role: str,
    action: str,
    tenant_source: str,
    request_id: str,
    message_id: UUID,
) -> None:
    """`tenant_source` is `token`, or `request` when X-Tenant-ID or tenant_id named the agency."""
    connection.execute_later(
        INSERT,
        id=uuid_utils.uuid7(),
        user_id=user_id,
        role=role,
        action=action,
        tenant_source=tenant_source,
        request_id=request_id,
        message_id=message_id,
    )
