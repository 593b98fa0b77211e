"""Statements asked for by their names give what they give as they stand, and only sessions of the server keep them."""

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from benchmarks import pgbouncer
from persistence import conversations, messages
from persistence.connection import PREPARED, driver_text
from persistence.prepared import USUAL_LIMITS, find
from tenancy import checkouts
from tenancy.transaction import Conflict, Database, tenant_transaction, unbound_transaction
from tests.agencies import Agency, Urls
from tests.api_client import Api
from tests.persistence.statements import Statement, every_statement

PHONES = text("select phone from contacts where agency_id = :agency_id order by phone")
ONE = text("select 1")
PAGE = {"conversation_id": None, "location_id": None, "status": None, "before_at": None, "before_id": None, "offset": 0}


@pytest.fixture
def ours(api: Api) -> Iterator[Database]:
    """The database that the API serves."""
    database = Database(api.urls.app, pool_size=1)
    yield database
    database.close()


def known(database: Database) -> set[str] | None:
    with unbound_transaction(database) as unbound:
        found: set[str] | None = unbound.connection.info.get(PREPARED)
        return found


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))


@pytest.mark.parametrize("statement", every_statement(), ids=str)
def test_the_server_takes_every_statement_by_its_name(urls: Urls, statement: Statement) -> None:
    """Or it is one that has none: it begins with another word, or its page is of an unusual length."""
    values = statement.values | {name: 20 for name in statement.values if name == "limit"}
    forms = [
        find(statement.clause, {**values, **dict.fromkeys(missing), "offset": 0})
        for missing in subsets(tuple(name for name in values if f"cast(:{name} as" in statement.clause.text))
    ]
    database = Database(urls.superuser, pool_size=1)
    with unbound_transaction(database) as unbound:
        for form in {form.name: form for form in forms if form is not None}.values():
            unbound.connection.exec_driver_sql(form.prepare.replace("%", "%%"))
    database.close()
    if any(form is None for form in forms):
        assert statement.clause.text.split()[0] not in ("select", "insert", "update", "delete", "with")


@pytest.mark.parametrize("filters", subsets(("location_id", "status", "conversation_id")), ids=str)
@pytest.mark.parametrize("deep", [False, True])
def test_a_page_of_the_list_is_the_same_by_its_name(
    api: Api, ours: Database, filters: tuple[str, ...], deep: bool
) -> None:
    agency = api.new_agency()
    talks = [api.converse(agency, phone=f"+1202555010{number}") for number in range(3)]
    with tenant_transaction(ours, agency.id) as connection:
        [newest, *_] = connection.execute(
            text("""
                select id, location_id, last_message_at
                from conversations
                where agency_id = :agency_id
                order by last_message_at desc""")
        ).all()
        chosen: dict[str, Any] = {
            "location_id": newest.location_id,
            "status": "open",
            "conversation_id": UUID(talks[0]),
        }
        values = {**PAGE, **{name: chosen[name] for name in filters}, "limit": 20, "agency_id": agency.id}
        if deep:
            values |= {"before_at": newest.last_message_at, "before_id": newest.id}
        named = find(conversations.LIST_PAGE, values)
        assert named is not None
        expected = connection.connection.exec_driver_sql(driver_text(conversations.LIST_PAGE), values).all()
        connection.connection.exec_driver_sql(named.prepare.replace("%", "%%"))
        assert connection.connection.exec_driver_sql(named.execute, values).all() == expected
        if filters == () and not deep:
            assert len(expected) == 3


def test_a_page_of_a_thread_is_the_same_by_its_name(api: Api, ours: Database) -> None:
    agency = api.new_agency()
    conversation = api.converse(agency)
    me = api.of(agency)
    sent = [me.send(conversation, str(number)).json["id"] for number in range(3)]
    with tenant_transaction(ours, agency.id) as connection:
        for before, contents in ((None, ["2", "1", "0"]), (UUID(sent[1]), ["0"])):
            values = {"conversation_id": UUID(conversation), "before": before, "limit": 20, "agency_id": agency.id}
            named = find(messages.LIST_PAGE, values)
            assert named is not None
            expected = connection.connection.exec_driver_sql(driver_text(messages.LIST_PAGE), values).all()
            connection.connection.exec_driver_sql(named.prepare.replace("%", "%%"))
            rows = connection.connection.exec_driver_sql(named.execute, values).all()
            assert rows == expected
            assert [f'"content":"{content}"' in row.record for content, row in zip(contents, rows, strict=False)] == [
                True
            ] * len(contents)


def test_pages_of_unusual_lengths_and_at_offsets_are_not_kept() -> None:
    page = {**PAGE, "agency_id": uuid4()}
    forms = {limit: find(conversations.LIST_PAGE, {**page, "limit": limit}) for limit in range(1, 101)}
    kept = {limit: form for limit, form in forms.items() if form is not None}
    assert kept.keys() == USUAL_LIMITS
    assert len({form.name for form in kept.values()}) == len(USUAL_LIMITS)
    assert find(conversations.LIST_PAGE, {**page, "limit": 20, "offset": 1}) is None


def test_an_optional_clause_is_there_or_is_not() -> None:
    page = {**PAGE, "agency_id": uuid4(), "limit": 20}
    everything, open_ones = (find(conversations.LIST_PAGE, {**page, "status": status}) for status in (None, "open"))
    assert everything is not None
    assert open_ones is not None
    assert "status = $" not in everything.prepare
    assert "(status = $" in open_ones.prepare
    assert "is null or" not in open_ones.prepare
    assert "limit 20" in everything.prepare
    assert "offset" not in everything.prepare


def test_the_plan_of_a_page_is_made_once(one: Database, agency: Agency) -> None:
    with tenant_transaction(one, agency.id, read_only=True) as connection:
        for _ in range(12):
            connection.execute(conversations.LIST_PAGE, **PAGE, limit=20)
            connection.execute(messages.LIST_PAGE, conversation_id=uuid4(), before=None, limit=50)
        kept = connection.execute(
            text("select custom_plans, generic_plans from pg_prepared_statements order by 2 desc")
        )
        assert [tuple(row) for row in kept] == [(0, 12), (0, 12), (0, 1)]


def test_what_is_prepared_shows_each_agency_its_own(one: Database, agency: Agency, other_agency: Agency) -> None:
    for number, each in enumerate((agency, other_agency)):
        with tenant_transaction(one, each.id) as connection:
            connection.execute(
                text("insert into contacts (agency_id, id, phone) values (:agency_id, :id, :phone)"),
                id=uuid4(),
                phone=f"+{number}",
            )
    for _ in range(10):
        for number, each in enumerate((agency, other_agency)):
            with tenant_transaction(one, each.id, read_only=True) as connection:
                assert connection.execute(PHONES).scalars().all() == [f"+{number}"]
    assert len(known(one) or ()) == 2


def test_a_connection_that_died_in_the_pool_is_replaced_when_its_plans_are_due(
    one: Database, urls: Urls, agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkouts, "PLANS_SECONDS", 0.0)
    with tenant_transaction(one, agency.id) as connection:
        pid = connection.execute(text("select pg_backend_pid()")).scalar_one()
    superuser = Database(urls.superuser, pool_size=1)
    with unbound_transaction(superuser) as unbound:
        unbound.execute(text("select pg_terminate_backend(:pid, 5000)"), pid=pid)
    superuser.close()
    with tenant_transaction(one, agency.id) as connection:
        assert connection.execute(text("select pg_backend_pid()")).scalar_one() != pid


@pytest.mark.skipif(pgbouncer.PROGRAM is None, reason="pgbouncer is not installed (apt install pgbouncer)")
def test_through_a_transaction_pooler_nothing_is_prepared(urls: Urls) -> None:
    with pgbouncer.running(urls.app, server_connections=2) as url:
        database = Database(url, pool_size=3)
        with unbound_transaction(database) as unbound:
            assert unbound.execute(ONE).scalar_one() == 1
            assert PREPARED not in unbound.connection.info
            assert unbound.execute(text("select count(*) from pg_prepared_statements")).scalar_one() == 0
        database.close()


def test_where_a_name_is_lost_the_work_may_be_done_again_and_nothing_is_prepared_any_more(
    one: Database, agency: Agency
) -> None:
    """As behind a pooler that does not let itself be seen."""

    def read() -> list[str]:
        with tenant_transaction(one, agency.id, read_only=True) as connection:
            return list(connection.execute(PHONES).scalars())

    assert read() == []
    with unbound_transaction(one) as unbound:
        unbound.connection.exec_driver_sql("deallocate all")
    with pytest.raises(Conflict):
        read()
    assert read() == []
    assert known(one) is None


def test_a_name_that_is_lost_until_the_commit_has_changed_nothing(one: Database, agency: Agency) -> None:
    insert = text("insert into contacts (agency_id, id, phone) values (:agency_id, :id, '+1')")

    def write(*, losing: bool) -> None:
        with tenant_transaction(one, agency.id) as connection:
            connection.execute_later(insert, id=uuid4())
            if losing:
                connection.transaction.run_text_later("deallocate all")
                connection.execute_later(insert, id=uuid4())

    with pytest.raises(Conflict):
        write(losing=True)
    with tenant_transaction(one, agency.id, read_only=True) as connection:
        assert connection.execute(PHONES).scalars().all() == []


def test_a_plan_whose_types_a_migration_has_changed_is_made_anew(urls: Urls) -> None:
    database = Database(urls.superuser, pool_size=1)
    everything = text("select * from grown")
    with unbound_transaction(database) as unbound:
        unbound.connection.exec_driver_sql("create temp table grown as select 1 as a")
        before = unbound.connection.connection.driver_connection
        assert unbound.execute(everything).all() == [(1,)]
    with unbound_transaction(database) as unbound:
        unbound.connection.exec_driver_sql("alter table grown add b integer")
    with pytest.raises(Conflict), unbound_transaction(database) as unbound:
        unbound.execute(everything)
    with unbound_transaction(database) as unbound:
        assert unbound.connection.connection.driver_connection is not before
        assert unbound.execute(ONE).scalar_one() == 1
        assert len(unbound.connection.info[PREPARED]) == 1
    database.close()
