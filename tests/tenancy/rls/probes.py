# ruff: noqa: S608 - statements are put together from the names of our own tables
"""What must hold in any schema that keeps agencies apart, each as a question put to a running database.

A probe raises AssertionError when the answer is wrong. The same probes ask the schema as it is, and every damaged copy
of it: a damage that no probe notices would be one that nothing notices.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg2
from psycopg2 import errors, sql

from tests.tenancy.rls import rows
from tests.tenancy.rls.world import BINDINGS, ROLES, Rehearsal, World, adapted, insertion, outcome

COMMANDS = ("select", "insert", "update", "delete")

# The worker sees all of the outbox, bound or not: it takes work of every agency.
SEES_ALL = {("faro_worker", "outbox")}


@dataclass(frozen=True)
class Case:
    """One role trying one command on one table under one binding."""

    table: str
    role: str
    command: str
    binding: str

    def __str__(self) -> str:
        return f"{self.role} {self.command} {self.table} {self.binding}"


# A session that was bound once is never unset again, so those come first.
CASES = [
    Case(table, role, command, binding)
    for binding in BINDINGS
    for table in rows.RIGHTS
    for role in ROLES
    for command in COMMANDS
]


def expected(case: Case) -> object:
    """What comes of a case: the agencies whose rows are reached, or the word for why none is."""
    if case.command not in rows.rights(case.role, case.table):
        return "denied"
    if (case.role, case.table) in SEES_ALL:
        return {rows.A, rows.B, rows.C}
    if case.binding == "garbage":
        return "malformed"
    if case.command == "insert":
        if case.binding != "own":
            return "refused"
        return "taken" if case.table == "agencies" else {rows.A}
    if case.table == "agencies" and case.binding == "own" and case.command == "delete":
        return "held"
    reached = {"own": {rows.A}, "other": {rows.B}}.get(case.binding, set())
    # An agency is its own key: the one that is asked for by it is A.
    return reached - {rows.B} if case.table == "agencies" and case.command != "select" else reached


def actual(world: World, case: Case) -> object:
    """What came of it."""
    with world.acting(case.role, BINDINGS[case.binding]) as cursor:
        statement, values = statement_of(case)
        found = outcome(cursor, statement, values)
    if case.command == "insert":
        return {rows.A} if found == 1 else found
    return {rows.UUID(agency_id) for (agency_id,) in found} if isinstance(found, list) else found


@functools.cache
def statement_of(case: Case) -> tuple[sql.Composed, rows.Row]:
    """The statement, as careless as a statement can be: none of them names the agency, where there is another key."""
    table = sql.Identifier(case.table)
    if case.command == "insert":
        new = rows.row(case.table, rows.A, "own" if case.table == "agencies" else "new")
        return insertion(case.table, new), new
    if case.command == "select":
        return sql.SQL("select distinct agency_id::text from {}").format(table), {}
    loose = rows.row(case.table, rows.A, "loose")
    where = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in key_of(case.table)
    )
    if case.command == "delete":
        change = sql.SQL("delete from {}").format(table)
    else:
        column = sql.Identifier(rows.CHANGEABLE[case.table])
        change = sql.SQL("update {} set {} = {}").format(table, column, column)
    return change + sql.SQL(" where ") + where + sql.SQL(" returning agency_id::text"), loose


# What names a row within its agency, where that is not `id`.
KEYS = {
    "agencies": ("agency_id",),
    "agency_members": ("user_id",),
    "twilio_accounts": ("account_sid",),
    "attempts": ("message_id", "number"),
    "conversation_counts": ("location_id", "status"),
    "idempotency_keys": ("key",),
    "outbox": ("message_id",),
}


def key_of(table: str) -> tuple[str, ...]:
    return KEYS.get(table, ("id",))


def check_case(world: World, case: Case) -> None:
    found = actual(world, case)
    wanted = expected(case)
    # Without the right nor a binding that can be read, which of the two is found first is the planner's choice.
    if (wanted, case.binding, found) == ("denied", "garbage", "malformed"):
        return
    assert found == wanted, f"{case}: {wanted} was to come of it, and {found} came"


def check_rows_stay_with_their_agency(world: World, table: str) -> None:
    """No role that serves may name another agency in a row of its own, and the policy stops even the owner."""
    statement = sql.SQL("update {} set agency_id = %(other)s").format(sql.Identifier(table))
    for role in ROLES:
        with world.acting(role, BINDINGS["own"]) as cursor:
            found = outcome(cursor, statement, {"other": rows.C})
        wanted = "refused" if role == "faro_owner" else "denied"
        assert found == wanted, f"{role} moves its rows of {table} to another agency: {found}, not {wanted}"


def check_no_truncate(world: World, table: str) -> None:
    for role in ("faro_app", "faro_worker"):
        with world.acting(role, BINDINGS["own"]) as cursor:
            found = outcome(cursor, sql.SQL("truncate {}").format(sql.Identifier(table)), {})
        assert found == "denied", f"{role} may truncate {table}"


def check_no_foreign_keys_or_triggers(world: World, table: str) -> None:
    """Nobody builds on a table to learn what is in it: not even in a schema of their own."""
    names = {
        "table": sql.Identifier("public", table),
        "columns": sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys(("agency_id", *key_of(table))))),
    }
    copy = sql.SQL("create table theirs.probe as select {columns} from {table} with no data").format(**names)
    reference = sql.SQL("alter table theirs.probe add foreign key ({columns}) references {table}").format(**names)
    trigger = sql.SQL(
        "create trigger theirs before insert on {table} for each row"
        " execute function suppress_redundant_updates_trigger()"
    ).format(**names)
    for role in ("faro_app", "faro_worker"):
        for statement in (reference, trigger):
            with world.acting(None, "") as cursor:
                cursor.execute(f"create schema theirs authorization {role}")
                cursor.execute(copy)
                cursor.execute(f"alter table theirs.probe owner to {role}; set local role {role}")
                found = outcome(cursor, statement, {})
            assert found == "denied", f"{role} may build on {table}: {found}"


def check_strangers_read_nothing(world: World, table: str) -> None:
    with world.acting(None, BINDINGS["own"]) as cursor:
        cursor.execute("create role stranger; set local role stranger")
        found = outcome(cursor, sql.SQL("select from {}").format(sql.Identifier(table)), {})
    assert found == "denied", f"everybody may read {table}"


def check_references(world: World, child: str, column: str) -> None:
    """Pointing at another agency's row and at nothing give one answer: neither exists."""
    for target in (rows.key(rows.REFERENCES[child, column], rows.B, "own"), rows.UUID(int=404)):
        row = rows.row(child, rows.A, "new") | {column: target}
        with world.acting("faro_owner", BINDINGS["own"]) as cursor:
            found = outcome(cursor, insertion(child, row), row)
        assert found == "held", f"{child}.{column} takes what is no row of the agency: {found}"


def check_rows_are_stored_as_sent(world: World, table: str) -> None:
    """Nothing steps between a statement and its row."""
    if table == "agencies":
        return
    new = rows.row(table, rows.A, "new")
    for role in ROLES:
        if not {"select", "insert"} <= rows.rights(role, table):
            continue
        columns = sql.SQL(", ").join(map(sql.Identifier, new))
        with world.acting(role, BINDINGS["own"]) as cursor:
            cursor.execute(insertion(table, new) + sql.SQL(" returning ") + columns, adapted(new))
            stored = dict(zip(new, cursor.fetchone(), strict=True))
        texts = {
            name: value for name, value in adapted(new).items() if isinstance(value, str) and name not in OTHERWISE
        }
        assert {name: str(stored[name]) for name in texts} == texts, f"{table} keeps something else than {role} sent"


# Columns whose values come back in another form than they are written.
OTHERWISE = {"payload", "sent_at", "last_message_at"}


def check_one_agency_per_number(world: World) -> None:
    """A number on an account finds one agency; a second one cannot claim it."""
    claim = rows.row("number_routing", rows.B, "own") | {
        name: rows.row("number_routing", rows.A, "own")[name] for name in ("account_sid", "address")
    }
    with world.acting("faro_owner", BINDINGS["other"]) as cursor:
        found = outcome(cursor, insertion("number_routing", claim), claim)
    assert found == "taken", f"two agencies claim one number: {found}"


def check_shared_tables(world: World) -> None:
    """What is not fenced by agency may only be read, but for the workers' own heartbeats."""
    changes = {
        "number_routing": "address = address",
        "workers": "last_seen_at = last_seen_at",
        "alembic_version": "version_num = version_num",
    }
    for table, change in changes.items():
        statements = {
            "select": f"select count(*) from {table}",
            "insert": f"insert into {table} default values",
            "update": f"update {table} set {change}",
            "delete": f"delete from {table} where false",
        }
        for role in ("faro_app", "faro_worker"):
            with world.acting(role, "") as cursor:
                cursor.execute("savepoint one")
                allowed = set()
                for command, statement in statements.items():
                    if _may(cursor, statement):
                        allowed.add(command)
                    cursor.execute("rollback to savepoint one")
            assert allowed == rows.rights(role, table), f"{role} may {allowed} on {table}"


def _may(cursor: "psycopg2.extensions.cursor", statement: str) -> bool:
    try:
        cursor.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    except errors.NotNullViolation:  # the row is not taken, but for its own sake
        return True
    return True


READABLE = sql.SQL("""
    select pg_class.oid::regclass::text
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    where nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
    and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    and has_schema_privilege(relnamespace, 'usage')
    and (has_table_privilege(pg_class.oid, 'select') or has_any_column_privilege(pg_class.oid, 'select'))
""")
CALLABLE = sql.SQL("""
    select pg_proc.oid::regprocedure::text
    from pg_proc
    join pg_namespace on pg_namespace.oid = pronamespace
    where nspname not in ('pg_catalog', 'information_schema')
    and has_schema_privilege(pronamespace, 'usage')
    and has_function_privilege(pg_proc.oid, 'execute')
""")


def check_nothing_else_can_be_read(world: World) -> None:
    """Whatever a role can read is a table that is known here, and holds no byte of another agency."""
    for role in ("faro_app", "faro_worker"):
        known = {t for t in (*rows.RIGHTS, *rows.SHARED_RIGHTS) if "select" in rows.rights(role, t)}
        with world.acting(role, BINDINGS["own"]) as cursor:
            cursor.execute(READABLE)
            readable = {name for (name,) in cursor.fetchall()}
            assert readable == known, f"{role} can read {readable ^ known}"
            cursor.execute(CALLABLE)
            assert cursor.fetchall() == [], f"{role} can call functions that are not PostgreSQL's own"
            for table in readable - rows.SHARED_RIGHTS.keys():
                if (role, table) not in SEES_ALL:
                    cursor.execute(sql.SQL("select to_jsonb(t)::text from {} t").format(sql.Identifier(table)))
                    assert_only_own([text for (text,) in cursor.fetchall()], f"{table} shows {role}")


def assert_only_own(texts: list[str], what: str) -> None:
    """Agency A's rows are there, and nothing of the others: neither their names nor what they wrote."""
    assert any(str(rows.A) in text for text in texts), f"{what} nothing of its agency"
    for other in (rows.B, rows.C):
        found = [text for text in texts if str(other) in text or rows.CANARIES[other] in text]
        assert not found, f"{what} another agency's row: {found[0][:200]}"


def check_nothing_can_be_created(world: World) -> None:
    for role in ("faro_app", "faro_worker"):
        for statement in ("create table public.theirs ()", "create temporary table theirs ()", "create schema theirs"):
            with world.acting(role, BINDINGS["own"]) as cursor:
                assert outcome(cursor, statement, {}) == "denied", f"{role} may {statement}"


def check_new_objects_are_closed(world: Rehearsal) -> None:
    """What the next migration creates is open to nobody before it says so."""
    creation = """
        set local role faro_owner;
        create table later (agency_id uuid, said text);
        create sequence later_numbers;
        create function later_function() returns text begin atomic select 'said'::text; end;
    """
    for role in ("faro_app", "faro_worker"):
        for use in ("select from later", "select from later_numbers", "select later_function()"):
            with world.acting(None, "") as cursor:
                cursor.execute(creation + f"set local role {role}")
                assert outcome(cursor, use, {}) == "denied", f"{role} may {use} without being allowed to"


@dataclass(frozen=True)
class Probe:
    """A question with the table that it is about, if it is about one, and whether it is a case of CASES."""

    name: str
    table: str | None
    is_case: bool
    check: Callable[[Rehearsal], None]


def probes() -> Iterator[Probe]:
    """Every question; those under a binding that was never set come first."""
    for case in CASES:
        yield Probe(str(case), case.table, True, lambda world, case=case: check_case(world, case))
    per_table = (
        check_rows_stay_with_their_agency,
        check_no_truncate,
        check_no_foreign_keys_or_triggers,
        check_strangers_read_nothing,
        check_rows_are_stored_as_sent,
    )
    for table in rows.RIGHTS:
        for check in per_table:
            yield Probe(
                f"{check.__name__} {table}", table, False, lambda world, check=check, table=table: check(world, table)
            )
    for child, column in rows.REFERENCES:
        yield Probe(
            f"check_references {child}.{column}",
            child,
            False,
            lambda world, child=child, column=column: check_references(world, child, column),
        )
    for check in (
        check_one_agency_per_number,
        check_shared_tables,
        check_nothing_else_can_be_read,
        check_nothing_can_be_created,
        check_new_objects_are_closed,
    ):
        yield Probe(check.__name__, None, False, check)
