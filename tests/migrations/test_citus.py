"""The tables are distributed by agency, in the right order and once; tried on a stand-in for Citus, which is not here.

The stand-in has what the statements use: the extension's name, `create_distributed_table` and the table that it fills.
Like Citus it refuses a foreign key between a distributed and a local table, and to move the rows of a table that
row-level security binds its owner to.
"""

from collections.abc import Iterator

import psycopg2
import pytest
import sqlalchemy

from persistence import citus, role_safety, schema_lint
from persistence.citus import CitusMissing
from persistence.connection import Transaction, UnboundConnection
from tests.agencies import Urls, make_agency
from tests.commands import refusal, run
from tests.migrations.catalogue import snapshot
from tests.tenancy.rls.world import connect

LOCAL = {"outbox", "number_routing"}
TENANT_TABLES = {
    "agencies",
    "agency_members",
    "attempts",
    "audit_records",
    "channels",
    "clients",
    "contacts",
    "conversation_counts",
    "conversations",
    "idempotency_keys",
    "locations",
    "messages",
    "provider_events",
    "twilio_accounts",
}

STAND_IN = """
    insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    values (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2');

    create schema citus_stand_in;
    create table citus_stand_in.pg_dist_partition (
        logicalrelid regclass primary key, colocated_with text not null, place integer generated always as identity);
    create function citus_stand_in.create_distributed_table(
        moved regclass, distribution_column text, colocate_with text)
    returns void language plpgsql as $$
    begin
        if exists (select from pg_constraint where contype = 'f' and moved in (conrelid, confrelid)) then
            raise exception 'foreign key between a distributed and a local table: %', moved;
        end if;
        if (select relforcerowsecurity from pg_class where oid = moved) then
            raise exception 'COPY FROM not supported with row-level security: %', moved;
        end if;
        if colocate_with <> 'none'
            and not exists (select from pg_dist_partition where logicalrelid = colocate_with::regclass) then
            raise exception 'nothing to place % with', moved;
        end if;
        if current_setting('citus.multi_shard_modify_mode') <> 'sequential' then
            raise exception 'there was a parallel operation on a distributed table in the transaction';
        end if;
        insert into pg_dist_partition (logicalrelid, colocated_with) values (moved, colocate_with);
    end $$;
    update pg_proc set pronamespace = 'pg_catalog'::regnamespace where proname = 'create_distributed_table';
    update pg_class set relnamespace = 'pg_catalog'::regnamespace where relname = 'pg_dist_partition';
    insert into pg_depend (classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype)
    select 'pg_namespace'::regclass, 'citus_stand_in'::regnamespace, 0, 'pg_extension'::regclass, 99999, 0, 'e';
    grant usage on schema citus_stand_in to faro_owner;
    grant select, insert on pg_dist_partition to faro_owner;
    grant set on parameter citus.propagate_set_commands to faro_owner;
    grant set on parameter citus.multi_shard_modify_mode to faro_owner;
"""

# What belongs to the server, and would outlive the database.
CLEAN_UP = """
    revoke set on parameter citus.propagate_set_commands from faro_owner;
    revoke set on parameter citus.multi_shard_modify_mode from faro_owner;
"""


@pytest.fixture
def clustered_urls(migrated_urls: Urls) -> Iterator[Urls]:
    """A migrated database with an agency in it, where Citus seems to be."""
    make_agency(migrated_urls.owner, 1)
    connection = connect(migrated_urls.superuser)
    with connection, connection.cursor() as cursor:
        cursor.execute(STAND_IN)
    yield migrated_urls
    with connection, connection.cursor() as cursor:
        cursor.execute(CLEAN_UP)
    connection.close()


@pytest.fixture
def owner(clustered_urls: Urls) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(clustered_urls.owner)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_without_the_extension_it_says_who_brings_it(migrated_urls: Urls) -> None:
    engine = sqlalchemy.create_engine(migrated_urls.owner)
    with engine.connect() as connection, pytest.raises(CitusMissing, match="runs `create extension citus` first"):
        citus.distribute(connection)
    engine.dispose()
    assert snapshot(migrated_urls.owner)["policies"]


def test_every_tenant_table_is_distributed_by_its_agency_and_placed_with_it(owner: sqlalchemy.Connection) -> None:
    distributing = [one for one in citus.statements(owner) if "create_distributed_table" in one]
    assert distributing[0] == ("select create_distributed_table('agencies', 'agency_id', colocate_with => 'none')")
    assert sorted(distributing[1:]) == [
        f"select create_distributed_table('{table}', 'agency_id', colocate_with => 'agencies')"
        for table in sorted(TENANT_TABLES - {"agencies"})
    ]


def test_foreign_keys_go_first_and_come_back_last_but_for_that_of_a_local_table(owner: sqlalchemy.Connection) -> None:
    kinds = []
    for one in citus.statements(owner):
        words = one.split()
        kinds.append(" ".join(words[3:5]) if words[0] == "alter" and words[1] == "table" else " ".join(words[:2]))
    order = [
        "set local",
        "drop constraint",
        "no force",
        "select create_distributed_table('agencies',",
        "add constraint",
        "force row",
        "alter database",
    ]
    seen = [kind for kind in dict.fromkeys(kinds) if "create_distributed_table" not in kind or "agencies'" in kind]
    assert seen == order
    dropped = {tuple(one.split()[2:6:3]) for one in citus.statements(owner) if " drop constraint " in one}
    added = {tuple(one.split()[2:6:3]) for one in citus.statements(owner) if " add constraint " in one}
    assert dropped - added == {("number_routing", "number_routing_channel")}
    assert added <= dropped


def test_it_runs_in_one_go_and_leaves_the_rest_as_it_was(clustered_urls: Urls, owner: sqlalchemy.Connection) -> None:
    before = snapshot(clustered_urls.owner)
    citus.distribute(owner)
    after = snapshot(clustered_urls.owner)

    lost = [line for line in before["constraints"] if line not in after["constraints"]]
    assert len(lost) == 1
    assert lost[0].startswith("number_routing | number_routing_channel | FOREIGN KEY")
    assert after | {"constraints": before["constraints"]} == before
    placed = owner.exec_driver_sql("select logicalrelid::text, colocated_with from pg_dist_partition order by place")
    assert dict(placed.all()) == {table: "none" if table == "agencies" else "agencies" for table in TENANT_TABLES}


def test_a_second_run_has_nothing_to_do(clustered_urls: Urls, owner: sqlalchemy.Connection) -> None:
    citus.distribute(owner)
    assert citus.statements(owner) == []
    before = snapshot(clustered_urls.owner)
    citus.distribute(owner)
    assert snapshot(clustered_urls.owner) == before


def test_a_table_of_a_later_release_is_placed_with_the_others(owner: sqlalchemy.Connection) -> None:
    citus.distribute(owner)
    owner.exec_driver_sql("""
        create table notes (
            agency_id uuid not null references agencies, id uuid, contact_id uuid, primary key (agency_id, id),
            constraint notes_contact foreign key (agency_id, contact_id) references contacts);
        alter table notes enable row level security;
        alter table notes force row level security;
    """)
    assert citus.statements(owner) == [
        "set local citus.multi_shard_modify_mode = 'sequential'",
        "alter table notes drop constraint notes_agency_id_fkey",
        "alter table notes drop constraint notes_contact",
        "alter table notes no force row level security",
        "select create_distributed_table('notes', 'agency_id', colocate_with => 'agencies')",
        "alter table notes add constraint notes_agency_id_fkey FOREIGN KEY (agency_id) REFERENCES agencies(agency_id)",
        "alter table notes add constraint notes_contact"
        " FOREIGN KEY (agency_id, contact_id) REFERENCES contacts(agency_id, id)",
        "alter table notes force row level security",
    ]


def test_what_fails_half_way_leaves_every_table_fenced_and_local(
    clustered_urls: Urls, owner: sqlalchemy.Connection
) -> None:
    before = snapshot(clustered_urls.owner)
    connection = connect(clustered_urls.superuser)
    with connection, connection.cursor() as cursor:
        cursor.execute("alter table pg_dist_partition add check (place < 9)")
    connection.close()
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        citus.distribute(owner)
    owner.rollback()
    assert snapshot(clustered_urls.owner) == before


@pytest.mark.parametrize("role", ["app", "worker"])
def test_a_service_starts_on_it_only_when_the_binding_reaches_the_shards(
    clustered_urls: Urls, owner: sqlalchemy.Connection, role: str
) -> None:
    complaint = "citus.propagate_set_commands is not local: run migrate --distributed"
    assert complaint in violations(getattr(clustered_urls, role))
    citus.distribute(owner)
    assert violations(getattr(clustered_urls, role)) == []


def violations(url: str) -> list[str]:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = schema_lint.violations(UnboundConnection(Transaction(connection)))
        assert set(role_safety.violations(UnboundConnection(Transaction(connection)))) <= set(found)
    engine.dispose()
    return found


def test_the_command_says_who_brings_what_is_missing(bare_urls: Urls) -> None:
    result = run("migrate", "--distributed", environment={"MIGRATION_DATABASE_URL": bare_urls.owner})
    assert refusal(result).startswith("conversations-api migrate: The database has no Citus: its administrator")
    # The migrations themselves were done; they are the same with and without Citus.
    assert snapshot(bare_urls.owner)["policies"]


def test_the_command_can_be_repeated(clustered_urls: Urls) -> None:
    for _ in range(2):
        result = run("migrate", "--distributed", environment={"MIGRATION_DATABASE_URL": clustered_urls.owner})
        assert result.returncode == 0, result.stderr
    connection = connect(clustered_urls.superuser)
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_dist_partition")
        assert cursor.fetchone() == (len(TENANT_TABLES),)
        with pytest.raises(psycopg2.Error):
            cursor.execute("select create_distributed_table('outbox', 'agency_id', 'nowhere')")
    connection.close()
