"""GET /healthz and /readyz: the one says that the process lives, the other whether it can serve, and what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from conversations_api.embedded_postgres import EmbeddedPostgres
from persistence import workers
from tenancy.transaction import Database, unbound_transaction
from tests.agencies import Urls
from tests.api_client import BASE_PATH, Api
from tests.conftest import urls_of
from tests.serving import served

HEALTH, READINESS = f"{BASE_PATH}/healthz", f"{BASE_PATH}/readyz"
NOWHERE = "postgresql+psycopg2://faro_app:x@127.0.0.1:9/faro"


@contextmanager
def new_database(postgres: EmbeddedPostgres, name: str) -> Iterator[Urls]:
    postgres.create_database(name)
    yield urls_of(postgres, name)
    postgres.drop_database(name)


def failures(api: Api) -> list[str]:
    """The checks that /readyz names; health must not depend on any."""
    assert api.ask("GET", HEALTH).json == {"status": "ok"}
    answer = api.ask("GET", READINESS)
    assert answer.refusal == (503, "not_ready")
    return list(answer.errors)


@pytest.mark.parametrize("path", [HEALTH, READINESS])
def test_nobody_needs_a_token(api: Api, path: str) -> None:
    for headers in ([], [("Authorization", "Bearer rubbish")]):
        assert api.ask("GET", path, headers=headers).status == 200
        assert api.ask("HEAD", path, headers=headers).status == 200


@pytest.mark.parametrize("path", [HEALTH, READINESS])
def test_a_probe_takes_no_parameter_and_no_other_method(api: Api, path: str) -> None:
    answer = api.ask("GET", path + "?verbose=1")
    assert (answer.refusal, answer.errors) == (
        (400, "invalid_request"),
        {"verbose": "is not a parameter of this operation"},
    )
    assert api.ask("POST", path).headers["allow"] == "GET, HEAD"


def test_the_age_of_the_latest_heartbeat_is_told_and_no_reason_to_fail(urls: Urls) -> None:
    with served(urls) as api:
        checks = {"database": "ok", "migrations": "ok", "role": "ok"}
        before = api.ask("GET", READINESS)
        assert before.json == {"status": "ready", "checks": {**checks, "worker_heartbeat_age_seconds": None}}
        database = Database(urls.worker, pool_size=1)
        with unbound_transaction(database) as connection:
            workers.beat(connection, worker_key=1)
        database.close()
        age = api.ask("GET", READINESS).json["checks"]["worker_heartbeat_age_seconds"]
        assert 0 <= age < 60


def test_a_database_that_was_never_migrated_is_not_ready(postgres: EmbeddedPostgres) -> None:
    with new_database(postgres, "faro_unmigrated") as urls, served(urls) as api:
        assert failures(api) == ["migrations"]


def put_at_revision(urls: Urls, revision: str) -> None:
    database = Database(urls.owner, pool_size=1)
    with unbound_transaction(database) as connection:
        connection.execute(text("update alembic_version set version_num = :revision"), revision=revision)
    database.close()


def test_a_database_of_an_earlier_release_is_not_ready(urls: Urls) -> None:
    with served(urls) as api:
        put_at_revision(urls, "0000")
        assert failures(api) == ["migrations"]


def test_a_database_of_a_later_release_is_ready(urls: Urls) -> None:
    with served(urls) as api:
        put_at_revision(urls, "9999")
        assert api.ask("GET", READINESS).status == 200


@pytest.mark.parametrize("role", ["superuser", "owner"])
def test_a_role_that_row_level_security_does_not_bind_is_not_ready(urls: Urls, role: str) -> None:
    with served(replace(urls, app=getattr(urls, role))) as api:
        assert failures(api) == ["role"]


def test_a_database_that_does_not_answer_is_not_ready(urls: Urls) -> None:
    with served(replace(urls, app=NOWHERE)) as api:
        assert failures(api) == ["database"]
        assert int(api.ask("GET", READINESS).headers["retry-after"]) >= 1
