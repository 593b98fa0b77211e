"""Migrations go up and come down again without a trace, and make one and the same schema on every server."""

from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from alembic.script import ScriptDirectory

from conversations_api import migrating, wiring
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.wiring import UnsafeDatabase
from persistence import schema
from tests.agencies import Urls
from tests.handlers.test_webhook_races import await_waiting
from tests.migrations.catalogue import snapshot
from tests.migrations.debian_postgres import DebianPostgres
from tests.reliability.test_database_faults import cursor_of

REVISIONS = [script.revision for script in ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions()][::-1]
# Alembic's own, which stays with its rows gone.
ALEMBIC = "alembic_version"


def without_alembic(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {part: [line for line in lines if ALEMBIC not in line] for part, lines in found.items()}


def test_down_leaves_nothing_behind(bare_urls: Urls) -> None:
    before = snapshot(bare_urls.owner)
    assert before["relations"] == []
    migrating.migrate(bare_urls.owner)
    migrating.downgrade(bare_urls.owner, "base")
    assert without_alembic(snapshot(bare_urls.owner)) == before


def test_up_after_down_makes_the_same_schema(migrated_urls: Urls) -> None:
    first = snapshot(migrated_urls.owner)
    migrating.downgrade(migrated_urls.owner, "base")
    migrating.migrate(migrated_urls.owner)
    assert snapshot(migrated_urls.owner) == first


def test_every_revision_comes_down_to_the_one_before(bare_urls: Urls) -> None:
    found = {}
    for revision in REVISIONS:
        migrating.migrate(bare_urls.owner, revision)
        found[revision] = snapshot(bare_urls.owner)
    for revision, before in zip(REVISIONS[:0:-1], REVISIONS[-2::-1], strict=True):
        assert found[revision] != found[before]
        migrating.downgrade(bare_urls.owner, before)
        assert snapshot(bare_urls.owner) == found[before]


def test_migrating_again_changes_nothing(migrated_urls: Urls) -> None:
    first = snapshot(migrated_urls.owner)
    migrating.migrate(migrated_urls.owner)
    assert snapshot(migrated_urls.owner) == first


@pytest.mark.parametrize("begun_with", ["contacts", "conversations", "agencies"])
def test_a_request_that_has_begun_can_end_while_a_revision_waits_for_it(bare_urls: Urls, begun_with: str) -> None:
    """Sends and webhooks come to their messages last; a revision that had these first would be what they wait for."""
    migrating.migrate(bare_urls.owner, "0001")
    with cursor_of(bare_urls.superuser) as session, cursor_of(bare_urls.app) as request, ThreadPoolExecutor(1) as pool:
        request.execute(f"select from {begun_with}")  # its lock is held until the transaction ends
        revision = pool.submit(migrating.migrate, bare_urls.owner)
        await_waiting(session, 1)
        request.execute("set local lock_timeout = '20ms'; select from messages, attempts, idempotency_keys")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            revision.result()
    migrating.migrate(bare_urls.owner)


def test_the_services_start_on_what_migrations_make(migrated_urls: Urls) -> None:
    wiring.check_database(migrated_urls.app)
    wiring.check_database(migrated_urls.worker)


def test_the_services_ask_for_migrations_where_there_are_none(bare_urls: Urls) -> None:
    with pytest.raises(UnsafeDatabase, match=r"the schema is at revision none, this release needs \w+: run migrate"):
        wiring.check_database(bare_urls.app)


def test_the_schema_is_the_same_on_the_oldest_and_the_newest_server(
    postgres: EmbeddedPostgres, postgres_15: DebianPostgres
) -> None:
    found = []
    for server in (postgres, postgres_15):
        server.create_database("faro_alike")
        try:
            migrating.migrate(server.url("faro_owner", "faro_alike"))
            found.append(snapshot(server.url("faro_owner", "faro_alike")))
        finally:
            server.drop_database("faro_alike")
    assert found[0] == found[1]
    assert len(found[0]["policies"]) > 14
