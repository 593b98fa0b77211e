"""The breaker: a row of failures stops the calls of one account, one probe at a time opens them again."""

import pytest

from delivery import breaker
from delivery.breaker import FAILURES_IN_A_ROW, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from tests.agencies import Agency
from tests.delivery.conftest import Office, running, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    one = Breaker(clock)
    for _ in range(FAILURES_IN_A_ROW):
        assert one.pause_seconds("AC1") == 0.0
        one.failed("AC1")
    return one


def test_single_failures_between_successes_pause_nothing() -> None:
    one = Breaker(Clock())
    for _ in range(100):
        for _ in range(FAILURES_IN_A_ROW - 1):
            one.failed("AC1")
        one.succeeded("AC1")
        assert one.pause_seconds("AC1") == 0.0


def test_a_row_of_failures_pauses_that_account_and_no_other() -> None:
    one = opened(Clock())
    assert one.pause_seconds("AC1") == FIRST_PAUSE_SECONDS
    assert one.pause_seconds("AC2") == 0.0


def test_after_a_pause_one_call_goes_through_and_the_others_wait_for_what_it_finds() -> None:
    clock = Clock()
    one = opened(clock)
    clock.now += FIRST_PAUSE_SECONDS
    assert one.pause_seconds("AC1") == 0.0
    assert one.pause_seconds("AC1") > 0.0
    one.succeeded("AC1")
    assert [one.pause_seconds("AC1") for _ in range(20)] == [0.0] * 20


def test_a_probe_that_never_ends_is_followed_by_another() -> None:
    clock = Clock()
    one = opened(clock)
    clock.now += FIRST_PAUSE_SECONDS
    assert one.pause_seconds("AC1") == 0.0
    clock.now += LONGEST_PAUSE_SECONDS
    assert one.pause_seconds("AC1") == 0.0


def test_the_pauses_grow_to_a_limit() -> None:
    clock = Clock()
    one = opened(clock)
    pauses = []
    for _ in range(8):
        clock.now += one.pause_seconds("AC1")
        assert one.pause_seconds("AC1") == 0.0
        one.failed("AC1")
        pauses.append(one.pause_seconds("AC1"))
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_an_outage_of_the_carrier_does_not_burn_the_queue(
    office: Office, agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.5)
    office.simulator.set_faults({"dice": [{"kind": "error_before_accepting", "probability": 1.0}]})
    ids = [office.queue(agency, office.converse(agency, f"+1202555{number:04d}"), "later") for number in range(60)]

    def burned() -> int:
        return sum(office.state(agency, one) == "unknown" for one in ids)

    with running(office):
        wait_until(lambda: office.simulator.faults_struck.get("error_before_accepting", 0) >= FAILURES_IN_A_ROW)
        wait_until(lambda: all(office.state(agency, one) in ("queued", "unknown") for one in ids))
        # Those that were under way when the row was long enough, some probes, and no more.
        assert burned() <= FAILURES_IN_A_ROW + 8 + 4
        office.simulator.set_faults({})
        wait_until(lambda: len(office.simulator.accepted) + burned() == len(ids))
    assert len(office.simulator.accepted) > len(ids) / 2
