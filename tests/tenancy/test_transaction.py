"""What a transaction sends, and when: nothing is left out, nothing is sent twice, a dead connection costs nobody."""

import os
import socket
from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from persistence.connection import TenantConnection
from tenancy.transaction import (
    Database,
    DatabaseUnavailable,
    OutcomeUnknown,
    bind,
    session,
    tenant_transaction,
    unbound_transaction,
)
from tests.agencies import Agency, Urls

INSERT = text("insert into contacts (agency_id, id, phone) values (:agency_id, :id, :phone)")
# A lock that nobody gives in time is an OperationalError, like a queue of notifications that is full.
FAILING = text("do $$ begin raise exception using errcode = '55P03'; end $$")
PHONES = text("select phone from contacts where agency_id = :agency_id order by phone")


@pytest.fixture
def sent(one: Database) -> list[str]:
    """What goes out, each string a round trip; but for what is prepared, once in the life of a connection."""
    strings: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("PREPARE "):
            strings.append(statement)

    event.listen(one.engine, "before_cursor_execute", note)
    return strings


def phones(database: Database, agency: Agency) -> list[str]:
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        return list(connection.execute(PHONES).scalars())


def change(database: Database, agency: Agency, work: Callable[[TenantConnection], object]) -> None:
    with tenant_transaction(database, agency.id) as connection:
        work(connection)


def end_sessions(urls: Urls) -> None:
    """As a restart of the server, or a firewall that forgets, ends them: the pool learns of it by the next use."""
    connection = psycopg2.connect(make_url(urls.superuser).set(drivername="postgresql").render_as_string(False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where usename = 'faro_app' and datname = current_database()"
        )
    connection.close()


def test_a_read_is_one_round_trip_and_a_write_two(one: Database, sent: list[str], agency: Agency) -> None:
    phones(one, agency)
    assert len(sent) == 1
    sent.clear()
    with tenant_transaction(one, agency.id) as connection:
        connection.execute(INSERT, id=uuid4(), phone="+1")
    assert len(sent) == 2


def test_what_nobody_waits_for_is_sent_with_the_rest_and_committed(
    one: Database, sent: list[str], agency: Agency, other_agency: Agency
) -> None:
    with tenant_transaction(one, agency.id) as connection:
        connection.execute_later(INSERT, id=uuid4(), phone="100 % of +1; 'quoted' %(phone)s")
        connection.execute_later(INSERT, id=uuid4(), phone="+2")
    assert len(sent) == 1
    assert phones(one, agency) == sorted(["100 % of +1; 'quoted' %(phone)s", "+2"])
    assert phones(one, other_agency) == []


def test_a_statement_sees_what_was_to_be_sent_before_it(one: Database, agency: Agency) -> None:
    with tenant_transaction(one, agency.id) as connection:
        connection.execute_later(INSERT, id=uuid4(), phone="+1")
        assert list(connection.execute(PHONES).scalars()) == ["+1"]


def test_what_was_to_be_sent_goes_with_the_transaction(one: Database, sent: list[str], agency: Agency) -> None:
    class Changed(Exception):
        """Somebody thinks better of it."""

    def think_better_of_it(connection: TenantConnection) -> None:
        connection.execute_later(INSERT, id=uuid4(), phone="+1")
        raise Changed

    with pytest.raises(Changed):
        change(one, agency, think_better_of_it)
    assert sent == []
    assert phones(one, agency) == []


def test_a_transaction_in_which_nothing_is_done_sends_nothing(one: Database, sent: list[str], agency: Agency) -> None:
    with tenant_transaction(one, agency.id):
        pass
    with unbound_transaction(one):
        pass
    assert sent == []


def test_binding_another_agency_sends_what_was_to_be_sent_for_the_one_before(
    one: Database, agency: Agency, other_agency: Agency
) -> None:
    with unbound_transaction(one) as unbound:
        for number, each in enumerate((agency, other_agency)):
            bind(unbound, each.id).execute_later(INSERT, id=UUID(int=1), phone=f"+{number}")
    assert (phones(one, agency), phones(one, other_agency)) == (["+0"], ["+1"])


def test_a_connection_that_died_in_the_pool_costs_neither_reader_nor_writer(
    one: Database, urls: Urls, agency: Agency
) -> None:
    assert phones(one, agency) == []
    end_sessions(urls)
    assert phones(one, agency) == []
    end_sessions(urls)
    with tenant_transaction(one, agency.id) as connection:
        connection.execute_later(INSERT, id=uuid4(), phone="+1")
        assert list(connection.execute(PHONES).scalars()) == ["+1"]
    assert phones(one, agency) == ["+1"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this kernel cannot be told")
def test_the_kernel_gives_a_server_up_that_has_gone_without_a_word(one: Database, urls: Urls) -> None:
    names = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)

    def limits(connection: "psycopg2.extensions.connection") -> list[int]:
        with socket.socket(fileno=os.dup(connection.fileno())) as lent:
            return [lent.getsockopt(socket.IPPROTO_TCP, name) for name in names]

    with unbound_transaction(one) as unbound:
        pooled = limits(unbound.connection.connection.driver_connection)  # type: ignore[arg-type]
    with session(urls.app) as alone:
        assert pooled == limits(alone) == [10_000, 5, 2, 3]


def test_a_commit_is_never_sent_twice(one: Database, sent: list[str], urls: Urls, agency: Agency) -> None:
    """Whether it arrived, nobody knows: not even where it was the first that was sent on a connection that had died."""
    change(one, agency, lambda connection: connection.execute_later(INSERT, id=uuid4(), phone="+0"))
    end_sessions(urls)
    sent.clear()
    with pytest.raises(OutcomeUnknown):
        change(one, agency, lambda connection: connection.execute_later(INSERT, id=uuid4(), phone="+1"))
    assert len([string for string in sent if "COMMIT" in string]) == 1
    assert phones(one, agency) == ["+0"]


def test_a_session_that_ends_within_a_transaction_is_not_taken_up_again(
    one: Database, urls: Urls, agency: Agency
) -> None:
    def lose_it(connection: TenantConnection) -> None:
        connection.execute(INSERT, id=uuid4(), phone="+1")
        end_sessions(urls)
        connection.execute(INSERT, id=uuid4(), phone="+2")

    with pytest.raises(DatabaseUnavailable):
        change(one, agency, lose_it)
    assert phones(one, agency) == []


def test_what_follows_a_commit_is_sent_once_and_with_it(one: Database, sent: list[str], agency: Agency) -> None:
    with tenant_transaction(one, agency.id) as connection:
        connection.execute(INSERT, id=uuid4(), phone="+1")
        for _ in range(2):
            connection.execute_after_commit(text("notify somebody"))
    assert sent[-1] == "COMMIT; notify somebody"


def test_a_commit_whose_follower_fails_is_not_called_one_that_changed_nothing(one: Database, agency: Agency) -> None:
    def work(connection: TenantConnection) -> None:
        connection.execute(INSERT, id=uuid4(), phone="+1")
        connection.execute_after_commit(FAILING)

    with pytest.raises(OutcomeUnknown):
        change(one, agency, work)
    assert phones(one, agency) == ["+1"]


def test_a_statement_of_a_commit_that_fails_has_changed_nothing(one: Database, agency: Agency) -> None:
    def work(connection: TenantConnection) -> None:
        connection.execute(INSERT, id=uuid4(), phone="+1")
        connection.execute_later(FAILING)
        connection.execute_after_commit(text("notify somebody"))

    with pytest.raises(DatabaseUnavailable):
        change(one, agency, work)
    assert phones(one, agency) == []


def test_with_citus_each_statement_goes_out_alone(
    one: Database, sent: list[str], agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.prepares = False
    phones(one, agency)  # the first connection finds out whether it is there
    monkeypatch.setattr(one, "is_distributed", True)
    sent.clear()
    with tenant_transaction(one, agency.id) as connection:
        connection.execute_later(INSERT, id=uuid4(), phone="+1")
        connection.execute(PHONES)
        connection.execute_after_commit(text("notify somebody"))
    begin, insert, select, commit, notify = sent
    assert begin == f"BEGIN; SET LOCAL app.agency_id = '{agency.id}'"
    assert [string.split()[0] for string in (insert, select, commit, notify)] == [
        "insert",
        "select",
        "COMMIT",
        "notify",
    ]
    sent.clear()
    assert phones(one, agency) == ["+1"]
    assert sent[0] == f"BEGIN READ ONLY; SET LOCAL app.agency_id = '{agency.id}'"
    assert len(sent) == 3


def test_a_place_of_the_pool_that_does_not_come_free_is_a_database_that_cannot_be_had(
    database: Database, agency: Agency
) -> None:
    """A connection that died in the pool is replaced in the middle of a transaction, and somebody may be first."""
    for read_only in (True, False):
        with pytest.raises(DatabaseUnavailable), tenant_transaction(database, agency.id, read_only=read_only):
            raise sqlalchemy.exc.TimeoutError
