"""What Citus would refuse is refused here, without Citus: its rules for distributed tables, by the query tree.

They are those of its planner for a statement that goes to one shard (multi_router_planner.c): the coordinator puts
values in the place of functions that are not immutable, and must be able to. The outbox and number_routing stay local.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.persistence.query_tree import COMMANDS, Node, query_of
from tests.persistence.statements import AGENCY, ROW, Statement, every_statement

STATEMENTS = [one for one in every_statement() if not one.clause.text.strip().startswith("notify")]
FUNCTION_FIELDS = ("funcid", "opfuncid")


@pytest.fixture(scope="module")
def superuser(postgres: Any, migrated_template: str) -> Iterator[sqlalchemy.Connection]:
    postgres.create_database("faro_understood", template=migrated_template)
    engine = sqlalchemy.create_engine(postgres.url("postgres", "faro_understood"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()
    postgres.drop_database("faro_understood")


class Catalogue:
    """What the tree's numbers mean."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        functions = connection.execute(text("select oid::text, provolatile::text from pg_proc"))
        self.volatility: dict[str, str] = dict(functions.all())
        tables = connection.execute(
            text("""
                select attrelid::text
                from pg_attribute
                join pg_class on pg_class.oid = attrelid
                where relnamespace = 'public'::regnamespace
                and relkind in ('r', 'p')
                and attname = 'agency_id'
                and relname not in ('outbox', 'number_routing')
            """)
        ).scalars()
        self.distributed = set(tables)

    def is_distributed(self, entry: Node) -> bool:
        return entry.value("relid") in self.distributed

    def changes(self, node: Node, volatilities: str) -> bool:
        """Whether a function of this node itself is as volatile as that; `s` is stable, `v` volatile."""
        if node.kind == "SQLVALUEFUNCTION":
            return "s" in volatilities
        return any(self.volatility.get(node.value(name) or "", "i") in volatilities for name in FUNCTION_FIELDS)

    def any_changes(self, nodes: Iterator[Node], volatilities: str) -> bool:
        return any(self.changes(below, volatilities) for node in nodes for below in node.walk())


def refusals(connection: sqlalchemy.Connection, clause: str, values: dict[str, Any]) -> list[str]:
    """What Citus would say to the statement."""
    catalogue = Catalogue(connection)
    query = query_of(connection, clause, values)
    entries = [node for node in query.walk() if node.kind in ("RANGETBLENTRY", "RTE")]
    if not any(catalogue.is_distributed(entry) for entry in entries):
        return []
    found = []
    if query.value("hasRecursive") == "true":
        found.append("recursive")
    if any(entry.value("lateral") == "true" for entry in entries):
        found.append("lateral")
    command = COMMANDS[query.value("commandType")]
    if command == "select":
        return found
    target = next(iter(query.fields["rtable"]))[int(query.value("resultRelation")) - 1]
    # The tables of a query itself are in its own range table; those of subqueries in theirs.
    if not catalogue.is_distributed(target):
        selected = [entry for entry in query.children("rtable") if entry.value("subquery") not in (None, "<>")]
        if command != "insert" or not selected:
            found.append("a local table changed by a distributed one")
        return found
    if command == "insert":
        return found + refusals_of_insert(catalogue, query)
    return found + refusals_of_change(catalogue, query)


def refusals_of_insert(catalogue: Catalogue, query: Node) -> list[str]:
    found = []
    if query.value("hasSubLinks") == "true":
        found.append("a subselect among the values")
    if catalogue.any_changes(query.children("onConflict"), "sv"):
        found.append("a function in do update set that is not immutable")
    if catalogue.any_changes(query.children("returningList"), "sv"):
        found.append("a function in returning that is not immutable")
    selects = any(entry.value("subquery") not in (None, "<>") for entry in query.children("rtable"))
    if selects and not any(query.children("returningList", "onConflict")):
        found.append("copy")
    return found


def refusals_of_change(catalogue: Catalogue, query: Node) -> list[str]:
    found = []
    expressions = list(query.children("targetList", "jointree"))
    if catalogue.any_changes(iter(expressions), "v"):
        found.append("a volatile function")
    if catalogue.any_changes(query.children("returningList"), "sv"):
        found.append("a function in returning that is not immutable")
    for node in (below for expression in expressions for below in expression.walk()):
        if node.kind in ("CASE", "CASEEXPR", "COALESCE", "COALESCEEXPR") and catalogue.any_changes(iter([node]), "sv"):
            found.append("a function in case or coalesce that is not immutable")
        if catalogue.changes(node, "s") and any(below.kind == "VAR" for below in node.walk()):
            found.append("a stable function of a column")
    return found


@pytest.mark.parametrize("statement", STATEMENTS, ids=str)
def test_a_statement_is_one_that_citus_takes(superuser: sqlalchemy.Connection, statement: Statement) -> None:
    assert refusals(superuser, statement.clause.text, statement.values) == []


@pytest.mark.parametrize(
    ("clause", "refused"),
    [
        ("update contacts set updated_at = clock_timestamp() where agency_id = :agency_id", "a volatile function"),
        ("update contacts set updated_at = now() where agency_id = :agency_id", None),
        ("delete from contacts where agency_id = :agency_id and random() < 0.5", "a volatile function"),
        (
            "update contacts set updated_at = updated_at + interval '1 hour' where agency_id = :agency_id",
            "a stable function of a column",
        ),
        ("update contacts set updated_at = now() + interval '1 hour' where agency_id = :agency_id", None),
        (
            "update contacts set updated_at = coalesce(updated_at, now()) where agency_id = :agency_id",
            "a function in case or coalesce that is not immutable",
        ),
        (
            "update contacts set updated_at = case when name = 'x' then now() end where agency_id = :agency_id",
            "a function in case or coalesce that is not immutable",
        ),
        (
            "update contacts set updated_at = current_timestamp where agency_id = :agency_id returning now()",
            "a function in returning that is not immutable",
        ),
        (
            "insert into contacts (agency_id, id, phone) values (:agency_id, :row, '1')"
            " on conflict (agency_id, phone) do update set updated_at = now()",
            "a function in do update set that is not immutable",
        ),
        (
            "insert into contacts (agency_id, id, phone) values (:agency_id, :row, '1')"
            " on conflict (agency_id, phone) do update set updated_at = excluded.updated_at",
            None,
        ),
        (
            "insert into contacts (agency_id, id, phone) values (:agency_id, :row, (select max(phone) from contacts))",
            "a subselect among the values",
        ),
        ("insert into contacts (agency_id, id, phone) select agency_id, message_id, '1' from outbox", "copy"),
        (
            "insert into contacts (agency_id, id, phone) select agency_id, message_id, '1' from outbox returning id",
            None,
        ),
        (
            "delete from outbox where message_id in (select id from messages)",
            "a local table changed by a distributed one",
        ),
        ("update outbox set available_at = clock_timestamp()", None),
        ("select 1 from contacts, lateral (select 1 from messages where id = contacts.id) m", "lateral"),
        ("select clock_timestamp() from contacts where agency_id = :agency_id for no key update", None),
    ],
)
def test_what_citus_refuses_is_known(superuser: sqlalchemy.Connection, clause: str, refused: str | None) -> None:
    clause = clause.replace(":agency_id", "cast(:agency_id as uuid)").replace(":row", "cast(:row as uuid)")
    values = {"agency_id": AGENCY, "row": ROW}
    found = refusals(superuser, clause, {name: values[name] for name in values if f":{name}" in clause})
    assert found == ([refused] if refused else [])
