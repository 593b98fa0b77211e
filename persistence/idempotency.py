"""The first answer to each Idempotency-Key, which `persistence.sends` finds again.

The record is written in the transaction of the send, so neither can exist without the other.
"""

from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

INSERT = text("""
    insert into idempotency_keys (agency_id, key, fingerprint, message_id, response)
    values (:agency_id, :key, :fingerprint, :message_id, :response)
""")

# Kept for 24 hours.
DELETE_EXPIRED = text("""
    delete from idempotency_keys
    where agency_id = :agency_id
    and key = any(array(
        select key
        from idempotency_keys
        where agency_id = :agency_id
        and created_at <= statement_timestamp() - interval '24 hours'
        order by created_at
        limit :limit
        for update skip locked))
""")

DELETE = text("""
    delete from idempotency_keys
    where agency_id = :agency_id
    and key = :key
""")

# One key in so many clears away up to twice as many that have expired: none costs more for it, and they get fewer.
CLEARING = 16


def insert(connection: TenantConnection, *, key: str, fingerprint: bytes, message_id: UUID, response: str) -> None:
    """Keep the first answer, and now and then clear away some that have expired."""
    connection.execute_later(INSERT, key=key, fingerprint=fingerprint, message_id=message_id, response=response)
    if message_id.int % CLEARING == 0:
        connection.execute_later(DELETE_EXPIRED, limit=2 * CLEARING)


def delete(connection: TenantConnection, *, key: str) -> None:
    """Forget the answer, before another one is kept."""
    connection.execute_later(DELETE, key=key)
