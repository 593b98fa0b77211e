"""The hot statements keep their plans under row-level security: as many rows as a page holds, whoever is asked about.

An agency with a score of conversations and one with thousands share the tables and the statistics, and what is
prepared also one plan, made for values that nobody knows yet.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from sqlalchemy import TextClause, event, text
from sqlalchemy.engine import make_url

from persistence import attempts, conversations, messages, sends
from persistence.connection import PREPARED, TenantConnection, driver_text
from persistence.prepared import find
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency, Urls

FEW, MANY = 20, 10_200
DEEPEST, LIMIT = 10_000, 100

FILL = """
    with people as (
        insert into contacts (agency_id, id, phone)
        select %(agency_id)s, gen_random_uuid(), '+1' || number
        from generate_series(1, %(rows)s) as number
        returning agency_id, id, phone
    )
    insert into conversations (agency_id, id, location_id, channel_id, contact_id, last_message_at,
        last_message_direction)
    select agency_id, gen_random_uuid(), %(location_id)s, %(channel_id)s, id,
        now() - interval '1 second' * substr(phone, 3)::integer, 'inbound'
    from people
"""
# All of them in the thread of the newest conversation.
FILL_THREAD = """
    insert into messages (agency_id, id, conversation_id, direction, status, sent_at)
    select agency_id, gen_random_uuid(), id, 'inbound', 'received', last_message_at - interval '1 second' * number
    from generate_series(1, %(rows)s) as number, (
        select agency_id, id, last_message_at
        from conversations
        where agency_id = %(agency_id)s
        order by last_message_at desc
        limit 1) newest
"""


@pytest.fixture(params=[True, False], ids=["by its name", "as a text"])
def database(request: pytest.FixtureRequest, urls: Urls, agency: Agency, other_agency: Agency) -> Iterator[Database]:
    """`agency` has many conversations and a long thread, `other_agency` few."""
    connection = psycopg2.connect(make_url(urls.superuser).set(drivername="postgresql").render_as_string(False))
    with connection, connection.cursor() as cursor:
        for each, rows in ((agency, MANY), (other_agency, FEW)):
            values = {"agency_id": str(each.id), "location_id": str(each.location_id), "channel_id": str(each.sms_id)}
            for statement in (FILL, FILL_THREAD):
                cursor.execute(statement, {**values, "rows": rows})
        cursor.execute("analyze contacts, conversations, messages")
    connection.close()
    pool = Database(urls.app, pool_size=1, check_bindings=True)
    pool.prepares = request.param
    yield pool
    pool.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def plan_of(database: Database, agency: Agency, statement: TextClause, **parameters: Any) -> list[dict[str, Any]]:
    with tenant_transaction(database, agency.id) as connection:
        return explain(connection, statement, **parameters)


def explain(connection: TenantConnection, statement: TextClause, **parameters: Any) -> list[dict[str, Any]]:
    """The plan's nodes, with what each of them really read."""
    connection.execute(statement, **parameters)  # from now on it is asked for by its name, if it has one
    values = {**parameters, "agency_id": connection.agency_id}
    prepared = find(statement, values) if PREPARED in connection.connection.info else None
    wording = driver_text(statement) if prepared is None else prepared.execute
    explained = connection.connection.exec_driver_sql(f"explain (analyze, format json) {wording}", values)
    return list(nodes(explained.scalar_one()[0]["Plan"]))


def list_plan(database: Database, agency: Agency, **parameters: Any) -> list[dict[str, Any]]:
    filters = dict.fromkeys(("conversation_id", "location_id", "status", "before_at", "before_id"))
    return plan_of(database, agency, conversations.LIST_PAGE, **{**filters, "limit": LIMIT, "offset": 0, **parameters})


def check_page(plan: list[dict[str, Any]], table: str, at_most: int) -> None:
    """The page comes from an index in its order: no more rows are read than it shows, and none of the rest sorted."""
    [scan] = [node for node in plan if node.get("Relation Name") == table]
    assert scan["Node Type"].startswith("Index")
    assert scan["Actual Rows"] <= at_most
    assert scan.get("Rows Removed by Filter", 0) == 0
    assert all(node["Actual Rows"] <= LIMIT + 1 for node in plan if "Sort" in node["Node Type"])


@pytest.mark.parametrize("filtered", [(), ("location_id",), ("status",), ("location_id", "status")])
@pytest.mark.parametrize("deep", [False, True])
def test_a_page_of_many_conversations_reads_a_page(
    database: Database, agency: Agency, filtered: tuple[str, ...], deep: bool
) -> None:
    parameters: dict[str, Any] = {"location_id": agency.location_id, "status": "open"}
    parameters = {name: parameters[name] for name in filtered}
    if deep:
        before_at = datetime.now(UTC) - timedelta(seconds=MANY // 2)
        parameters |= {"before_at": before_at, "before_id": UUID(int=0)}
    plan = list_plan(database, agency, **parameters)
    check_page(plan, "conversations", LIMIT + 1)
    assert sum(node["Actual Rows"] for node in plan if node.get("Relation Name") == "conversation_counts") <= 3


def test_the_total_is_read_and_not_counted(database: Database, agency: Agency) -> None:
    plan = list_plan(database, agency, limit=1)
    assert [node["Actual Rows"] for node in plan if node.get("Relation Name") == "conversations"] == [2]


def test_few_conversations_are_not_read_through_those_of_many(database: Database, other_agency: Agency) -> None:
    for plan in (list_plan(database, other_agency), list_plan(database, other_agency, status="open")):
        [scan] = [node for node in plan if node.get("Relation Name") == "conversations"]
        assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (FEW, 0)
        assert "Index" in scan["Node Type"] or "Bitmap" in scan["Node Type"]


def test_a_backlog_is_not_joined_with_all_conversations_of_its_agency(
    database: Database, urls: Urls, agency: Agency
) -> None:
    """Queued since the last look at the statistics, which therefore know of none."""
    with tenant_transaction(database, agency.id) as connection:
        queued = connection.execute(
            text("""
                insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
                select messages.agency_id, messages.id, conversation_id, channel_id, sent_at, 'accepted'
                from messages
                join conversations on conversations.agency_id = messages.agency_id
                    and conversations.id = messages.conversation_id
                where messages.agency_id = :agency_id
                limit 1000
                returning message_id""")
        ).scalars()
        message_ids = list(queued)[:16]
    worker = Database(urls.worker, pool_size=1)
    sent: list[tuple[str, Any]] = []
    event.listen(worker.engine, "before_cursor_execute", lambda _c, _k, text_, values, *_: sent.append((text_, values)))
    with tenant_transaction(worker, agency.id) as connection:
        assert len(attempts.list_jobs(connection, message_ids=message_ids)) == 16
        [_, (statement, values)] = sent  # it is prepared first
        set_local, _, select = statement.rpartition("; ")
        assert set_local.endswith("SET LOCAL join_collapse_limit = 1; SET LOCAL enable_mergejoin = off")
        explained = connection.connection.exec_driver_sql(f"explain (analyze, format json) {select}", values)
        plan = list(nodes(explained.scalar_one()[0]["Plan"]))
    worker.close()
    # The backlog may be read, which is small; never its product with the conversations.
    assert max(node["Actual Rows"] for node in plan) <= 1000


def test_the_deepest_offset_is_read_from_an_index_and_bounded(database: Database, agency: Agency) -> None:
    check_page(list_plan(database, agency, offset=DEEPEST), "conversations", DEEPEST + LIMIT + 1)


@pytest.mark.parametrize("rows", [MANY, FEW])
def test_a_page_of_a_thread_reads_a_page_at_any_depth(
    database: Database, agency: Agency, other_agency: Agency, rows: int
) -> None:
    whose = agency if rows == MANY else other_agency
    with tenant_transaction(database, whose.id, read_only=True) as connection:
        conversation_id, middle = connection.execute(
            text("""
                select conversation_id, id
                from messages
                where agency_id = :agency_id
                order by sent_at desc
                limit 1
                offset :middle"""),
            middle=rows // 2,
        ).one()
    for before, limit in ((None, 10), (middle, 10)):
        plan = plan_of(database, whose, messages.LIST_PAGE, conversation_id=conversation_id, before=before, limit=limit)
        scans = [node for node in plan if node.get("Relation Name") == "messages"]
        # One row says whether there are more, and the place of `before` is one.
        assert sum(scan["Actual Rows"] for scan in scans) <= limit + 1 + (before is not None)
        assert all("Index" in scan["Node Type"] for scan in scans)
        assert sum(scan.get("Rows Removed by Filter", 0) for scan in scans) == 0


@pytest.mark.parametrize("key", [None, "of-a-send"])
def test_a_send_begins_with_the_rows_that_it_names(database: Database, agency: Agency, key: str | None) -> None:
    with tenant_transaction(database, agency.id) as connection:
        if key is not None:
            connection.execute_later(sends.TRY_LOCK_KEY, key=key)
        conversation_id = connection.execute(
            text("select id from conversations where agency_id = :agency_id limit 1")
        ).scalar_one()
        plan = explain(connection, sends.BEGIN_SEND, conversation_id=conversation_id, key=key)
    [conversation] = [node for node in plan if node.get("Relation Name") == "conversations"]
    assert "Index" in conversation["Node Type"]
    assert (conversation["Actual Rows"], conversation.get("Rows Removed by Filter", 0)) == (1, 0)
    assert "LockRows" in [node["Node Type"] for node in plan]
    assert all(node["Actual Rows"] == 0 for node in plan if node.get("Relation Name") == "idempotency_keys")
