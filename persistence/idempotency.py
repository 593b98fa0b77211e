"""A send that is repeated with the same Idempotency-Key happens once, and gets the first answer again.

The record is written in the transaction of the send, so neither can exist without the other. A key that is being
used by an open transaction is seen through an advisory lock that ends with it, without waiting.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection
from persistence.errors import IdempotencyInProgress, IdempotencyKeyReused

# The next statement reads it: in one statement with the lock, the key would be looked for before it is held.
TRY_LOCK = text("""
    select set_config('app.key_is_held', cast(pg_try_advisory_xact_lock(
        hashtextextended(cast(:agency_id as text) || ' ' || :key, 0)) as text), true)
""")

# Kept for 24 hours; what is older does not count, whether or not it has been cleared away yet.
FIND = text("""
    select current_setting('app.key_is_held') = 'true' as is_held, fingerprint, response, message_id,
        created_at <= clock_timestamp() - interval '24 hours' as has_expired
    from (select 1) as always
    left join idempotency_keys on idempotency_keys.agency_id = :agency_id and idempotency_keys.key = :key
""")

INSERT = text("""
    insert into idempotency_keys (agency_id, key, fingerprint, message_id, response)
    values (:agency_id, :key, :fingerprint, :message_id, :response)
""")

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
    connection.execute_later(TRY_LOCK, key=key)
    row = connection.execute(FIND, key=key).one()
    if not row.is_held:
        raise IdempotencyInProgress
    if row.fingerprint is None:
        return None
    if row.has_expired:
        connection.execute_later(DELETE, key=key)
        return None
    if bytes(row.fingerprint) != fingerprint:
        raise IdempotencyKeyReused
    return FirstAnswer(response=row.response, message_id=row.message_id)


def insert(connection: TenantConnection, *, key: str, fingerprint: bytes, message_id: UUID, response: str) -> None:
    """Keep the first answer, and now and then clear away some that have expired."""
    connection.execute_later(INSERT, key=key, fingerprint=fingerprint, message_id=message_id, response=response)
    if message_id.int % CLEARING == 0:
        connection.execute_later(DELETE_EXPIRED, limit=2 * CLEARING)
