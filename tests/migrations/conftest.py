"""Both ends of the range of servers that a release must work on."""

import itertools
from collections.abc import Iterator

import pytest

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.agencies import Urls
from tests.migrations.debian_postgres import BINARIES, DebianPostgres

Server = EmbeddedPostgres | DebianPostgres
_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def postgres_15() -> Iterator[DebianPostgres]:
    if not BINARIES.is_dir():
        pytest.skip("PostgreSQL 15 is not installed (apt install postgresql-15)")
    with DebianPostgres() as server:
        yield server


@pytest.fixture(params=["15", "18"])
def server(request: pytest.FixtureRequest) -> Server:
    """The oldest supported server, and the embedded one, which is the newest."""
    found: Server = request.getfixturevalue("postgres_15" if request.param == "15" else "postgres")
    return found


@pytest.fixture
def bare_urls(server: Server) -> Iterator[Urls]:
    """A database of this test's own with the roles and nothing else, as `roles.sql` leaves it."""
    name = f"faro_bare_{next(_numbers)}"
    server.create_database(name)
    yield Urls(
        app=server.url("faro_app", name),
        worker=server.url("faro_worker", name),
        owner=server.url("faro_owner", name),
        superuser=server.url("postgres", name),
    )
    server.drop_database(name)


@pytest.fixture
def migrated_urls(bare_urls: Urls) -> Urls:
    """The same, migrated."""
    migrating.migrate(bare_urls.owner)
    return bare_urls
