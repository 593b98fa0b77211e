"""The password of the role that serves is exchanged as the operations page says, while clients go on asking."""

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from conversations_api import addresses, migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, unbound_transaction
from tests.agencies import Urls
from tests.deployment import test_operations_page as operations_page
from tests.reliability.test_rolling_restart import Load, replace, start, wait_for_port
from tests.stack import Stack, running

NAME = "faro_rotated"


@pytest.fixture
def rotated() -> Iterator[Urls]:
    """A migrated database on a server of its own: roles and their passwords are the server's."""
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        server.create_database(NAME)
        urls = Urls(*(server.url(role, NAME) for role in ("faro_app", "faro_worker", "faro_owner", "postgres")))
        migrating.migrate(urls.owner)
        yield urls


@pytest.fixture
def stack(rotated: Urls, tmp_path: Path) -> Iterator[Stack]:
    with running(rotated, tmp_path, WEB_CONCURRENCY="1", SEND_DEADLINE_SECONDS="5") as stack:
        yield stack


def with_login(url: str, role: str, password: str) -> str:
    return make_url(url).set(username=role, password=password).render_as_string(hide_password=False)


def set_password(urls: Urls, role: str, password: str) -> None:
    with transaction.session(urls.superuser) as connection, connection.cursor() as cursor:
        cursor.execute(f"alter role {role} password %s", (password,))


def logged_in(urls: Urls, role: str) -> int:
    with transaction.session(urls.superuser) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_stat_activity where usename = %s", (role,))
        return int(cursor.fetchone()[0])  # type: ignore[index]


def run_page(urls: Urls, block: str) -> None:
    words = {"database faro": f"database {NAME}"} if block == "second login" else {}
    operations_page.run(urls.superuser, block, **words)


def restart_in_turn(stack: Stack, load: Load, url: str) -> None:
    """Each instance is taken out of the proxy, restarted with the new URL, and put back when it is ready."""
    for number, name in enumerate(("serve", "serve 2")):
        port, other = load.ports[number], load.ports[1 - number]
        load.ports[number] = other
        time.sleep(1)  # what it was sent before has been accepted
        replace(stack, name, "serve", DATABASE_URL=url, PORT=str(port))
        load.ports[number] = port


def test_an_open_connection_outlives_a_new_password_and_the_next_one_is_refused(rotated: Urls) -> None:
    pool = Database(rotated.app, pool_size=2)
    try:
        with unbound_transaction(pool) as connection:
            connection.connection.exec_driver_sql("select 1")
            set_password(rotated, "faro_app", "new")
            connection.connection.exec_driver_sql("select 1")
            with pytest.raises(DatabaseUnavailable), unbound_transaction(pool) as second:
                second.connection.exec_driver_sql("select 1")
    finally:
        pool.close()


def test_a_password_of_the_database_is_exchanged_and_no_request_fails(stack: Stack) -> None:
    urls, agency = stack.urls, stack.agencies[0]
    for number in range(6):
        stack.write(agency.channels[1], f"+1404555{number:04d}", "Hello")
    conversations = [one["id"] for one in stack.conversations(agency)]
    second = str(addresses.free_port())
    start(stack, "serve 2", "serve", PORT=second)
    wait_for_port(int(second))
    load = Load(stack, [stack.port, int(second)], conversations)
    answered: list[int] = []
    with load.running():
        run_page(urls, "second login")
        set_password(urls, "faro_app_next", "next")
        restart_in_turn(stack, load, with_login(urls.app, "faro_app_next", "next"))
        answered.append(load.answered)
        assert (logged_in(urls, "faro_app"), logged_in(urls, "faro_app_next") > 0) == (0, True)
        set_password(urls, "faro_app", "exchanged")
        restart_in_turn(stack, load, with_login(urls.app, "faro_app", "exchanged"))
        answered.append(load.answered)
        assert logged_in(urls, "faro_app_next") == 0
        run_page(urls, "end of the second login")
        set_password(urls, "faro_worker", "exchanged")
        worker_url = with_login(urls.worker, "faro_worker", "exchanged")
        replace(stack, "worker", "worker", WORKER_DATABASE_URL=worker_url)
    assert load.failed == []
    assert 0 < answered[0] < answered[1] < load.answered
    for url in (urls.app, urls.worker, with_login(urls.app, "faro_app_next", "next")):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
