"""The live API under fire for a bounded time: no server error, no undocumented answer. `make fuzz` goes on for long."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.conftest import urls_of
from tests.fuzz import raw_requests
from tests.fuzz.campaign import Target, run_schemathesis, target

SECONDS = 45
RAW_REQUESTS = 1500


@pytest.fixture(scope="module")
def live(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Target]:
    postgres.create_database("faro_fuzzed", template=migrated_template)
    with target(urls_of(postgres, "faro_fuzzed")) as running:
        yield running
    postgres.drop_database("faro_fuzzed")


def test_schemathesis_finds_nothing(live: Target, tmp_path: Path) -> None:
    result = run_schemathesis(live, tmp_path, "--max-time", str(SECONDS))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert live.counting.server_errors == 0
    # It got past the front door, and was refused there too.
    assert {status for _, status in live.counting.answers} >= {200, 201, 400, 401, 403, 405, 415}


def test_damaged_requests_get_an_answer_of_ours_or_none(live: Target) -> None:
    outcomes = raw_requests.fire(live, RAW_REQUESTS, seed=random.randrange(10**9))
    assert live.counting.server_errors == 0
    # Most of them are still requests, and some are still good ones.
    assert outcomes["no answer"] < RAW_REQUESTS / 2
    assert outcomes["200"]
    assert outcomes["400"]
