"""The rows that everything is measured on: made once for each size, and kept in `.data-bench` between runs.

A database is made anew when the migrations or the way its rows are made have changed. What the benchmarks write goes to
agencies of its own, whose rows are taken back before each run, so that what is read stays the same.
"""

import hashlib
import io
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from conversations_api import migrating
from conversations_api.demo import samples
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.embedded_postgres.running_postgres import Server

ROOT = Path(__file__).parents[2]
ACCOUNT_SID = "AC" + "0" * 31 + "1"
# A quarter of a small server's memory rather than PostgreSQL's 128 MB: what is read again and again is in its cache.
SHARED_BUFFERS = "1GB"
# Temporary memory of the session that loads; nothing of it stays.
LOADING = "set work_mem = '256MB'; set maintenance_work_mem = '512MB'; set synchronous_commit = off"


@dataclass(frozen=True)
class Size:
    """`growth`: agencies with so many conversations each; `threads`: conversations with so many messages each."""

    name: str
    agencies: int
    conversations: int
    messages: int
    growth: tuple[int, ...]
    threads: tuple[int, ...]
    writers: int
    conversations_of_writer: int


FULL = Size("full", 200, 100_000, 2_000_000, (1_000, 10_000, 100_000, 1_000_000), (100, 10_000, 1_000_000), 20, 500)
QUICK = Size("quick", 20, 10_000, 200_000, (1_000, 10_000, 100_000), (100, 10_000, 100_000), 20, 200)
TINY = Size("tiny", 2, 100, 6_000, (100,), (100,), 2, 20)
SIZES = {size.name: size for size in (FULL, QUICK, TINY)}


@contextmanager
def running_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    """The embedded server on `folder`, with fsync on, as an installation has it."""
    folder.mkdir(parents=True, exist_ok=True)
    postgres = EmbeddedPostgres(folder)
    with postgres:
        postgres.psql(f"alter system set shared_buffers = '{SHARED_BUFFERS}';")
    with postgres:  # once more, with it
        yield postgres


def empty_folder(data_folder: Path) -> Path:
    """For the servers' logs and what is asked of them; those of an earlier run are removed."""
    folder = data_folder / "logs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def ensure(postgres: Server, size: Size) -> str:
    """The name of the database that holds the rows of this size; made if it is not there or out of date."""
    name = f"bench_{size.name}"
    fingerprint = _fingerprint(size)
    if _comment(postgres, name) != fingerprint:
        postgres.drop_database(name)
        postgres.create_database(name)
        migrating.migrate(postgres.url("faro_owner", name))
        _load(postgres, name, size)
        postgres.psql(f"comment on database {name} is '{fingerprint}';")
    return name


def connect(postgres: Server, role: str, database: str) -> Any:
    """A connection of psycopg2 that commits by itself."""
    connection = psycopg2.connect(dsn(postgres, role, database))
    connection.autocommit = True
    return connection


def dsn(postgres: Server, role: str, database: str) -> str:
    """The address in libpq's form, without a driver."""
    return postgres.url(role, database).replace("postgresql+psycopg2", "postgresql")


def query(postgres: Server, database: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows, read past row-level security: only to choose what is asked over HTTP later."""
    with closing(connect(postgres, "postgres", database)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


def forget_writes(postgres: Server, database: str) -> None:
    """Take back what earlier runs wrote, all of it in the agencies of the writers."""
    with closing(connect(postgres, "postgres", database)) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute("create temp table writer as select agency_id from agencies where name like 'Writer%'")
        for table in ("idempotency_keys", "audit_records", "outbox", "attempts", "provider_events"):
            cursor.execute(f"delete from {table} where agency_id in (select agency_id from writer)")  # noqa: S608
        cursor.execute(
            "delete from messages where agency_id in (select agency_id from writer) and created_at > %s",
            (_made_at(cursor),),
        )
        for table in ("messages", "conversations", "outbox", "idempotency_keys"):
            cursor.execute(f"vacuum (analyze) {table}")


def _made_at(cursor: Any) -> Any:
    cursor.execute("select max(created_at) from agencies")
    return cursor.fetchone()[0]


def _fingerprint(size: Size) -> str:
    digest = hashlib.sha256(repr(list(_plan(size))).encode())
    migrations = sorted((ROOT / "persistence/migrations/sql").glob("*.up.sql"))
    for path in (Path(__file__).with_suffix(".sql"), *migrations):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _comment(postgres: Server, name: str) -> str | None:
    rows = query(
        postgres,
        "postgres",
        "select shobj_description(oid, 'pg_database') from pg_database where datname = %s",
        [name],
    )
    return rows[0][0] if rows else None


def _plan(size: Size) -> Iterator[tuple[str, int, str, str]]:
    """(name, conversations, messages of each conversation, kinds of channels) of every agency."""
    both = "{whatsapp,sms}"
    for number in range(1, size.agencies + 1):
        of_each = size.conversations // size.agencies
        yield f"Comparison {number}", of_each, f"{{{size.messages // size.conversations}}}", both
    for conversations in size.growth:
        yield f"Growth {conversations}", conversations, "{0}", both
    yield "Threads", len(size.threads), f"{{{','.join(map(str, size.threads))}}}", both
    # Only SMS: no window closes while a message is being written into it.
    for number in range(1, size.writers + 1):
        yield f"Writer {number}", size.conversations_of_writer, "{1}", "{sms}"


def _load(postgres: Server, database: str, size: Size) -> None:
    begin = time.monotonic()
    with closing(connect(postgres, "postgres", database)) as connection, connection.cursor() as cursor:
        cursor.execute(LOADING)
        _describe(cursor, size)
        for step in Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").split("-- step: ")[1:]:
            title, _, script = step.partition("\n")
            _tell(f"data set {size.name}: {title}", begin)
            cursor.execute(script)
        _tell(f"data set {size.name}: statistics", begin)
        cursor.execute("set session_replication_role = origin")
        cursor.execute("vacuum (analyze, freeze)")
        cursor.execute("checkpoint")
    _tell(f"data set {size.name}: made", begin)
    sys.stderr.write("\n")


def _describe(cursor: Any, size: Size) -> None:
    texts = samples.ham()
    cursor.execute("create temp table sample (n integer primary key, content text not null)")
    rows = "".join(f"{number}\t{_escaped(content)}\n" for number, content in enumerate(texts))
    cursor.copy_expert("copy sample from stdin", io.StringIO(rows))
    cursor.execute("create temp table constants as select %s as account_sid, %s as samples", (ACCOUNT_SID, len(texts)))
    cursor.execute(
        "create temp table plan (agency_id uuid, name text, conversations int, messages int[], kinds text[])"
    )
    for row in _plan(size):
        cursor.execute("insert into plan values (uuidv7(), %s, %s, %s, %s)", row)
    cursor.execute("analyze plan; analyze sample")


def _escaped(content: str) -> str:
    return content.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _tell(what: str, begin: float) -> None:
    sys.stderr.write(f"\r{what} ({time.monotonic() - begin:.0f} s)".ljust(80))
    sys.stderr.flush()
