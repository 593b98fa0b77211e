"""The roles and databases are what persistence/roles.sql promises, here and where an operator runs it."""

from collections.abc import Iterator

import psycopg2
import pytest

from conversations_api.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, running_postgres
from tests.embedded_postgres.clients import ask

OURS = ["faro_app", "faro_owner", "faro_worker"]


@pytest.fixture
def copy(server: EmbeddedPostgres) -> Iterator[str]:
    ask(server.owner_url, "create table if not exists noted as select 'from the template' as text")
    server.create_database("copy", template="faro")
    yield "copy"
    server.drop_database("copy")


@pytest.mark.parametrize("role", OURS)
def test_each_role_logs_in_as_itself(server: EmbeddedPostgres, role: str) -> None:
    assert ask(server.url(role), "select session_user, current_database()") == [(role, "faro")]
    url = {"faro_app": server.app_url, "faro_owner": server.owner_url, "faro_worker": server.worker_url}[role]
    assert url == server.url(role)
    assert url.startswith(f"postgresql+psycopg2://{role}:")


@pytest.mark.parametrize("role", OURS)
def test_no_role_can_bypass_row_level_security_or_make_roles(server: EmbeddedPostgres, role: str) -> None:
    attributes = "rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
    own = ask(server.url(role), f"select {attributes} from pg_roles where rolname = current_user")  # noqa: S608
    assert own == [(True, False, False, False, False, False)]
    memberships = "select count(*) from pg_auth_members where to_regrole(current_user) in (member, roleid)"
    assert ask(server.url(role), memberships) == [(0,)]


@pytest.mark.parametrize("database", ["faro", "copy"])
@pytest.mark.usefixtures("copy")
def test_the_owner_owns_the_database_and_its_schema(server: EmbeddedPostgres, database: str) -> None:
    url = server.url("postgres", database)
    owner = "select datdba::regrole::text from pg_database where datname = current_database()"
    assert ask(url, owner) == [("faro_owner",)]
    assert ask(url, "select nspowner::regrole::text from pg_namespace where nspname = 'public'") == [("faro_owner",)]


@pytest.mark.parametrize("database", ["faro", "copy"])
@pytest.mark.parametrize("role", ["faro_app", "faro_worker"])
@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
    "statement",
    ["create table mine ()", "create temporary table mine ()", "create schema mine", "create database mine"],
)
def test_the_app_and_the_worker_create_nothing(
    server: EmbeddedPostgres, database: str, role: str, statement: str
) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(server.url(role, database), statement)


@pytest.mark.parametrize("database", ["faro", "copy"])
@pytest.mark.usefixtures("copy")
def test_a_stranger_may_not_connect(server: EmbeddedPostgres, database: str) -> None:
    ask(server.superuser_url, "create role stranger login password 'stranger'")
    try:
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            ask(server.url("postgres", database), "select 1", user="stranger", password="stranger")
    finally:
        ask(server.superuser_url, "drop role stranger")


def test_a_database_is_copied_from_a_template(server: EmbeddedPostgres, copy: str) -> None:
    ask(server.url("faro_owner", copy), "update noted set text = 'changed'")

    assert ask(server.url("faro_owner", copy), "select text from noted") == [("changed",)]
    assert ask(server.owner_url, "select text from noted") == [("from the template",)]


@pytest.mark.parametrize("name", ["plain", "odd \"name\" with; 'quotes' :and $1", "ünïcode"])
def test_a_database_without_a_template_is_empty_and_can_be_dropped(server: EmbeddedPostgres, name: str) -> None:
    server.create_database(name)
    assert ask(server.superuser_url, "select count(*) from pg_class where relkind = 'r'", dbname=name)[0][0] > 0
    assert ask(server.superuser_url, "select to_regclass('public.noted')", dbname=name) == [(None,)]

    server.drop_database(name)
    server.drop_database(name)
    assert ask(server.superuser_url, f"select from pg_database where datname = {_literal(name)}") == []


def test_a_template_that_is_not_there_is_an_error_with_its_name(server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match='"nowhere" does not exist'):
        server.create_database("copy_of_nowhere", template="nowhere")


def test_the_roles_file_may_be_run_again(server: EmbeddedPostgres) -> None:
    before = _grants(server)
    server.psql(running_postgres.roles_sql())
    assert _grants(server) == before
    assert ask(server.app_url, "select 1") == [(1,)]


def test_an_operator_without_superuser_can_run_the_roles_file() -> None:
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        expected = _grants(server)
        drop = ["drop database faro", *(f"drop role {role}" for role in OURS)]
        for statement in [*drop, "create role operator login createrole createdb password 'operator'"]:
            ask(server.superuser_url, statement, dbname="postgres")
        server.psql(f"\\connect 'user=operator password=operator dbname=postgres'\n{running_postgres.roles_sql()}")
        assert _grants(server) == expected


def _grants(server: EmbeddedPostgres) -> list[tuple[object, ...]]:
    return ask(
        server.superuser_url,
        """
        select datname, datdba::regrole::text, datacl::text, nspowner::regrole::text, nspacl::text
        from pg_database, pg_namespace
        where datname = 'faro' and nspname = 'public'
        """,
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
