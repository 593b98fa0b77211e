"""Statuses that no callback brought: each is asked for in time, however old the message, by few requests."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from sqlalchemy import text

from conversations_api import working
from conversations_api.settings import Settings
from delivery import follower, twilio_gateway
from delivery.simulator.server import TwilioSimulator
from persistence import conversations
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, Agency, Urls
from tests.delivery.conftest import AUTH_TOKEN, Office, running, wait_until


def send(office: Office, agency: Agency, count: int, *, first: int = 0) -> list[UUID]:
    """Messages that the carrier has; nobody hears its callbacks."""
    numbers = range(first, first + count)
    ids = [office.queue(agency, office.converse(agency, f"+1303555{number:04d}"), "Hello") for number in numbers]
    with running(office):
        wait_until(lambda: {office.state(agency, one) for one in ids} == {"accepted"})
    return ids


def age(office: Office, agency: Agency, ids: Sequence[UUID], hours: float) -> None:
    """Let the attempts have been made so long ago, and be due."""
    with tenant_transaction(office.worker_database, agency.id) as connection:
        connection.execute(
            text("""
                update outbox
                set attempted_at = clock_timestamp() - make_interval(secs => :seconds),
                    available_at = clock_timestamp()
                where agency_id = :agency_id
                and message_id = any(:ids)"""),
            seconds=hours * 3600,
            ids=list(ids),
        )


def statuses(office: Office, agency: Agency, ids: Sequence[UUID]) -> set[str]:
    return {office.message(agency, one)["status"] for one in ids}


def have_arrived(simulator: TwilioSimulator, office: Office) -> bool:
    """Whether the carrier itself says so of every message."""
    account = twilio_gateway.TwilioAccount(ACCOUNT_SID, AUTH_TOKEN)
    return {one.status for one in office.gateway.list_messages(account)} == {"delivered"}


def asked(office: Office, before: int) -> list[str]:
    """The paths that were asked for since."""
    return [one.path for one in office.simulator.requests[before:]]


def test_a_sent_message_without_callbacks_is_followed_until_it_is_delivered(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    (mine,) = send(office, agency, 1)
    theirs = office.queue(other_agency, office.converse(other_agency), "Hello")
    wait_until(lambda: statuses(office, agency, [mine]) == {"delivered"}, between=office.follower.run_once)
    assert office.state(agency, mine) is None
    assert office.message(other_agency, theirs)["status"] == "queued"


@pytest.mark.parametrize("hours", [1.0, 60.0, 71.0])
def test_one_round_after_an_outage_every_status_of_three_days_is_right_by_one_request(
    office: Office, agency: Agency, other_agency: Agency, hours: float
) -> None:
    mine, theirs = send(office, agency, follower.FEW + 5), send(office, other_agency, 5)
    age(office, agency, mine, hours)
    age(office, other_agency, theirs, hours)
    wait_until(lambda: have_arrived(office.simulator, office))
    before = len(office.simulator.requests)
    office.new_follower(poll_seconds=180.0).run_once()
    assert statuses(office, agency, mine) == statuses(office, other_agency, theirs) == {"delivered"}
    assert {office.state(agency, one) for one in mine} == {None}
    assert asked(office, before) == [f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"]


def test_old_messages_that_lie_many_pages_back_are_fetched_instead(
    office: Office, agency: Agency, other_agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "FEW", 1)
    monkeypatch.setattr(twilio_gateway, "LARGEST_PAGE", 2)
    old = send(office, agency, 3)
    newer = send(office, other_agency, 20)
    wait_until(lambda: have_arrived(office.simulator, office))
    age(office, agency, old, 60.0)
    before = len(office.simulator.requests)
    office.new_follower(poll_seconds=180.0).run_once()
    assert statuses(office, agency, old) == {"delivered"}
    assert len(asked(office, before)) <= 2 * len(old)
    # Those are young, and not due yet.
    assert statuses(office, other_agency, newer) == {"sending"}


def test_what_could_not_be_written_down_is_asked_again_soon(office: Office, agency: Agency) -> None:
    (mine,) = send(office, agency, 1)
    age(office, agency, [mine], 3.0)
    wait_until(lambda: have_arrived(office.simulator, office))
    patient = office.new_follower(poll_seconds=180.0)
    with tenant_transaction(office.database, agency.id) as holder:
        holder.execute(conversations.LOCK, conversation_id=office.message(agency, mine)["conversation_id"])
        patient.run_once()
        assert statuses(office, agency, [mine]) == {"sending"}
    wait_until(lambda: statuses(office, agency, [mine]) == {"delivered"}, between=patient.run_once)


def test_what_the_carrier_does_not_answer_is_asked_again_soon(office: Office, agency: Agency) -> None:
    ids = send(office, agency, follower.FEW + 2)
    age(office, agency, ids, 3.0)
    wait_until(lambda: have_arrived(office.simulator, office))
    office.simulator.set_faults({"dice": [{"kind": "listing_error", "probability": 1.0}]})
    patient = office.new_follower(poll_seconds=180.0)
    patient.run_once()
    assert statuses(office, agency, ids) == {"sending"}
    # One request that failed, and not one more for each message.
    assert office.simulator.faults_struck == {"listing_error": 1}
    office.simulator.set_faults({})
    wait_until(lambda: statuses(office, agency, ids) == {"delivered"}, between=patient.run_once)


@pytest.fixture
def unconfirming(urls: Urls, database: Database, worker_database: Database) -> Iterator[Office]:
    """At a carrier that takes everything and says nothing of it any more."""
    with TwilioSimulator({ACCOUNT_SID: AUTH_TOKEN}, status_delay_seconds=3600.0) as simulator:
        yield Office(urls, database, worker_database, simulator)


def test_a_message_without_news_is_not_asked_about_again_before_its_time(unconfirming: Office, agency: Agency) -> None:
    age(unconfirming, agency, send(unconfirming, agency, 2), 3.0)
    before = len(unconfirming.simulator.requests)
    patient = unconfirming.new_follower(poll_seconds=180.0)
    patient.run_once()
    patient.run_once()
    assert len(asked(unconfirming, before)) == 2


def test_after_three_days_the_last_status_stands_and_is_never_made_a_failure(
    unconfirming: Office, agency: Agency, other_agency: Agency
) -> None:
    (mine,), (theirs,) = send(unconfirming, agency, 1), send(unconfirming, other_agency, 1)
    age(unconfirming, agency, [mine], 73.0)
    age(unconfirming, other_agency, [theirs], 71.0)
    unconfirming.new_follower(poll_seconds=180.0).run_once()
    assert unconfirming.state(agency, mine) is None
    assert unconfirming.message(agency, mine)["status"] == "sending"
    assert unconfirming.state(other_agency, theirs) == "accepted"


def test_a_message_that_the_carrier_does_not_know_is_asked_about_in_its_time_and_for_three_days(
    unconfirming: Office, agency: Agency, other_agency: Agency
) -> None:
    (mine,), (theirs,) = send(unconfirming, agency, 1), send(unconfirming, other_agency, 1)
    for whose, one, sid in ((agency, mine, "SM" + "e" * 32), (other_agency, theirs, "SM" + "f" * 32)):
        with tenant_transaction(unconfirming.worker_database, whose.id) as connection:
            connection.execute(
                text("update messages set twilio_sid = :sid where agency_id = :agency_id and id = :id"), sid=sid, id=one
            )
    age(unconfirming, agency, [mine], 73.0)
    age(unconfirming, other_agency, [theirs], 71.0)
    before = len(unconfirming.simulator.requests)
    patient = unconfirming.new_follower(poll_seconds=180.0, retry_seconds=0.0)
    patient.run_once()
    patient.run_once()
    assert len(asked(unconfirming, before)) == 2
    assert (unconfirming.state(agency, mine), unconfirming.state(other_agency, theirs)) == (None, "accepted")


def test_by_default_every_message_is_asked_about_within_five_minutes_with_time_left_for_the_round() -> None:
    poll_seconds = Settings().status_poll_seconds
    between_rounds = min(poll_seconds / 8, working.LONGEST_SECONDS_BETWEEN_ROUNDS)
    assert poll_seconds + between_rounds <= 300 - 90
