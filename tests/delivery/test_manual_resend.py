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
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency, Urls
from tests.delivery.conftest import AUTH_TOKEN, Office, running, wait_until
from tests.delivery.test_follower import age, have_arrived
from tests.delivery.test_late_evidence import claim, observe

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


def give_up(office: Office, agency: Agency) -> UUID:
    """A message whose first attempt the day before came to nothing that anybody knows."""
    message_id = office.queue(agency, office.converse(agency), "once")
    job = claim(office, agency, message_id)
    observe(office, job, Unknown("read_timeout"))
    with tenant_transaction(office.worker_database, agency.id) as connection:
        evidence.give_up(connection, message_id=message_id, conversation_id=job.conversation_id)
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
    assert office.message(agency, message_id)["status"] == "unconfirmed"
    return message_id


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
            sent_at=message["sent_at"],
            again=True,
        )


def test_a_first_copy_of_the_day_before_is_found_and_flagged(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    message_id, theirs = give_up(office, agency), give_up(office, other_agency)
    resend(office, agency, message_id)
    with running(office):
        wait_until(lambda: office.message(agency, message_id)["twilio_sid"] is not None)
    wait_until(lambda: office.message(agency, message_id)["duplicate_detected"], between=office.follower.run_once)
    assert office.message(agency, message_id)["twilio_sid"] == office.simulator.accepted[-1]["message_sid"]
    assert sids(office, agency, message_id) == {OLD, office.simulator.accepted[-1]["message_sid"]}
    # Nobody had that one sent again.
    assert office.message(other_agency, theirs)["status"] == "unconfirmed"
    assert office.message(other_agency, theirs)["duplicate_detected"] is False


def test_a_second_attempt_that_is_lost_as_well_finds_the_copy_of_the_first(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    message_id, theirs = give_up(office, agency), give_up(office, other_agency)
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
    message_id, theirs = give_up(office, agency), office.queue(other_agency, office.converse(other_agency), "once")
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
