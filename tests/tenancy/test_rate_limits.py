"""How much is counted, by each for itself and by several together in a real Redis; skipped where there is none.

Whole processes that count together are asked in tests/end_to_end/test_limits_of_several_processes.py.
"""

import time
from pathlib import Path
from uuid import uuid4

import pytest

from conversations_api.addresses import free_port
from tenancy import rate_limits
from tenancy.rate_limits import RateLimits, Usage
from tests.redis_server import redis_on

AGENCY, OTHER = uuid4(), uuid4()


def spend(limits: RateLimits, times: int, *, sending: bool = False) -> list[Usage]:
    return [limits.spend(AGENCY, sending=sending) for _ in range(times)]


def test_two_that_share_a_redis_count_together(tmp_path: Path) -> None:
    with redis_on(free_port(), tmp_path) as url:
        one, two = (RateLimits(requests_per_minute=5, sends_per_minute=3, storage_url=url) for _ in range(2))
        usages = [limits.spend(AGENCY, sending=False) for limits in (one, two, one, two, one, two)]
        assert [usage.retry_after is None for usage in usages] == [True] * 5 + [False]
        assert [usage.quotas[0].remaining for usage in usages] == [4, 3, 2, 1, 0, 0]
        assert 1 <= (usages[-1].retry_after or 0) <= 60
        assert one.spend(OTHER, sending=False).retry_after is None


def test_while_redis_is_away_nobody_is_limited_and_when_it_is_back_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "PAUSE_SECONDS", 0.0)
    port = free_port()
    limits = RateLimits(requests_per_minute=1, sends_per_minute=0, storage_url=f"redis://127.0.0.1:{port}")
    assert spend(limits, 3) == [Usage()] * 3
    with redis_on(port, tmp_path):
        assert [usage.retry_after is None for usage in spend(limits, 2)] == [True, False]
    assert spend(limits, 3) == [Usage()] * 3


def test_what_exceeds_the_requests_takes_nothing_from_the_sends() -> None:
    limits = RateLimits(requests_per_minute=2, sends_per_minute=9)
    usages = spend(limits, 4, sending=True)
    assert [usage.retry_after is None for usage in usages] == [True, True, False, False]
    assert [usage.quotas[1].remaining for usage in usages] == [8, 7, 7, 7]


def test_who_has_used_up_the_requests_is_known_until_the_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    limits = RateLimits(requests_per_minute=1, sends_per_minute=0, clock=lambda: now)
    assert limits.known_to_exceed(AGENCY) is None
    assert limits.spend(AGENCY, sending=False).retry_after is None
    assert limits.known_to_exceed(AGENCY) is None  # nobody has been refused yet
    refused = limits.spend(AGENCY, sending=False)
    now += 20
    known = limits.known_to_exceed(AGENCY)
    assert known is not None
    assert (known.quotas[0].remaining, known.retry_after) == (0, (refused.retry_after or 0) - 20)
    assert limits.known_to_exceed(OTHER) is None
    now += 41
    assert limits.known_to_exceed(AGENCY) is None


def test_who_has_used_up_only_the_sends_may_ask() -> None:
    limits = RateLimits(requests_per_minute=9, sends_per_minute=1)
    assert spend(limits, 2, sending=True)[-1].retry_after is not None
    assert limits.known_to_exceed(AGENCY) is None


def test_a_limit_of_zero_is_none() -> None:
    assert spend(RateLimits(requests_per_minute=0, sends_per_minute=0), 3, sending=True) == [Usage()] * 3
    only_sends = spend(RateLimits(requests_per_minute=0, sends_per_minute=1), 2, sending=True)
    assert [[quota.name for quota in usage.quotas] for usage in only_sends] == [["sending"], ["sending"]]
    assert [usage.retry_after is None for usage in only_sends] == [True, False]


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    limits = RateLimits(requests_per_minute=1, sends_per_minute=0, clock=lambda: now)
    first, second = spend(limits, 2)
    assert (first.retry_after, second.retry_after) == (None, 60)
    now += 61
    assert limits.spend(AGENCY, sending=False).retry_after is None


@pytest.mark.parametrize("url", ["", "memcached://localhost", "http://redis", "memory://", "postgresql://u:secret@h/d"])
def test_only_redis_counts_for_several(url: str) -> None:
    with pytest.raises(ValueError, match="must be a redis") as refused:
        rate_limits.check_storage_url(url)
    assert "secret" not in str(refused.value)
