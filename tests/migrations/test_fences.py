"""The oldest server keeps agencies apart as the newest does, where tests/tenancy/rls looks closer."""

from contextlib import closing

from conversations_api import migrating
from tests.agencies import Urls
from tests.migrations.debian_postgres import DebianPostgres
from tests.tenancy.rls.probes import CASES, check_case
from tests.tenancy.rls.world import Logins, connect, store


def test_every_command_under_every_binding_on_the_oldest_server(postgres_15: DebianPostgres) -> None:
    postgres_15.create_database("faro_fences")
    urls = Urls(
        *(postgres_15.url(role, "faro_fences") for role in ("faro_app", "faro_worker", "faro_owner", "postgres"))
    )
    migrating.migrate(urls.owner)
    connection = connect(urls.superuser)
    with connection, connection.cursor() as cursor:
        store(cursor)
    connection.close()
    with closing(Logins(urls)) as logins:
        for case in CASES:
            check_case(logins, case)
    postgres_15.drop_database("faro_fences")
