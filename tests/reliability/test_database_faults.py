"""What the API answers while the database is gone, slow, locked or stopped, and how it comes back by itself."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.web.lanes import Limits
from tenancy.transaction import Database, DatabaseUnavailable, unbound_transaction
from tests.agencies import Agency, Urls
from tests.api_client import BASE_PATH, Answer, Api, new_sid
from tests.conftest import urls_of
from tests.serving import served


@contextmanager
def cursor_of(url: str) -> Iterator[Any]:
    """A session beside the API's, in one transaction."""
    connection = psycopg2.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def everything(api: Api, agency: Agency, conversation: str) -> list[Answer]:
    """One of each operation that needs the database."""
    me = api.of(agency)
    return [
        me.get("/conversations"),
        me.get(f"/conversations/{conversation}"),
        me.get(f"/conversations/{conversation}/messages"),
        me.get(f"/messages/{uuid4()}"),
        me.send(conversation, "while it is away", key=str(uuid4())),
        me.post(f"/messages/{uuid4()}/resend"),
        api.receive(agency, "while it is away"),
        api.post_signed(f"{BASE_PATH}/webhooks/twilio/status/{agency.id}/{uuid4()}/1", [("MessageSid", new_sid())]),
    ]


def until_served(api: Api, agency: Agency, seconds: float = 60.0) -> float:
    """Ask until there is an answer; how long it took."""
    started = time.monotonic()
    while api.of(agency).get("/conversations").status != 200:
        assert time.monotonic() < started + seconds
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.fixture
def hasty(urls: Urls) -> Iterator[Api]:
    """An API whose requests wait for a thread as long as in production."""
    with served(urls, limits=Limits()) as api:
        yield api


def test_while_the_database_is_down_everything_is_503_and_it_comes_back_by_itself(
    own_postgres: EmbeddedPostgres,
) -> None:
    with served(urls_of(own_postgres, "faro")) as api:
        agency = api.new_agency()
        conversation = api.converse(agency)
        first = api.of(agency).send(conversation, "before")
        own_postgres.stop()
        for _ in range(3):
            for answer in everything(api, agency, conversation):
                assert answer.refusal == (503, "database_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert api.ask("GET", f"{BASE_PATH}/healthz").status == 200
            assert api.ask("GET", f"{BASE_PATH}/readyz").refusal == (503, "not_ready")
        own_postgres.start()
        until_served(api, agency)
        assert api.ask("GET", f"{BASE_PATH}/readyz").status == 200
        api.close()  # the test's own connections are of before
        messages = api.of(agency).get(f"/conversations/{conversation}/messages").json["messages"]
        assert [message["content"] for message in messages] == ["before", "Hello"]
        assert messages[0]["id"] == first.json["id"]
        assert api.of(agency).send(conversation, "after").status == 201


def test_a_session_that_is_ended_in_the_middle_of_a_request_is_503_and_nothing_is_written(api: Api, urls: Urls) -> None:
    with served(urls) as own:
        agency = own.new_agency()
        conversation, key = own.converse(agency), str(uuid4())
        me = own.of(agency)
        assert me.send(conversation, "before").status == 201  # what it sends is prepared now, and not by the next
        with ThreadPoolExecutor(1) as pool, cursor_of(urls.owner) as lock, cursor_of(urls.superuser) as operator:
            lock.execute("lock table outbox in access exclusive mode")
            waiting = pool.submit(me.send, conversation, "once", key=key)
            end_whoever_waits(operator)
            answer = waiting.result()
        # The outbox row went out in one string with the COMMIT: what became of that, nobody here can know.
        assert answer.refusal == (503, "outcome_unknown")
        assert int(answer.headers["retry-after"]) >= 1
        again = me.send(conversation, "once", key=key)
        while again.status == 503:  # another of the pool's sessions may have been ended, too
            again = me.send(conversation, "once", key=key)
        assert (again.status, again.headers["idempotent-replayed"]) == (201, "false")


def end_whoever_waits(operator: Any) -> None:
    deadline = time.monotonic() + 30
    ended = 0
    while not ended:
        assert time.monotonic() < deadline
        operator.execute(
            """select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and usename = 'faro_app' and wait_event_type = 'Lock'"""
        )
        [(ended,)] = operator.fetchall()


def test_sessions_that_ended_while_nobody_used_them_cost_few_answers(urls: Urls) -> None:
    with served(urls) as api:
        agency = api.new_agency()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: api.of(agency).get("/conversations"), range(40)))
        with cursor_of(urls.superuser) as operator:
            operator.execute(
                """select pg_terminate_backend(pid, 5000) from pg_stat_activity
                where datname = current_database() and usename = 'faro_app'"""
            )
        statuses = [api.of(agency).get("/conversations").status for _ in range(10)]
        assert statuses.count(503) <= 1
        assert statuses[1:] == [200] * 9


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
def test_what_takes_too_long_is_503_and_nothing_of_it_is_written(urls: Urls, setting: str) -> None:
    database = make_url(urls.app).database
    with cursor_of(urls.superuser) as operator:
        operator.execute(f"alter role faro_app in database {database} set {setting} = '300ms'")
    with served(urls) as api:
        agency = api.new_agency()
        conversation = api.converse(agency)
        with cursor_of(urls.owner) as lock:
            # The message is inserted before the outbox is waited for.
            lock.execute("lock table outbox in access exclusive mode")
            answer = api.of(agency).send(conversation, "too late")
        assert answer.refusal == (503, "database_unavailable")
        rows = api.sql(agency, "select content from messages where agency_id = :agency_id")
        assert [row.content for row in rows] == ["Hello"]
        shown = api.of(agency).get(f"/conversations/{conversation}").json
        assert shown["last_message_preview"] == "Hello"


def test_a_lock_that_stops_everything_sheds_load_and_lets_nobody_hang(hasty: Api, urls: Urls) -> None:
    agency = hasty.new_agency()
    conversation = hasty.converse(agency)
    me = hasty.of(agency)
    with ThreadPoolExecutor(60) as pool, cursor_of(urls.owner) as lock:
        lock.execute("lock table messages in access exclusive mode")
        answers = list(pool.map(lambda number: me.send(conversation, str(number)), range(120)))
        health = hasty.ask("GET", f"{BASE_PATH}/readyz")
    assert {answer.status for answer in answers} == {503}
    assert {answer.code for answer in answers} == {"database_unavailable", "overloaded"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert health.status == 200
    until_served(hasty, agency)
    rows = hasty.sql(agency, "select 1 from messages where agency_id = :agency_id and direction = 'outbound'")
    assert rows == []


def test_a_read_whose_commit_gets_lost_is_no_unknown_outcome(urls: Urls) -> None:
    with served(urls) as api:
        agency = api.new_agency()
        conversation = api.converse(agency)
        ending = threading.Event()

        def end_sessions() -> None:
            while not ending.is_set():
                with cursor_of(urls.superuser) as operator:
                    operator.execute(
                        """select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and usename = 'faro_app'"""
                    )

        killer = threading.Thread(target=end_sessions)
        killer.start()
        try:
            answers = [api.of(agency).get(f"/conversations/{conversation}") for _ in range(150)]
        finally:
            ending.set()
            killer.join()
        assert {answer.status for answer in answers} <= {200, 503}
        assert {answer.code for answer in answers if answer.status == 503} == {"database_unavailable"}


def test_a_full_disk_refuses_what_writes_and_goes_on_reading_until_there_is_room(urls: Urls) -> None:
    """The server's error for it, raised where it would be raised: no disk of the machine is filled."""
    with served(urls) as api:
        agency, other = api.new_agency(), api.new_agency()
        conversation, key = api.converse(agency), str(uuid4())
        api.converse(other)
        me = api.of(agency)
        with cursor_of(urls.owner) as owner:
            owner.execute("""
                create function full_disk() returns trigger language plpgsql as
                $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$;
                create trigger full_disk before insert on messages execute function full_disk()""")
        for answer in (me.send(conversation, "no room", key=key), api.receive(agency, "no room")):
            assert answer.refusal == (503, "database_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        page = me.get(f"/conversations/{conversation}/messages")
        assert [message["content"] for message in page.json["messages"]] == ["Hello"]
        assert api.of(other).get("/conversations").json["total"] == 1
        assert api.ask("GET", f"{BASE_PATH}/readyz").status == 200
        with cursor_of(urls.owner) as owner:
            owner.execute("drop trigger full_disk on messages")
        again = me.send(conversation, "no room", key=key)
        assert (again.status, again.headers["idempotent-replayed"]) == (201, "false")
        assert api.receive(agency, "room again").status == 200


def test_a_pool_without_a_free_connection_is_given_up_and_recovers(urls: Urls) -> None:
    database = Database(urls.app, pool_size=1)
    with unbound_transaction(database), pytest.raises(DatabaseUnavailable), unbound_transaction(database):
        pytest.fail("there was a second connection")
    with unbound_transaction(database) as connection:
        assert connection.connection.exec_driver_sql("select 1").scalar() == 1
    database.close()
