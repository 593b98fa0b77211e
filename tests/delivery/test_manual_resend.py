"""A person has a message sent again of which nobody knew: whatever the carrier has of it, however old, is seen."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from delivery import evidence
from delivery.outcomes import Unknown
from delivery.simulator.server import TwilioSimulator
from persistence import messages, outbox, sends
from persistence.attempts import Job
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency, Urls
from tests.delivery.conftest import AUTH_TOKEN, Office, running, wait_until
from tests.delivery.test_follower import age, have_arrived
from tests.delivery.test_late_evidence import claim, observe, report

LONG_AGO = timedelta(hours=26)
OLD, OLDER, THEIRS = ("SM" + digit * 32 for digit in "123")


def copy_of(sender: str, body: str, sid: str, age: timedelta) -> str:
    """What the carrier accepted so long ago, as a line of its record."""
    entry = {"account_sid": ACCOUNT_SID, "message_sid": sid, "accepted_at": (datetime.now(UTC) - age).isoformat()}
    entry |= {"from": sender, "to": CONTACT_PHONE, "body": body, "messaging_service_sid": None}
    return json.dumps(entry) + "\n"


@pytest.fixture
def office(
    urls: Urls, database: Database, worker_database: Database, agency: Agency, other_agency: Agency, tmp_path: Path
) -> Iterator[Office]:
    """At a carrier that took the first attempts of both agencies the day before, and whose callbacks were lost.

    An hour earlier it had taken the same text from something that is none of ours."""
    record = tmp_path / "record"
    record.write_text(
        copy_of(agency.sms_address, "once", OLDER, LONG_AGO + timedelta(hours=1))
        + copy_of(agency.sms_address, "once", OLD, LONG_AGO)
        + copy_of(other_agency.sms_address, "once", THEIRS, LONG_AGO)
    )
    with TwilioSimulator({ACCOUNT_SID: AUTH_TOKEN}, record_path=record) as simulator:
        yield Office(urls, database, worker_database, simulator)


def give_up(office: Office, job: Job) -> None:
    with tenant_transaction(office.worker_database, job.agency_id) as connection:
        evidence.give_up(connection, message_id=job.message_id, conversation_id=job.conversation_id)


def lose(office: Office, agency: Agency) -> Job:
    """A message whose first attempt the day before came to nothing that anybody knows."""
    job = claim(office, agency, office.queue(agency, office.converse(agency), "once"))
    observe(office, job, Unknown("read_timeout"))
    give_up(office, job)
    owner = Database(office.urls.superuser, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("""
                update attempts
                set started_at = started_at - make_interval(secs => :seconds)
                where agency_id = :agency_id"""),
            seconds=LONG_AGO.total_seconds(),
        )
    owner.close()
    assert office.message(agency, job.message_id)["status"] == "unconfirmed"
    return job


def resend(office: Office, agency: Agency, message_id: UUID) -> None:
    """What POST does when a person asks for it."""
    with tenant_transaction(office.database, agency.id) as connection:
        message = messages.get(connection, message_id=message_id)
        conversation_id = message["conversation_id"]
        sender = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=False)
        assert messages.advance_status(connection, message_id=message_id, status="queued")
        outbox.insert(
            connection,
            message_id=message_id,
            conversation_id=conversation_id,
            channel_id=sender.channel_id,
            sent_at=message["sent_at"] - LONG_AGO,
            again=True,
        )


def test_a_first_copy_of_the_day_before_is_found_and_flagged(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    message_id, theirs = (lose(office, one).message_id for one in (agency, other_agency))
    resend(office, agency, message_id)
    with running(office):
        wait_until(lambda: office.message(agency, message_id)["twilio_sid"] is not None)
    wait_until(lambda: office.message(agency, message_id)["duplicate_detected"], between=office.follower.run_once)
    assert office.message(agency, message_id)["twilio_sid"] == office.simulator.accepted[-1]["message_sid"]
    assert OLD in sids(office, agency, message_id)
    # Nobody had that one sent again.
    assert office.message(other_agency, theirs)["status"] == "unconfirmed"
    assert office.message(other_agency, theirs)["duplicate_detected"] is False


def test_a_second_attempt_that_is_lost_as_well_finds_the_copy_of_the_first(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    message_id, theirs = (lose(office, one).message_id for one in (agency, other_agency))
    resend(office, agency, message_id)
    office.simulator.set_faults({"script": ["error_before_accepting"]})
    with running(office):
        wait_until(lambda: office.state(agency, message_id) == "unknown")
        office.reconcile_until(lambda: office.state(agency, message_id) != "unknown")
    assert office.message(agency, message_id)["twilio_sid"] == OLD
    assert office.message(agency, message_id)["status"] == "delivered"
    assert office.message(agency, message_id)["duplicate_detected"] is False
    assert office.message(other_agency, theirs)["twilio_sid"] is None


def test_a_first_copy_is_looked_for_however_long_nobody_could_ask(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    message_id, theirs = (
        lose(office, agency).message_id,
        office.queue(other_agency, office.converse(other_agency), "once"),
    )
    resend(office, agency, message_id)
    with running(office):
        wait_until(lambda: {office.state(agency, message_id), office.state(other_agency, theirs)} == {"accepted"})
    wait_until(lambda: have_arrived(office.simulator, office))
    # Every worker was away for longer than a second copy is watched for, or Twilio could not be asked.
    for whose, id_ in ((agency, message_id), (other_agency, theirs)):
        age(office, whose, [id_], hours=1.0)
    office.simulator.set_faults({"dice": [{"kind": "listing_error", "probability": 1.0}]})
    office.follower.run_once()
    office.simulator.set_faults({})
    wait_until(lambda: office.state(agency, message_id) is None, between=office.follower.run_once)
    message = office.message(agency, message_id)
    assert (message["status"], message["duplicate_detected"]) == ("delivered", True)
    # Its only attempt is proven: an equal text from the day before is no second one.
    wait_until(lambda: office.state(other_agency, theirs) is None, between=office.follower.run_once)
    assert office.message(other_agency, theirs)["duplicate_detected"] is False


@pytest.mark.parametrize("state", ["queued", "waiting"])
def test_one_that_is_proven_sent_before_its_resend_is_made_is_followed_to_its_end(
    office: Office, agency: Agency, other_agency: Agency, state: str
) -> None:
    job, theirs = lose(office, agency), lose(office, other_agency).message_id
    if state == "waiting":
        claim(office, agency, office.queue(agency, job.conversation_id, "under way"))
    for whose, id_ in ((agency, job.message_id), (other_agency, theirs)):
        resend(office, whose, id_)
    assert office.state(agency, job.message_id) == state
    report(office, job, OLD, "sent", attempt=1)
    assert office.state(agency, job.message_id) == "accepted"
    # That was the last callback.
    wait_until(lambda: office.state(agency, job.message_id) is None, between=office.follower.run_once)
    message = office.message(agency, job.message_id)
    assert (message["status"], message["twilio_sid"], message["duplicate_detected"]) == ("delivered", OLD, False)
    assert office.state(other_agency, theirs) == "queued"
    assert "once" not in {one["body"] for one in office.simulator.accepted[3:]}


def test_one_of_two_lost_attempts_that_is_proven_before_the_next_resend_has_the_other_looked_for(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    job, theirs = lose(office, agency), lose(office, other_agency).message_id
    resend(office, agency, job.message_id)
    office.simulator.set_faults({"script": ["close_after_accepting"]})
    with running(office):
        wait_until(lambda: office.state(agency, job.message_id) == "unknown")
    give_up(office, job)
    resend(office, agency, job.message_id)
    second = office.simulator.accepted[-1]["message_sid"]
    report(office, job, second, "sent", attempt=2)
    wait_until(lambda: office.state(agency, job.message_id) is None, between=office.follower.run_once)
    message = office.message(agency, job.message_id)
    assert (message["status"], message["twilio_sid"], message["duplicate_detected"]) == ("delivered", second, True)
    assert sids(office, agency, job.message_id) == {OLD, second}
    assert office.message(other_agency, theirs)["duplicate_detected"] is False


def sids(office: Office, agency: Agency, message_id: UUID) -> set[str]:
    """Under which SIDs the carrier spoke of the message."""
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        rows = connection.execute(
            text("""
                select twilio_sid
                from provider_events
                where agency_id = :agency_id
                and message_id = :id"""),
            id=message_id,
        )
        return set(rows.scalars())
