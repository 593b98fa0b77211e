"""Nothing of one agency is left on a connection for the next: through SQLAlchemy's pool, and through PgBouncer's.

`make pool-checkouts` makes a million checkouts of the same kind.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from uuid import UUID

import pytest
import sqlalchemy

from benchmarks import pgbouncer, pool_checkouts
from benchmarks.pool_checkouts import Checkouts
from conversations_api import wiring
from persistence.connection import TenantConnection, UnboundConnection
from tenancy import transaction
from tenancy.transaction import Database
from tests.agencies import Urls

CHECKOUTS = 5_000


@pytest.fixture(params=["sqlalchemy", "pgbouncer"])
def pooled_database(request: pytest.FixtureRequest, urls: Urls) -> Iterator[Database]:
    """The application's pool, on seven agencies with a row each; or the same through a transaction pooler."""
    if request.param == "pgbouncer" and pgbouncer.PROGRAM is None:
        pytest.skip("pgbouncer is not installed (apt install pgbouncer)")
    pool_checkouts.prepare(urls.owner)
    pooled = pgbouncer.running(urls.app, server_connections=pool_checkouts.SERVER_CONNECTIONS)
    with pooled if request.param == "pgbouncer" else nullcontext(urls.app) as url:
        database = Database(url, pool_size=pool_checkouts.POOL_SIZE)
        yield database
        database.close()


def test_no_checkout_finds_anything_of_another_agency(pooled_database: Database) -> None:
    checkouts = Checkouts(pooled_database)
    checkouts.run(CHECKOUTS)

    assert +checkouts.found == {}
    assert checkouts.endings.total() == CHECKOUTS
    # Failed statements, lost connections and rollbacks were among them, and did not stop the others.
    assert min(checkouts.endings.values()) > CHECKOUTS / 100
    assert checkouts.endings["committed"] > CHECKOUTS / 2


@pytest.mark.skipif(pgbouncer.PROGRAM is None, reason="pgbouncer is not installed (apt install pgbouncer)")
def test_a_service_starts_through_a_transaction_pooler_with_all_its_limits(urls: Urls) -> None:
    with pgbouncer.running(urls.app, server_connections=1) as url:
        wiring.check_database(url)


# Ways to bind an agency that look right in a first test. Each takes the open transaction, as `transaction.bind` does.


def for_the_session(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    unbound.connection.exec_driver_sql(f"SET app.agency_id = '{agency_id}'")
    return TenantConnection(agency_id, unbound.transaction)


def with_set_config_for_the_session(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    unbound.connection.exec_driver_sql(f"select set_config('app.agency_id', '{agency_id}', false)")
    return TenantConnection(agency_id, unbound.transaction)


def when_the_connection_is_new_to_the_agency(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    if unbound.connection.info.get("agency_id") != agency_id:
        unbound.connection.exec_driver_sql(f"SET LOCAL app.agency_id = '{agency_id}'")
        unbound.connection.info["agency_id"] = agency_id
    return TenantConnection(agency_id, unbound.transaction)


def in_a_savepoint_that_is_rolled_back(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    savepoint = unbound.connection.begin_nested()
    unbound.connection.exec_driver_sql(f"SET LOCAL app.agency_id = '{agency_id}'")
    savepoint.rollback()
    return TenantConnection(agency_id, unbound.transaction)


def and_commit_at_once(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    unbound.connection.exec_driver_sql(f"SET LOCAL app.agency_id = '{agency_id}'; commit; begin")
    return TenantConnection(agency_id, unbound.transaction)


_latest: list[UUID] = [pool_checkouts.AGENCIES[0]]


def by_way_of_something_that_threads_share(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    latest = _latest.pop()
    _latest.append(agency_id)
    return TenantConnection(agency_id, transaction_bind(unbound, latest).transaction)


def not_at_all(unbound: UnboundConnection, agency_id: UUID) -> TenantConnection:
    return TenantConnection(agency_id, unbound.transaction)


transaction_bind = transaction.bind

WRONG_WAYS = {
    for_the_session: "stale",
    with_set_config_for_the_session: "stale",
    when_the_connection_is_new_to_the_agency: "missing",
    in_a_savepoint_that_is_rolled_back: "missing",
    and_commit_at_once: "missing",
    by_way_of_something_that_threads_share: "foreign",
    not_at_all: "missing",
}


@pytest.mark.parametrize("wrong_way", WRONG_WAYS, ids=lambda way: way.__name__)
def test_a_wrong_way_to_bind_is_found_out(
    pooled_database: Database, monkeypatch: pytest.MonkeyPatch, wrong_way: object
) -> None:
    monkeypatch.setattr(transaction, "bind", wrong_way)
    checkouts = Checkouts(pooled_database)
    checkouts.run(400)

    assert checkouts.found[WRONG_WAYS[wrong_way]] > 0


@pytest.mark.parametrize("wrong_way", [for_the_session, with_set_config_for_the_session])
def test_a_connection_that_comes_back_bound_is_refused_by_the_pool_of_the_tests(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, wrong_way: object
) -> None:
    monkeypatch.setattr(transaction, "bind", wrong_way)
    database = Database(urls.app, pool_size=1, check_bindings=True)

    with (
        pytest.raises(AssertionError, match="with an agency bound"),
        transaction.unbound_transaction(database) as unbound,
    ):
        transaction.bind(unbound, UUID(int=1)).connection.execute(sqlalchemy.text("select 1"))

    database.close()
