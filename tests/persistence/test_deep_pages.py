"""The deepest page that may be asked for reads no more rows than lie before it, and sorts none."""

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from persistence import conversations
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency, Urls

ROWS = 10_200
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


@pytest.fixture
def filled(urls: Urls, agency: Agency, other_agency: Agency) -> Urls:
    """Two agencies with as many conversations, written at the same times."""
    connection = psycopg2.connect(make_url(urls.superuser).set(drivername="postgresql").render_as_string(False))
    with connection, connection.cursor() as cursor:
        for each in (agency, other_agency):
            values = {"agency_id": each.id, "location_id": each.location_id, "channel_id": each.sms_id, "rows": ROWS}
            cursor.execute(FILL, {name: value if name == "rows" else str(value) for name, value in values.items()})
        cursor.execute("analyze contacts, conversations")
    connection.close()
    return urls


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def test_the_deepest_page_is_read_from_an_index_and_bounded(filled: Urls, agency: Agency) -> None:
    database = Database(filled.app, pool_size=1, check_bindings=True)
    sent: list[tuple[str, Any]] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, parameters, *_: sent.append((statement, parameters)),
    )
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        page = conversations.list_page(connection, location_id=None, status=None, limit=LIMIT, offset=DEEPEST)
        assert len(page.conversations) == LIMIT
        [(statement, parameters)] = [one for one in sent if "offset" in one[0].lower()]
        rows = connection.connection.exec_driver_sql(f"explain (analyze, format json) {statement}", parameters)
        plan = list(nodes(rows.scalar()[0]["Plan"]))
    database.close()
    [scan] = [node for node in plan if node.get("Relation Name") == "conversations"]
    assert scan["Node Type"].startswith("Index")
    assert DEEPEST + LIMIT <= scan["Actual Rows"] <= DEEPEST + LIMIT + 1  # one more says whether there is a next page
    assert all(node["Actual Rows"] <= LIMIT + 1 for node in plan if "Sort" in node["Node Type"])
