# ruff: noqa: S608 - statements are put together from the names of our own objects
"""A service refuses to start where its role, the schema or the server would let it see past row-level security."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy

from conversations_api import wiring
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.wiring import UnsafeDatabase
from persistence import role_safety, schema_lint
from tenancy.transaction import Database, unbound_transaction
from tests.agencies import Urls
from tests.tenancy.rls.world import Rehearsal, connect, rehearsal, superuser_engine


def run(url: str, *statements: str) -> None:
    connection = connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@pytest.fixture
def login(postgres: EmbeddedPostgres, urls: Urls) -> Iterator[Callable[[str], str]]:
    """Makes a login with the application's rights and these attributes besides, and gives its URL."""
    run(urls.superuser, "create role serving login password 'serving' in role faro_app")

    def with_attributes(attributes: str) -> str:
        run(urls.superuser, f"alter role serving {attributes}")
        url = sqlalchemy.make_url(urls.app).set(username="serving", password="serving")
        return url.render_as_string(hide_password=False)

    yield with_attributes
    run(urls.superuser, "drop role serving")


@pytest.mark.parametrize("role", ["app", "worker"])
def test_the_roles_that_serve_start_on_the_schema_as_it_is(urls: Urls, role: str) -> None:
    wiring.check_database(getattr(urls, role))


def test_a_login_of_the_operators_own_starts_too_when_it_has_the_same_limits(
    urls: Urls, login: Callable[[str], str]
) -> None:
    url = login("set timezone = 'UTC'")
    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        run(urls.superuser, f"alter role serving set {limit} = '5s'")
    wiring.check_database(url)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("superuser", "serving is a superuser"),
        ("bypassrls", "serving has BYPASSRLS"),
        ("createrole", "serving may create roles or databases, or replicate"),
        ("set timezone = 'Europe/Berlin'", "serving has the time zone Europe/Berlin, not UTC"),
        ("set statement_timeout = 0", "serving has no statement_timeout: run persistence/roles.sql"),
        ("set lock_timeout = 0", "serving has no lock_timeout: run persistence/roles.sql"),
    ],
)
def test_a_login_that_could_see_too_much_or_wait_for_ever_does_not_start(
    login: Callable[[str], str], attributes: str, reason: str
) -> None:
    with pytest.raises(UnsafeDatabase) as raised:
        wiring.check_database(login(attributes))
    assert reason in str(raised.value)
    assert "password" not in str(raised.value)


def test_the_owner_does_not_serve(urls: Urls) -> None:
    with pytest.raises(UnsafeDatabase, match=r"faro_owner owns, or is a member of the owner of, \w+; .* and \d+ more$"):
        wiring.check_database(urls.owner)


def test_a_membership_in_the_owner_is_found_however_far_away(urls: Urls, login: Callable[[str], str]) -> None:
    run(urls.superuser, "create role between", "grant faro_owner to between", "grant between to serving")
    try:
        with pytest.raises(UnsafeDatabase, match="serving owns, or is a member of the owner of"):
            wiring.check_database(login("set timezone = 'UTC'"))
    finally:
        run(urls.superuser, "drop role between")


def test_a_damage_to_the_schema_is_named(urls: Urls) -> None:
    run(urls.owner, "create policy helper on messages for select using (true)")
    with pytest.raises(UnsafeDatabase) as raised:
        wiring.check_database(urls.app)
    assert "messages: 2 permissive policies apply to faro_app, not one" in str(raised.value)
    assert "messages: the policy helper is not the one that compares agency_id with the binding" in str(raised.value)


def test_an_older_schema_is_not_measured_by_the_rules_of_this_release(urls: Urls) -> None:
    run(urls.owner, "update alembic_version set version_num = '0000'", "create view old as select 1 as one")
    with pytest.raises(UnsafeDatabase, match=r"the schema is at revision 0000, this release needs \w+: run migrate"):
        wiring.check_database(urls.app)


@pytest.mark.parametrize(
    ("number", "safe"),
    [
        (140019, False),
        (150013, False),
        (150014, True),
        (160009, False),
        (160010, True),
        (170005, False),
        (170006, True),
        (180000, True),
        (190001, True),
    ],
)
def test_a_server_whose_statistics_or_plans_leak_is_too_old(urls: Urls, number: int, safe: bool) -> None:
    """The version is the server's own word, which nothing can set: the rule is asked with another word in its place."""
    statement = role_safety.MISSING_LIMITS.text.replace("current_setting('server_version_num')", f"'{number}'")
    engine = superuser_engine(urls)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text(statement)).scalars().all()
    engine.dispose()
    assert any("is too old" in violation for violation in found) != safe


@pytest.mark.parametrize(
    ("catalogue", "name", "creation"),
    [
        (
            "'pg_proc'::regclass",
            "'theirs()'::regprocedure",
            "create function theirs() returns int language sql as 'select 1'",
        ),
        ("'pg_class'::regclass", "'theirs'::regclass", "create view theirs as select 1 as one"),
        ("'pg_class'::regclass", "'theirs'::regclass", "create table theirs (number integer unique)"),
    ],
)
def test_what_extensions_bring_is_their_own(urls: Urls, catalogue: str, name: str, creation: str) -> None:
    """A view in public, such as pg_stat_statements makes, is no damage; here an object of ours is made to look so."""
    engine = superuser_engine(urls)
    with rehearsal(engine) as world:
        world.change(creation)
        assert any("theirs" in violation for violation in findings(world))
        plpgsql = "(select oid from pg_extension where extname = 'plpgsql')"
        world.change(
            f"insert into pg_depend values ({catalogue}, {name}, 0, 'pg_extension'::regclass, {plpgsql}, 0, 'e')"
        )
        assert not any("theirs" in violation for violation in findings(world))
    engine.dispose()


def findings(world: Rehearsal) -> list[str]:
    with world.unbound("faro_app") as connection:
        return schema_lint.violations(connection)


def test_readiness_notices_what_start_up_noticed(urls: Urls) -> None:
    """A table that loses its row-level security while a service runs takes the service out of rotation."""
    database = Database(urls.app, pool_size=1)
    with unbound_transaction(database) as connection:
        assert role_safety.violations(connection) == []
    run(urls.owner, "alter table contacts no force row level security")
    with unbound_transaction(database) as connection:
        assert role_safety.violations(connection) == ["contacts has no forced row-level security"]
    database.close()
