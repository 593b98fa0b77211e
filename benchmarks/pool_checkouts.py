"""Take connections from the pool by the million, and look whether anything of their last user is left on them.

    python -m benchmarks.pool_checkouts --checkouts 1000000 --through both

Threads take turns at being different agencies, commit, roll back, fail, run into time limits and lose their
connections. Each checkout asks the connection first what is bound (stale when anything is), and then, bound to its own
agency, whose rows it sees (foreign when another's, missing when not its own).
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from uuid import UUID

import sqlalchemy
from sqlalchemy import text

from benchmarks import pgbouncer
from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from persistence.connection import TenantConnection, UnboundConnection
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown

AGENCIES = [UUID(int=0xFA0 << 112 | number) for number in range(1, 8)]
THREADS = 8
# Fewer than threads, so that every connection goes from hand to hand.
POOL_SIZE = 4
SERVER_CONNECTIONS = 3

BOUND = text("select current_setting('app.agency_id', true), array_agg(distinct agency_id::text) from clients")

# How a checkout is brought to its end, and how often in a thousand.
ENDINGS = {
    "commit": 500,
    "rollback": 250,
    "savepoint": 100,
    "failed statement": 95,
    "statement timeout": 50,
    "lost connection": 5,
}


class Abandoned(Exception):
    """The caller of a transaction gives up in the middle of it."""


class Checkouts:
    """Counts what was `found` that should not be (stale, foreign, missing), and how the checkouts ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A counter for each thread, since two that add to one at once lose some.
        self._found: list[Counter[str]] = []
        self._endings: list[Counter[str]] = []

    @property
    def found(self) -> Counter[str]:
        return sum(self._found, Counter())

    @property
    def endings(self) -> Counter[str]:
        return sum(self._endings, Counter())

    def run(self, count: int) -> None:
        """Let THREADS threads make `count` checkouts between them."""
        self._found = [Counter() for _ in range(THREADS)]
        self._endings = [Counter() for _ in range(THREADS)]
        threads = [
            threading.Thread(target=self._take_turns, args=(number, count // THREADS + (number < count % THREADS)))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _take_turns(self, number: int, count: int) -> None:
        dice, found, endings = random.Random(number), self._found[number], self._endings[number]
        for _ in range(count):
            agency_id = dice.choice(AGENCIES)
            (ending,) = dice.choices(list(ENDINGS), ENDINGS.values())
            try:
                kind = dice.choice(("unbound, then bound", "bound", "read"))
                if kind == "read":
                    with transaction.tenant_transaction(self._database, agency_id, read_only=True) as connection:
                        _use(connection, agency_id, found)
                        if ending in _ENDS_A_READ:
                            _END[ending](connection.connection)
                elif kind == "unbound, then bound":
                    with transaction.unbound_transaction(self._database) as unbound:
                        _look_unbound(unbound, found)
                        _use(transaction.bind(unbound, agency_id), agency_id, found)
                        _END[ending](unbound.connection)
                else:
                    with transaction.tenant_transaction(self._database, agency_id) as connection:
                        _use(connection, agency_id, found)
                        _END[ending](connection.connection)
            except (DatabaseUnavailable, OutcomeUnknown):
                endings["without a connection, or losing it"] += 1
            except (Abandoned, sqlalchemy.exc.DataError):
                endings["rolled back"] += 1
            else:
                endings["committed"] += 1


def _look_unbound(unbound: UnboundConnection, found: Counter[str]) -> None:
    bound, seen = unbound.execute(BOUND).one()
    found["stale"] += bool(bound)
    found["foreign"] += seen is not None


def _use(connection: TenantConnection, agency_id: UUID, found: Counter[str]) -> None:
    bound, seen = connection.execute(BOUND).one()
    found["stale"] += bound != str(agency_id)
    found["missing"] += str(agency_id) not in (seen or [])
    found["foreign"] += bool(set(seen or []) - {str(agency_id)})


def _savepoint(connection: sqlalchemy.Connection) -> None:
    with connection.begin_nested() as savepoint:
        connection.exec_driver_sql("select 1")
        savepoint.rollback()


def _abandon(_connection: sqlalchemy.Connection) -> None:
    raise Abandoned


def _fail(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("select 1 / 0")


def _run_out_of_time(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("set local statement_timeout = '2ms'")
    connection.exec_driver_sql("select pg_sleep(10)")


def _lose(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("select pg_terminate_backend(pg_backend_pid())")


_END: dict[str, Callable[[sqlalchemy.Connection], None]] = {
    "commit": lambda connection: None,
    "rollback": _abandon,
    "savepoint": _savepoint,
    "failed statement": _fail,
    "statement timeout": _run_out_of_time,
    "lost connection": _lose,
}

# The others need a transaction that is open.
_ENDS_A_READ = ("rollback", "failed statement", "lost connection")


def prepare(owner_url: str) -> None:
    """Give each agency a row to be seen."""
    engine = sqlalchemy.create_engine(owner_url)
    with engine.begin() as connection:
        for agency_id in AGENCIES:
            connection.exec_driver_sql(f"set local app.agency_id = '{agency_id}'")
            values = {"agency_id": agency_id, "name": "An agency"}
            connection.execute(text("insert into agencies (agency_id, name) values (:agency_id, :name)"), values)
            # The same id in each.
            connection.execute(
                text("insert into clients (agency_id, id, name) values (:agency_id, :id, :name)"),
                values | {"id": UUID(int=1)},
            )
    engine.dispose()


def measure(app_url: str, count: int, *, through: str) -> bool:
    """Make the checkouts, showing how far they are; whether nothing was found."""
    pooled = pgbouncer.running(app_url, server_connections=SERVER_CONNECTIONS)
    with pooled if through == "pgbouncer" else nullcontext(app_url) as url:
        database = Database(url, pool_size=POOL_SIZE)
        checkouts = Checkouts(database)
        run = threading.Thread(target=checkouts.run, args=(count,))
        began = time.monotonic()
        run.start()
        while run.is_alive():
            run.join(1)
            _show(checkouts, count, began, through)
        database.close()
    sys.stderr.write("\n")
    counted = {kind: checkouts.found[kind] for kind in ("foreign", "stale", "missing")} | dict(checkouts.endings)
    sys.stdout.write(
        f"through {through}: {checkouts.endings.total()} checkouts in {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{number} {kind}" for kind, number in counted.items())
        + "\n"
    )
    return not checkouts.found.total()


def _show(checkouts: Checkouts, count: int, began: float, through: str) -> None:
    done = checkouts.endings.total()
    bar = "#" * (30 * done // max(count, 1))
    rate = done / (time.monotonic() - began)
    left = (count - done) / max(rate, 1)
    sys.stderr.write(f"\rthrough {through} [{bar:30}] {done:,} of {count:,}, {rate:,.0f}/s, {left:,.0f} s left  ")
    sys.stderr.flush()


def main() -> int:
    """Run it on a PostgreSQL of its own; 1 when anything was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkouts", type=int, default=1_000_000, help="how many in all (default 1,000,000)")
    parser.add_argument("--through", choices=("sqlalchemy", "pgbouncer", "both"), default="both")
    arguments = parser.parse_args()
    ways = ["sqlalchemy", "pgbouncer"] if arguments.through == "both" else [arguments.through]
    if "pgbouncer" in ways and pgbouncer.PROGRAM is None:
        parser.error("pgbouncer is not installed: apt install pgbouncer, or --through sqlalchemy")
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        migrating.migrate(server.owner_url)
        prepare(server.owner_url)
        clean = [measure(server.app_url, arguments.checkouts // len(ways), through=way) for way in ways]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
