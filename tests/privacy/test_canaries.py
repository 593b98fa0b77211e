"""Nothing that anybody wrote, no phone number and no secret reaches a log, a metric, a file or an error."""

import json

import pytest

from benchmarks import pgbouncer
from tenancy import transaction
from tests.privacy.scenario import Exposure

KINDS = [
    "what was written",
    "a phone number",
    "a bad token",
    "the claims of a token",
    "a secrets key",
    "a Twilio token",
    "another Twilio token",
    "a password of the database",
    "a password of the worker",
]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_finds(exposure: Exposure, kind: str) -> None:
    assert set(KINDS) == set(exposure.canaries)
    canary = exposure.canaries[kind]
    assert len(canary) > 8
    found = [name for name, text in exposure.sources() if canary in text]
    assert found == []


def test_the_canaries_were_really_there(exposure: Exposure) -> None:
    agency = exposure.stack.agencies[0]
    shown = json.dumps(list(exposure.stack.conversations(agency)))
    assert exposure.text in shown
    assert exposure.phone in shown
    assert {200, 201, 400, 401, 404, 405, 413, 415, 431, 500, 503} <= set(exposure.statuses)


def test_the_places_that_were_searched_speak_of_what_happened(exposure: Exposure) -> None:
    sources = dict(exposure.sources())
    serve, worker, postgres = sources["serve.log"], sources["worker.log"], sources["postgres.log"]
    assert '"operation":"sendMessage"' in serve
    assert '"event":"request failed"' in serve
    assert '"sqlstate":"23514"' in serve  # the constraint, by its number
    assert '"event"' in worker
    assert "terminating connection due to administrator command" in postgres
    assert "faro_http" in "".join(text for name, text in sources.items() if name.startswith("metrics"))


@pytest.mark.skipif(pgbouncer.PROGRAM is None, reason="pgbouncer is not installed (apt install pgbouncer)")
def test_the_poolers_log_was_searched_too_and_speaks_of_what_happened(exposure: Exposure) -> None:
    log = dict(exposure.sources())["pgbouncer.log"]
    assert "terminating connection due to administrator command" in log or "server conn crashed" in log


def test_postgresql_has_written_no_temporary_file(exposure: Exposure) -> None:
    urls = exposure.stack.urls
    assert temporary_files(urls.superuser) == 0
    with transaction.session(urls.superuser) as connection, connection.cursor() as cursor:
        # What does not fit into the memory of a statement is one.
        cursor.execute("set work_mem = '64kB'")
        cursor.execute("select count(*) from (select number from generate_series(1, 100000) as number order by 1) all_")
        cursor.execute("select pg_stat_force_next_flush()")
    assert temporary_files(urls.superuser) > 0


def temporary_files(url: str) -> int:
    """How many the sessions of this database have written; each says so at the end of a transaction, if at all."""
    with transaction.session(url) as connection, connection.cursor() as cursor:
        cursor.execute("select temp_files from pg_stat_database where datname = current_database()")
        (count,) = cursor.fetchone() or (0,)
        return int(count)
