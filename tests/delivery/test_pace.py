"""An account that the carrier finds too fast is called less often at once, alone, and no longer than it has to be."""

import itertools
from uuid import UUID

import pytest

from delivery import claiming
from delivery import pace as pace_module
from delivery.claiming import Claimer
from delivery.pace import Pace
from delivery.session import Session
from delivery.worker import Sending, Worker
from tenancy import transaction
from tests.agencies import Agency, Urls
from tests.delivery.conftest import NOWHERE, Office, running_worker, wait_until

MOST = 16
QUIET = "AC" + "9" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_refusal_halves_the_calls_of_that_account_and_of_no_other() -> None:
    pace = Pace(MOST, Clock())
    begins, calls = [], []
    for _ in range(5):
        begins.append(pace.refused("AC1", begun_at=pace.now()))
        calls += pace.slowed().values()
    assert begins == [True, False, False, False, False]
    assert calls == [8, 4, 2, 1, 1]
    assert pace.is_slowest("AC1")
    assert not pace.is_slowest("AC2")


def test_the_refusals_of_one_round_halve_it_once() -> None:
    pace = Pace(MOST, Clock())
    round_ = [pace.now() for _ in range(MOST)]
    for begun_at in round_:
        pace.refused("AC1", begun_at=begun_at)
    assert pace.slowed() == {"AC1": 8}


def test_rounds_that_are_processed_add_one_call_at_a_time_until_nothing_holds_it_back() -> None:
    pace = Pace(MOST, Clock())
    pace.refused("AC1", begun_at=pace.now())
    sizes = []
    while pace.slowed():
        sizes.append(pace.slowed()["AC1"])
        for _ in range(sizes[-1]):
            pace.processed("AC1")
    assert sizes[0] == 8
    assert all(later - earlier in (0, 1) for earlier, later in itertools.pairwise(sizes))
    assert sizes[-1] == MOST - 1
    assert len(sizes) < 8 / pace_module.CALLS_MORE_PER_ROUND + MOST


def test_what_is_processed_at_full_speed_changes_nothing() -> None:
    pace = Pace(MOST, Clock())
    for _ in range(100):
        pace.processed("AC1")
    assert pace.slowed() == {}


def new_worker(office: Office) -> Worker:
    sending = Sending(NOWHERE, concurrency=MOST, validity_seconds=3600, first_look_seconds=0.0)
    return office.new_worker(sending=sending)


@pytest.mark.parametrize("most", [1, 3])
def test_a_burst_of_refusals_loses_nothing_doubles_nothing_and_lowers_what_is_under_way(
    office: Office, agency: Agency, other_agency: Agency, most: int
) -> None:
    office.simulator.set_faults({"latency_ms": 100, "most_creates": most})
    mine = [office.queue(agency, office.converse(agency, f"+1202555{n:04d}"), f"mine {n}") for n in range(24)]
    theirs = [office.queue(other_agency, office.converse(other_agency, f"+1202555{n:04d}"), "theirs") for n in range(4)]

    def settled(which: Agency, ids: list[UUID]) -> bool:
        return all(office.state(which, one) == "accepted" for one in ids)

    with running_worker(new_worker(office)):
        wait_until(lambda: settled(agency, mine) and settled(other_agency, theirs))
    bodies = sorted(one["body"] for one in office.simulator.accepted)
    assert bodies == sorted([f"mine {n}" for n in range(24)] + ["theirs"] * 4)
    # Sixteen at a time all along would have been refused some fifteen times for each that was accepted.
    assert office.simulator.faults_struck["too_many_at_once"] <= 2 * 28


def test_an_account_without_room_is_passed_over_and_its_queue_kept_in_order(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    office.simulator.set_faults({"latency_ms": 300, "most_creates": 1})
    conversation_id = office.converse(agency)
    ids = [office.queue(agency, conversation_id, f"{number}") for number in range(4)]
    others = [
        office.queue(other_agency, office.converse(other_agency, f"+1202555{number:04d}"), "theirs")
        for number in range(8)
    ]
    with running_worker(new_worker(office)):
        wait_until(lambda: all(office.state(other_agency, one) == "accepted" for one in others))
        wait_until(lambda: all(office.state(agency, one) == "accepted" for one in ids))
    sent = [one["body"] for one in office.simulator.accepted if one["body"] != "theirs"]
    assert sent == ["0", "1", "2", "3"]


def test_a_slowed_account_that_has_nothing_to_send_slows_no_other(urls: Urls, office: Office, agency: Agency) -> None:
    for number in range(30):
        office.queue(agency, office.converse(agency, f"+1202555{number:04d}"), "Hello")
    pace = Pace(32, Clock())
    while not pace.is_slowest(QUIET):
        pace.refused(QUIET, begun_at=pace.now())
    sending = Sending(NOWHERE, concurrency=32, validity_seconds=3600, first_look_seconds=0.0)
    claimer = Claimer(database=office.worker_database, credentials=office.credentials, sending=sending, pace=pace)
    with transaction.session(urls.worker) as connection:
        claimed = claimer.claim(Session(connection), {}, set())
    assert len(claimed) == claiming.PER_AGENCY
