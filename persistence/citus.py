"""Spread the agencies over the machines of a Citus cluster: every tenant table distributed by agency_id, colocated.

The outbox stays where it is, for FOR UPDATE SKIP LOCKED across agencies; number_routing, which is asked before an
agency is known, stays with it and loses its foreign key. Distributing a table that row-level security is forced on
would fail once it has rows: they are moved by COPY, which its owner may only do while FORCE is lifted. All of it
happens in one transaction, so nobody sees a table without it.
"""

import sqlalchemy
from sqlalchemy import text

from persistence.schema import SET_LOCK_TIMEOUT

IS_INSTALLED = text("select exists (select 1 from pg_extension where extname = 'citus')")

# The agencies come first: the others are placed with them.
TABLES = text("""
    select quote_ident(relname)
    from pg_class
    join pg_attribute on attrelid = pg_class.oid and attname = 'agency_id'
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and not relispartition
    and relname not in ('outbox', 'number_routing')
    order by relname <> 'agencies', relname
""")

DISTRIBUTED = text("select logicalrelid::text from pg_dist_partition")

FOREIGN_KEYS = text("""
    select conrelid::regclass::text as child, confrelid::regclass::text as parent, quote_ident(conname) as name,
        pg_get_constraintdef(oid) as definition
    from pg_constraint
    where connamespace = 'public'::regnamespace
    and contype = 'f'
    order by conrelid::regclass::text, conname
""")

# Without it the binding never reaches the shards, and every table looks empty.
PASS_ON_THE_BINDING = text("""
    select format('alter database %I set citus.propagate_set_commands = ''local''', current_database())
    where not exists (
        select 1
        from pg_db_role_setting
        join pg_database on pg_database.oid = setdatabase
        where datname = current_database()
        and setrole = 0
        and 'citus.propagate_set_commands=local' = any(setconfig))
""")


class CitusMissing(Exception):
    """The database has no Citus: its administrator loads it and runs `create extension citus` first."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def statements(connection: sqlalchemy.Connection) -> list[str]:
    """What is still to be run to have every tenant table distributed; empty when they all are.

    To be run in one transaction, in this order. Raises CitusMissing.
    """
    if not connection.execute(IS_INSTALLED).scalar():
        raise CitusMissing
    distributed = set(connection.execute(DISTRIBUTED).scalars())
    tables = list(connection.execute(TABLES).scalars())
    new = [table for table in tables if table not in distributed]
    keys = [key for key in connection.execute(FOREIGN_KEYS) if key.child in new or key.parent in new]
    found: list[str] = []
    if new:
        # What follows touches one table after another over the same connections to the other machines.
        found.append("set local citus.multi_shard_modify_mode = 'sequential'")
    found += [f"alter table {key.child} drop constraint {key.name}" for key in keys]
    found += [f"alter table {table} no force row level security" for table in new]
    found += [_distribute(table) for table in new]
    found += [
        f"alter table {key.child} add constraint {key.name} {key.definition}"
        for key in keys
        if key.child in tables and key.parent in tables
    ]
    found += [f"alter table {table} force row level security" for table in new]
    return [*found, *connection.execute(PASS_ON_THE_BINDING).scalars()]


def distribute(connection: sqlalchemy.Connection) -> None:
    """Distribute what is not distributed yet, as the owner, and commit. Raises CitusMissing."""
    connection.exec_driver_sql(SET_LOCK_TIMEOUT)
    for statement in statements(connection):
        connection.exec_driver_sql(statement)
    connection.commit()


def _distribute(table: str) -> str:
    together = "none" if table == "agencies" else "agencies"
    return f"select create_distributed_table('{table}', 'agency_id', colocate_with => '{together}')"
