"""A send that is repeated with the same Idempotency-Key happens once, and gets the first answer again.

The record is written in the transaction of the send, so neither can exist without the other. A key that is being
used by an open transaction is seen through an advisory lock that ends with it, without waiting.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection
from persistence.errors import IdempotencyInProgress, IdempotencyKeyReused

TRY_LOCK = text("""
    select pg_try_advisory_xact_lock(hashtextextended(cast(:agency_id as text) || ' ' || :key, 0))
""")

# Kept for 24 hours; what is older does not count, whether or not it has been cleared away yet.
FIND = text("""
    select fingerprint, response, message_id
    from idempotency_keys
    where agency_id = :agency_id
    and key = :key
    and created_at > clock_timestamp() - interval '24 hours'
""")

INSERT = text("""
    insert into idempotency_keys (agency_id, key, fingerprint, message_id, response)
    values (:agency_id, :key, :fingerprint, :message_id, :response)
""")

DELETE_EXPIRED = text("""
    delete from idempotency_keys
    where agency_id = :agency_id
    and key in (
        select key
        from idempotency_keys
        where agency_id = :agency_id
        and created_at <= statement_timestamp() - interval '24 hours'
        order by created_at
        limit 20
        for update skip locked)
""")

DELETE_EXPIRED_KEY = text("""
    delete from idempotency_keys
    where agency_id = :agency_id
    and key = :key
    and created_at <= statement_timestamp() - interval '24 hours'
""")


@dataclass(frozen=True)
class FirstAnswer:
    """The answer that the first request with a key was given."""

    response: str
    message_id: UUID


def find_first_answer(connection: TenantConnection, *, key: str, fingerprint: bytes) -> FirstAnswer | None:
    """The answer to repeat, or None when this is the first request; the key is then held until the transaction ends.

    Raises IdempotencyInProgress while another transaction holds the key, and IdempotencyKeyReused when the key
    was used for a request with another fingerprint.
    """
    if not connection.execute(TRY_LOCK, key=key).scalar():
        raise IdempotencyInProgress
    row = connection.execute(FIND, key=key).first()
    if row is None:
        return None
    if bytes(row.fingerprint) != fingerprint:
        raise IdempotencyKeyReused
    return FirstAnswer(response=row.response, message_id=row.message_id)


def insert(connection: TenantConnection, *, key: str, fingerprint: bytes, message_id: UUID, response: str) -> None:
    """Keep the first answer, and clear away some that have expired."""
    connection.execute_later(DELETE_EXPIRED_KEY, key=key)
    connection.execute_later(INSERT, key=key, fingerprint=fingerprint, message_id=message_id, response=response)
    connection.execute_later(DELETE_EXPIRED)
