"""A migration that rewrites rows reaches every agency's, one agency at a time, and stops nobody meanwhile."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import text

from conversations_api import migrating
from persistence import agencies, migrations, schema
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency, Urls, make_agency
from tests.tenancy.rls.world import connect

BACKFILL = "update contacts set name = 'Somebody' where name is null"

# Two revisions of a release to come: the column at once, its rows afterwards.
REVISIONS = """
from alembic import op
from persistence.migrations import for_each_agency

revision = "{revision}"
down_revision = "{down_revision}"


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
"""


@pytest.fixture
def two_agencies(migrated_urls: Urls) -> list[Agency]:
    """Each with a contact that has no name."""
    agencies = [make_agency(migrated_urls.owner, number) for number in (1, 2)]
    database = Database(migrated_urls.app, pool_size=1)
    for agency in agencies:
        with tenant_transaction(database, agency.id) as connection:
            connection.execute(
                text("insert into contacts (agency_id, id, phone) values (:agency_id, :id, '+12025550199')"),
                id=agency.location_id,
            )
    database.close()
    return agencies


@pytest.fixture
def owner(migrated_urls: Urls) -> Iterator[sqlalchemy.Connection]:
    """The owner's connection in a transaction, as a revision is given it."""
    engine = sqlalchemy.create_engine(migrated_urls.owner)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def names(urls: Urls) -> list[tuple[object, ...]]:
    """Every contact's agency and name."""
    connection = connect(urls.superuser)
    with connection, connection.cursor() as cursor:
        cursor.execute("select agency_id::text, name from contacts order by agency_id")
        found = cursor.fetchall()
    connection.close()
    return found


def test_an_owner_that_binds_no_agency_changes_no_row_and_is_not_told(
    two_agencies: list[Agency], owner: sqlalchemy.Connection
) -> None:
    assert len(two_agencies) == 2
    assert owner.exec_driver_sql(BACKFILL).rowcount == 0


def test_binding_each_agency_in_turn_changes_every_row(
    migrated_urls: Urls, two_agencies: list[Agency], owner: sqlalchemy.Connection
) -> None:
    changed = {}
    for agency_id in migrations.for_each_agency(owner):
        changed[agency_id] = owner.exec_driver_sql(BACKFILL).rowcount
    owner.commit()
    assert changed == {agency.id: 1 for agency in two_agencies}
    assert names(migrated_urls) == [(str(agency.id), "Somebody") for agency in two_agencies]


def test_after_the_last_agency_none_is_bound(two_agencies: list[Agency], owner: sqlalchemy.Connection) -> None:
    assert list(migrations.for_each_agency(owner)) == [agency.id for agency in two_agencies]
    assert owner.exec_driver_sql("select count(*) from contacts").scalar() == 0


def test_the_agencies_stay_fenced_while_their_ids_are_read_and_afterwards(
    migrated_urls: Urls, two_agencies: list[Agency], owner: sqlalchemy.Connection
) -> None:
    forced = "select relforcerowsecurity from pg_class where oid = 'agencies'::regclass"
    for agency_id in migrations.for_each_agency(owner):
        assert owner.exec_driver_sql(forced).scalar() is True
        assert owner.exec_driver_sql("select agency_id from agencies").scalars().all() == [agency_id]
    owner.commit()
    assert owner.exec_driver_sql(forced).scalar() is True


@pytest.mark.usefixtures("two_agencies")
def test_requests_are_answered_while_a_data_migration_is_at_work(
    migrated_urls: Urls, two_agencies: list[Agency], owner: sqlalchemy.Connection
) -> None:
    """Lifting FORCE locks `agencies` against everybody; the lock must not last as long as the migration."""
    database = Database(migrated_urls.app, pool_size=1)
    for agency_id in migrations.for_each_agency(owner):
        owner.exec_driver_sql(BACKFILL)
        with tenant_transaction(database, agency_id) as connection:
            assert agencies.find_status(connection) == "active"
    database.close()


def write_revision(folder: Path, revision: str, down_revision: str, *, upgrade: str, downgrade: str = "pass") -> None:
    source = REVISIONS.format(revision=revision, down_revision=down_revision, upgrade=upgrade, downgrade=downgrade)
    (folder / f"versions/{revision}.py").write_text(source)


@pytest.fixture
def release_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, where a test adds revisions to those of this release."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    head = schema.head()
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    write_revision(
        folder,
        "column_to_come",
        head,
        upgrade='op.execute("alter table contacts add column nickname text")',
        downgrade='op.execute("alter table contacts drop column nickname")',
    )
    return folder


def columns(urls: Urls) -> set[str]:
    connection = connect(urls.superuser)
    with connection, connection.cursor() as cursor:
        cursor.execute("select attname from pg_attribute where attrelid = 'contacts'::regclass and attnum > 0")
        found = {name for (name,) in cursor.fetchall()}
    connection.close()
    return found


def test_a_revision_with_data_runs_through_migrate(
    migrated_urls: Urls, two_agencies: list[Agency], release_to_come: Path
) -> None:
    write_revision(
        release_to_come,
        "rows_to_come",
        "column_to_come",
        upgrade="""for _ in for_each_agency(op.get_bind()):
        op.execute("update contacts set name = 'Somebody'")""",
    )
    migrating.migrate(migrated_urls.owner)
    assert "nickname" in columns(migrated_urls)
    assert names(migrated_urls) == [(str(agency.id), "Somebody") for agency in two_agencies]
    migrating.downgrade(migrated_urls.owner, "-2")
    assert "nickname" not in columns(migrated_urls)


def test_a_revision_that_fails_leaves_nothing_of_itself_and_can_be_run_again(
    migrated_urls: Urls, two_agencies: list[Agency], release_to_come: Path
) -> None:
    failing = """for agency_id in for_each_agency(op.get_bind()):
        op.execute("update contacts set name = 'Somebody'")
        op.execute("select 1 / 0")"""
    write_revision(release_to_come, "rows_to_come", "column_to_come", upgrade=failing)
    with pytest.raises(sqlalchemy.exc.DataError, match="division by zero"):
        migrating.migrate(migrated_urls.owner)
    # The revision before it stands: each has a transaction of its own.
    assert "nickname" in columns(migrated_urls)
    assert names(migrated_urls) == [(str(agency.id), None) for agency in two_agencies]
    write_revision(release_to_come, "rows_to_come", "column_to_come", upgrade="pass")
    migrating.migrate(migrated_urls.owner)


def test_a_migration_that_is_killed_half_way_leaves_nothing_of_itself(
    migrated_urls: Urls, two_agencies: list[Agency], release_to_come: Path
) -> None:
    slow = """op.execute("alter table contacts add column later text")
    op.execute("select pg_sleep(60)")"""
    write_revision(release_to_come, "rows_to_come", "column_to_come", upgrade=slow)
    raised: list[BaseException] = []

    def migrate() -> None:
        try:
            migrating.migrate(migrated_urls.owner)
        except sqlalchemy.exc.DBAPIError as error:
            raised.append(error)

    migration = threading.Thread(target=migrate)
    migration.start()
    kill_the_one_who_sleeps(migrated_urls)
    migration.join()

    assert len(raised) == 1
    assert "later" not in columns(migrated_urls)
    database = Database(migrated_urls.app, pool_size=1)
    with tenant_transaction(database, two_agencies[0].id) as connection:
        assert agencies.find_status(connection) == "active"
    database.close()


def kill_the_one_who_sleeps(urls: Urls) -> None:
    connection = connect(urls.superuser)
    connection.autocommit = True
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query like '%pg_sleep(60)%' and pid <> pg_backend_pid() and datname = current_database()"
            )
            if cursor.fetchall():
                break
            time.sleep(0.05)
    connection.close()


def test_a_lock_that_is_not_had_in_time_ends_a_migration_unharmed(
    migrated_urls: Urls, two_agencies: list[Agency], release_to_come: Path
) -> None:
    assert release_to_come.is_dir()
    database = Database(migrated_urls.app, pool_size=2)
    answered: list[str | None] = []

    def ask_behind_the_migration() -> None:
        wait_until_somebody_waits_for_a_lock(migrated_urls)
        with tenant_transaction(database, two_agencies[1].id) as connection:
            answered.append(connection.execute(text("select phone from contacts")).scalar())

    with tenant_transaction(database, two_agencies[0].id) as connection:
        connection.execute(text("update contacts set name = 'Busy' where agency_id = :agency_id"))
        request = threading.Thread(target=ask_behind_the_migration)
        request.start()
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
            migrating.migrate(migrated_urls.owner)
        assert isinstance(raised.value.orig, psycopg2.errors.LockNotAvailable)
        request.join()
    database.close()

    # The request that queued behind the migration was answered when that gave up; the one that it waited for went on.
    assert answered == ["+12025550199"]
    assert names(migrated_urls) == [(str(two_agencies[0].id), "Busy"), (str(two_agencies[1].id), None)]
    assert "nickname" not in columns(migrated_urls)
    migrating.migrate(migrated_urls.owner)
    assert "nickname" in columns(migrated_urls)


def wait_until_somebody_waits_for_a_lock(urls: Urls) -> None:
    connection = connect(urls.superuser)
    connection.autocommit = True
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )
            if cursor.fetchone() != (0,):
                break
            time.sleep(0.02)
    connection.close()
