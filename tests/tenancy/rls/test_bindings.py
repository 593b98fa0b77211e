"""What the binding of an agency may not survive, what it cannot be, and what holds even where it is wrong."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import event, text

from persistence import agencies, conversations, messages
from persistence.errors import MessageNotFound
from tenancy import transaction
from tenancy.transaction import Database, DatabaseUnavailable, tenant_transaction, unbound_transaction
from tests.agencies import Urls
from tests.tenancy.rls import rows
from tests.tenancy.rls.world import Logins, connect

ROOT = Path(__file__).parents[3]
COUNT = text("select count(*) from messages")
SETTING = text("select current_setting('app.agency_id', true)")
# What each agency has of a table, but for agencies itself.
EACH = len(rows.STORED)


@pytest.fixture
def agencies_database(agencies_urls: Urls) -> Iterator[Database]:
    """The application's pool on three agencies' rows; nothing is changed for good."""
    database = Database(agencies_urls.app, pool_size=1, check_bindings=True)
    yield database
    database.close()


@pytest.fixture
def statements(agencies_database: Database) -> list[str]:
    """Every statement that is sent to that database from now on."""
    sent: list[str] = []
    event.listen(
        agencies_database.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: sent.append(statement),
    )
    return sent


@pytest.mark.parametrize(
    "not_an_agency",
    [None, "", "garbage", str(rows.A), b"\x00" * 16, 1, [rows.A], "'; set app.agency_id = '0"],
    ids=repr,
)
def test_without_an_agency_nothing_is_asked_at_all(
    agencies_database: Database, statements: list[str], not_an_agency: object
) -> None:
    with (
        pytest.raises(TypeError, match="named by a UUID"),
        tenant_transaction(agencies_database, not_an_agency),  # type: ignore[arg-type]
    ):
        pytest.fail("there is a connection without an agency")
    assert statements == []


def test_an_agencys_statement_cannot_be_sent_without_one(agencies_database: Database, statements: list[str]) -> None:
    with (
        unbound_transaction(agencies_database) as connection,
        pytest.raises(KeyError, match="agency_id"),
    ):
        connection.execute(conversations.LOCK, conversation_id=rows.key("conversations", rows.A, "own"))


def test_only_the_door_makes_a_connection_of_an_agency() -> None:
    """The type is what makes persistence functions impossible to call without a binding; so nobody else makes one."""
    makers = set()
    for package in ("conversations_api", "delivery", "handlers", "persistence", "tenancy"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("TenantConnection"):
                    makers.add(path.relative_to(ROOT).as_posix())
    assert makers == {"tenancy/transaction.py"}


def test_no_statement_of_ours_binds_for_a_whole_session() -> None:
    """`SET app.agency_id` and `set_config(..., false)` outlive the transaction, and go to the pool's next user."""
    binding = set()
    for package in ("conversations_api", "delivery", "handlers", "persistence", "tenancy"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    words = " ".join(node.value.lower().split())
                    assert "set app." not in words, path
                    assert "set session app." not in words, path
                    if "set_config(" in words:
                        # One, of another name, and for the transaction.
                        assert words.startswith("select set_config('app.key_is_held', cast("), path
                        assert words.endswith(", true)"), path
                        assert words.count("set_config(") == 1, path
                    # A plan made in one role may be used in another (CVE-2023-2455): none of ours changes roles.
                    assert not any(one in words for one in ("set role", "set local role", "set session auth")), path
                    if "set local app." in words:
                        binding.add(path.relative_to(ROOT).as_posix())
    # A data migration binds each agency in turn.
    assert binding == {"tenancy/transaction.py", "persistence/migrations/__init__.py"}


def test_a_transaction_is_bound_to_the_agency_that_its_connection_names(agencies_database: Database) -> None:
    with tenant_transaction(agencies_database, rows.B) as connection:
        assert connection.agency_id == rows.B
        assert connection.execute(SETTING).scalar() == str(rows.B)
    with unbound_transaction(agencies_database) as unbound:
        assert unbound.execute(SETTING).scalar() == ""


def test_a_transaction_may_turn_to_another_agency_and_then_sees_only_that_one(agencies_database: Database) -> None:
    found = []
    with unbound_transaction(agencies_database) as unbound:
        for agency_id in (rows.A, rows.B, rows.A):
            connection = transaction.bind(unbound, agency_id)
            found.append(connection.execute(text("select distinct agency_id from messages")).scalars().all())
    assert found == [[rows.A], [rows.B], [rows.A]]


def test_an_agencys_connection_is_of_no_use_after_its_transaction(agencies_database: Database) -> None:
    with tenant_transaction(agencies_database, rows.A) as connection:
        assert connection.execute(COUNT).scalar() == EACH
    with pytest.raises(sqlalchemy.exc.ResourceClosedError):
        connection.execute(COUNT)


def test_the_next_transaction_of_a_session_sees_nothing(agencies_urls: Urls) -> None:
    connection = connect(agencies_urls.app)
    with connection.cursor() as cursor:
        cursor.execute(f"set local app.agency_id = '{rows.A}'")
        assert count(cursor) == EACH
        connection.commit()
        assert count(cursor) == 0
        connection.rollback()
        assert count(cursor) == 0
    connection.close()


def test_a_binding_in_a_savepoint_goes_with_the_savepoint(agencies_urls: Urls) -> None:
    connection = connect(agencies_urls.app)
    with connection.cursor() as cursor:
        cursor.execute(f"savepoint one; set local app.agency_id = '{rows.A}'")
        assert count(cursor) == EACH
        cursor.execute("rollback to savepoint one")
        assert count(cursor) == 0
    connection.close()


def test_a_session_that_commits_by_itself_sees_nothing(agencies_urls: Urls) -> None:
    with transaction.session(agencies_urls.app) as connection, connection.cursor() as cursor:
        cursor.execute(f"set local app.agency_id = '{rows.A}'")
        assert count(cursor) == 0


def test_the_workers_own_session_sees_no_agencys_messages(agencies_urls: Urls) -> None:
    with transaction.session(agencies_urls.worker) as connection, connection.cursor() as cursor:
        assert count(cursor) == 0


def test_a_transaction_for_reading_writes_nothing(agencies_database: Database) -> None:
    with (
        pytest.raises(sqlalchemy.exc.InternalError) as raised,
        tenant_transaction(agencies_database, rows.A, read_only=True) as connection,
    ):
        connection.execute(text("update messages set status = status where agency_id = :agency_id"))
    assert isinstance(raised.value.orig, psycopg2.errors.ReadOnlySqlTransaction)


def test_what_changes_the_binding_by_force_finds_nothing_of_the_other_agency(agencies_database: Database) -> None:
    """Any role may set the setting, so an injected statement could: but every statement names its agency as well."""
    theirs = rows.key("messages", rows.B, "own")
    with tenant_transaction(agencies_database, rows.A) as connection:
        connection.connection.exec_driver_sql(f"set local app.agency_id = '{rows.B}'")
        with pytest.raises(MessageNotFound):
            messages.get(connection, message_id=theirs)
        page = conversations.list_page(connection, location_id=None, status=None, limit=100)
        assert page.conversations == "[]"
        assert page.total == 0
        assert agencies.find_status(connection) is None


@pytest.mark.parametrize("role", ["faro_app", "faro_worker", "faro_owner"])
def test_a_dump_that_may_not_bypass_the_policies_fails_instead_of_leaving_rows_out(logins: Logins, role: str) -> None:
    with logins.acting(role, str(rows.A)) as cursor:
        cursor.execute("set local row_security = off")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
            count(cursor)


@pytest.mark.parametrize("role", ["faro_app", "faro_worker"])
def test_the_planners_statistics_show_no_agencys_values(logins: Logins, role: str) -> None:
    with logins.acting(None, None) as cursor:
        cursor.execute("select count(distinct tablename) from pg_stats where schemaname = 'public'")
        assert cursor.fetchone()[0] > len(rows.RIGHTS)
    with logins.acting(role, str(rows.A)) as cursor:
        cursor.execute("select tablename from pg_stats where schemaname = 'public'")
        assert {name for (name,) in cursor.fetchall()} <= rows.SHARED_RIGHTS.keys()


def test_a_condition_never_runs_on_another_agencys_row(logins: Logins) -> None:
    """It could say in its error what the row holds."""
    revealing = "select id from messages where content::integer = 1"
    with logins.acting(None, None) as cursor, pytest.raises(psycopg2.errors.InvalidTextRepresentation, match="canary"):
        cursor.execute(revealing)
    with logins.acting("faro_app", str(UUID(int=404))) as cursor:
        cursor.execute(revealing)
        assert cursor.fetchall() == []


def test_an_error_of_the_database_does_not_quote_the_row(logins: Logins) -> None:
    new = rows.row("contacts", rows.A, "new") | {"phone": rows.row("contacts", rows.A, "own")["phone"]}
    with logins.acting("faro_app", str(rows.A)) as cursor, pytest.raises(psycopg2.errors.UniqueViolation) as raised:
        cursor.execute(
            "insert into contacts (agency_id, id, phone, name) values (%s, %s, %s, %s)",
            (str(rows.A), str(new["id"]), new["phone"], new["name"]),
        )
    assert raised.value.diag.message_detail is None
    assert new["phone"] not in str(raised.value)


@pytest.mark.parametrize("role", ["app", "worker"])
def test_nothing_of_a_role_that_serves_runs_or_waits_for_ever(agencies_urls: Urls, role: str) -> None:
    connection = connect(getattr(agencies_urls, role))
    with connection.cursor() as cursor:
        cursor.execute("""
            select name, setting || coalesce(unit, '')
            from pg_settings
            where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'TimeZone')
        """)
        assert dict(cursor.fetchall()) == {
            "statement_timeout": "5000ms",
            "lock_timeout": "2000ms",
            "idle_in_transaction_session_timeout": "10000ms",
            "TimeZone": "UTC",
        }
    connection.close()


def test_a_statement_that_takes_too_long_changes_nothing(urls: Urls) -> None:
    database = Database(urls.owner, pool_size=1)

    def create_an_agency_too_slowly() -> None:
        with tenant_transaction(database, rows.A) as connection:
            connection.execute(text("insert into agencies (agency_id, name) values (:agency_id, 'Agency')"))
            connection.connection.exec_driver_sql("set local statement_timeout = '20ms'")
            connection.connection.exec_driver_sql("select pg_sleep(10)")

    with pytest.raises(DatabaseUnavailable):
        create_an_agency_too_slowly()
    with tenant_transaction(database, rows.A) as connection:
        assert agencies.find_status(connection) is None
    database.close()


def test_a_transaction_that_idles_too_long_is_ended_and_the_pool_recovers(urls: Urls) -> None:
    database = Database(urls.app, pool_size=1)

    def idle() -> None:
        with tenant_transaction(database, rows.A) as connection:
            connection.connection.exec_driver_sql("set local idle_in_transaction_session_timeout = '20ms'")
            time.sleep(0.3)
            connection.execute(COUNT)

    with pytest.raises(DatabaseUnavailable):
        idle()
    with tenant_transaction(database, rows.A) as connection:
        assert connection.execute(COUNT).scalar() == 0
    database.close()


def count(cursor: "psycopg2.extensions.cursor") -> int:
    cursor.execute("select count(*) from messages")
    (number,) = cursor.fetchone()
    return int(number)
