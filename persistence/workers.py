"""The processes that send: a heartbeat for operators, never the proof that one is alive or dead.

The proof is the advisory lock `worker_key`, which PostgreSQL releases when the worker's session ends. A stopped
process still holds it, and so is not taken for dead.
"""

from sqlalchemy import text

from persistence.connection import UnboundConnection

BEAT = text("""
    insert into workers (worker_key)
    values (:worker_key)
    on conflict (worker_key) do update
    set last_seen_at = clock_timestamp()
""")

DELETE = text("""
    delete from workers
    where worker_key = :worker_key
    or last_seen_at < clock_timestamp() - interval '1 day'
""")

HEARTBEAT_AGE = text("""
    select extract(epoch from clock_timestamp() - max(last_seen_at))::float8
    from workers
""")


def beat(connection: UnboundConnection, *, worker_key: int) -> None:
    """Say that the worker is running."""
    connection.execute(BEAT, worker_key=worker_key)


def delete(connection: UnboundConnection, *, worker_key: int) -> None:
    """Say that the worker has ended; rows of workers that ended without saying so go after a day."""
    connection.execute(DELETE, worker_key=worker_key)


def heartbeat_age_seconds(connection: UnboundConnection) -> float | None:
    """Seconds since any worker was last seen, or None when there was none."""
    age: float | None = connection.execute(HEARTBEAT_AGE).scalar()
    return age
