"""Each statement reaches rows of one agency by its own words, with nobody's policy behind it.

The planner says so, not the text: asked as a superuser, whom no policy binds, every scan of a tenant table must have
`agency_id = <the bound one>` among the conditions that it all depends on. That is also what lets a distributed
database ask one shard and not all of them.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.persistence.statements import AGENCY, ROW, Statement, every_statement

STATEMENTS = every_statement()
PACKAGES = ("conversations_api", "delivery", "handlers", "persistence", "tenancy")
ROOT = Path(__file__).parents[2]

# What is asked before an agency is bound, and the only tables that may be asked then.
UNBOUND = {
    "persistence.outbox_work.CLAIM",
    "persistence.outbox_work.FOLLOW_SOONER",
    "persistence.outbox_work.TAKE_DUE",
    "persistence.outbox_work.TAKE_FOLLOWED",
    "persistence.outbox_work.LIST_STUCK",
    "persistence.outbox_work.STATISTICS",
    "persistence.workers.BEAT",
    "persistence.workers.DELETE",
    "persistence.workers.HEARTBEAT_AGE",
    "tenancy.number_routing.FIND",
    "tenancy.number_routing.LIST",
}
UNBOUND_TABLES = {"outbox", "number_routing", "workers"}


@pytest.fixture(scope="module")
def superuser(postgres: Any, migrated_template: str) -> Iterator[sqlalchemy.Connection]:
    postgres.create_database("faro_statements", template=migrated_template)
    engine = sqlalchemy.create_engine(postgres.url("postgres", "faro_statements"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()
    postgres.drop_database("faro_statements")


def plan_of(connection: sqlalchemy.Connection, clause: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every node of the plan, the topmost first."""
    try:
        found = connection.execute(text(f"explain (verbose, costs off, format json) {clause}"), values).scalar()
    finally:
        connection.rollback()
    (plan,) = json.loads(found) if isinstance(found, str) else found

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", []):
            yield from nodes(child)

    return list(nodes(plan["Plan"]))


def tenant_tables(connection: sqlalchemy.Connection) -> set[str]:
    tables = connection.execute(
        text("""
            select attrelid::regclass::text
            from pg_attribute
            join pg_class on pg_class.oid = attrelid
            where relnamespace = 'public'::regnamespace
            and relkind in ('r', 'p')
            and attname = 'agency_id'
            and relname <> 'number_routing'
        """)
    ).scalars()
    return set(tables)


def unfenced(connection: sqlalchemy.Connection, clause: str, values: dict[str, Any]) -> list[str]:
    """The tables that the statement reaches into past the bound agency."""
    nodes = plan_of(connection, clause, values)
    fenced = tenant_tables(connection)
    found = []
    for node in nodes:
        table = node.get("Relation Name")
        if table not in fenced:
            continue
        if node["Node Type"] == "ModifyTable":
            (source,) = (child for child in node["Plans"] if child["Parent Relationship"] == "Outer")
            if node["Operation"] == "Insert" and not gives_the_agency(source["Output"][0]):
                found.append(table)
        elif not any(
            names_the_agency(conjunct)
            for kind in ("Index Cond", "Recheck Cond", "Filter")
            for conjunct in conjuncts(node.get(kind, ""))
        ):
            found.append(table)
    return found


def gives_the_agency(output: str) -> bool:
    """A new row's agency_id, its first column, is the bound one, or is read from a row that is itself fenced."""
    return output == f"'{AGENCY}'::uuid" or output.endswith("agency_id")


def names_the_agency(condition: str) -> bool:
    return re.fullmatch(rf"(\w+\.)?agency_id = '{AGENCY}'::uuid", condition) is not None


def conjuncts(condition: str) -> Iterator[str]:
    """The conditions that must all hold; what stands in an `or` or under a `not` is none of them."""
    condition = without_parentheses(condition)
    depth, start = 0, 0
    parts = []
    for position, character in enumerate(condition):
        depth += (character == "(") - (character == ")")
        if depth == 0 and condition.startswith(" AND ", position):
            parts.append(condition[start:position])
            start = position + len(" AND ")
    if not parts:
        yield condition
        return
    for part in (*parts, condition[start:]):
        yield from conjuncts(part)


def without_parentheses(condition: str) -> str:
    while condition.startswith("(") and closing_parenthesis(condition) == len(condition) - 1:
        condition = condition[1:-1]
    return condition


def closing_parenthesis(condition: str) -> int:
    depth = 0
    for position, character in enumerate(condition):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return -1


def can_be_planned(statement: Statement) -> bool:
    return not statement.clause.text.strip().startswith("notify")


@pytest.mark.parametrize("statement", [s for s in STATEMENTS if s.name not in UNBOUND and can_be_planned(s)], ids=str)
def test_a_statement_reaches_no_other_agencys_rows(superuser: sqlalchemy.Connection, statement: Statement) -> None:
    assert unfenced(superuser, statement.clause.text, statement.values) == []


@pytest.mark.parametrize("statement", [s for s in STATEMENTS if s.name in UNBOUND], ids=str)
def test_what_is_asked_without_an_agency_asks_the_named_tables_only(
    superuser: sqlalchemy.Connection, statement: Statement
) -> None:
    tables = {node.get("Relation Name") for node in plan_of(superuser, statement.clause.text, statement.values)}
    assert tables - {None} <= UNBOUND_TABLES


def test_what_may_be_asked_without_an_agency_is_there() -> None:
    assert {statement.name for statement in STATEMENTS} >= UNBOUND


@pytest.mark.parametrize(
    ("clause", "caught"),
    [
        ("select id from messages where agency_id = :agency_id and id = :row", []),
        ("select id from messages where id = :row", ["messages"]),
        ("select id from messages where agency_id = :agency_id or id = :row", ["messages"]),
        ("select id from messages where not agency_id = :agency_id", ["messages"]),
        ("select id from messages where agency_id is distinct from :agency_id", ["messages"]),
        ("select id from messages where agency_id = any(array[:agency_id, :row])", ["messages"]),
        (
            "select count(*) from messages where agency_id = :agency_id and (select count(*) from contacts) > 1",
            ["contacts"],
        ),
        (
            "select 1 from messages join conversations on conversations.id = messages.conversation_id"
            " where messages.agency_id = :agency_id",
            ["conversations"],
        ),
        (
            "select 1 from messages join conversations on conversations.agency_id = messages.agency_id"
            " and conversations.id = messages.conversation_id where messages.agency_id = :agency_id",
            [],
        ),
        ("update messages set status = 'sent' where id = :row", ["messages"]),
        ("delete from outbox where message_id = :row", ["outbox"]),
        ("insert into contacts (agency_id, id, phone) values (:row, :row, '1')", ["contacts"]),
        ("insert into contacts (agency_id, id, phone) select :agency_id, id, phone from contacts", ["contacts"]),
        ("insert into contacts (agency_id, id, phone) values (:agency_id, :row, '1')", []),
    ],
)
def test_a_careless_statement_is_caught(superuser: sqlalchemy.Connection, clause: str, caught: list[str]) -> None:
    values = {"agency_id": AGENCY, "row": ROW}
    clause = clause.replace(":agency_id", "cast(:agency_id as uuid)").replace(":row", "cast(:row as uuid)")
    assert unfenced(superuser, clause, {name: values[name] for name in values if f":{name}" in clause}) == caught


def test_every_statement_is_a_constant() -> None:
    """What is put together when it is needed would be planned by nobody here."""
    elsewhere = []
    for package in ("persistence", "tenancy", "handlers", "delivery"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {id(node.value) for node in tree.body if isinstance(node, ast.Assign)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("text", "sqlalchemy.text"):
                    literal = isinstance(node.args[0], ast.Constant)
                    if id(node) not in constants or not literal:
                        elsewhere.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert elsewhere == []


def test_every_upsert_decides_by_an_index_that_begins_with_the_agency() -> None:
    """Over all agencies, `do nothing` would drop a row silently because another agency has one like it."""
    for statement in STATEMENTS:
        for arbiter in re.findall(r"on conflict\s*(\([^)]*\))?", statement.clause.text):
            assert arbiter.startswith("(agency_id, ") or (statement.name, arbiter) == (
                "persistence.workers.BEAT",
                "(worker_key)",
            )


def test_nothing_is_written_by_copy_or_truncated() -> None:
    """Neither is subject to the policies."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    assert node.attr not in ("copy_from", "copy_expert", "copy_to"), path
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not re.match(r"\s*(truncate|copy)\s+\w+\s", node.value.lower()), path
