"""A number may stand in the pool of a messaging service that another channel sends by: each keeps its own messages."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from delivery.outcomes import Accepted, Unknown
from delivery.simulator.rules import assigned_sender
from delivery.simulator.server import TwilioSimulator
from delivery.twilio_gateway import OutboundMessage
from persistence import arrivals, messages
from persistence.attempts import Job
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency, Urls
from tests.delivery.conftest import AUTH_TOKEN, NOWHERE, Office, wait_until
from tests.delivery.test_late_evidence import claim, observe

SERVICE = "MG" + "a" * 32
POOLED = assigned_sender(SERVICE, CONTACT_PHONE)
TEXT = "Your table is ready"


def add_service(office: Office, agency: Agency, *, routed: bool) -> UUID:
    """A channel that sends by the messaging service."""
    values = {"id": uuid_utils.uuid7(), "service": SERVICE, "account_sid": ACCOUNT_SID}
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("""
                insert into channels (agency_id, id, location_id, kind, address, account_sid)
                values (:agency_id, :id, :location_id, 'sms', :service, :account_sid)"""),
            location_id=agency.location_id,
            **values,
        )
        if routed:
            connection.execute(
                text("""
                    insert into number_routing (account_sid, address, agency_id, channel_id)
                    values (:account_sid, :service, :agency_id, :id)"""),
                **values,
            )
    owner.close()
    return UUID(str(values["id"]))


def pool(office: Office, agency: Agency) -> None:
    """Let the agency's SMS number be the one that the service sends from."""
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("update channels set address = :address where agency_id = :agency_id and id = :id"),
            address=POOLED,
            id=agency.sms_id,
        )
    owner.close()


def send_by(office: Office, agency: Agency, channel_id: UUID) -> tuple[Job, Accepted]:
    """A message by that channel to the same contact, which the carrier has: its outcome is still to be written down."""
    sid = f"SM{uuid_utils.uuid4().hex}"
    with tenant_transaction(office.database, agency.id) as connection:
        conversation_id, sent_at = arrivals.receive(
            connection, channel_id=channel_id, phone=CONTACT_PHONE, name=None, twilio_sid=sid
        )
        messages.insert(
            connection,
            conversation_id=conversation_id,
            direction="inbound",
            status="received",
            sent_at=sent_at,
            content="Hello",
            twilio_sid=sid,
        )
    job = claim(office, agency, office.queue(agency, conversation_id, TEXT))
    asked = OutboundMessage(
        sender=job.sender,
        recipient=job.recipient,
        channel="sms",
        content=job.content,
        status_callback_url=NOWHERE,
        validity_period_seconds=3600,
    )
    outcome = office.gateway.create_message(office.account, asked)
    assert isinstance(outcome, Accepted)
    return job, outcome


def lose(office: Office, agency: Agency) -> UUID:
    """A message by the agency's number that nobody ever got."""
    job = claim(office, agency, office.queue(agency, office.converse(agency), TEXT))
    observe(office, job, Unknown("worker_ended"))
    return job.message_id


def look(office: Office, times: int = 4) -> None:
    """Ask the carrier for its list so often: twice is enough for proof of absence."""
    wait_until(lambda: POOLED in {one.from_ for one in office.gateway.list_messages(office.account, to=CONTACT_PHONE)})

    def listings() -> int:
        return sum(request.path.endswith("/Messages.json") for request in office.simulator.requests)

    before = listings()
    office.reconcile_until(lambda: listings() >= before + times)


@pytest.mark.parametrize("routed", [True, False])
def test_a_message_by_the_service_is_not_taken_for_the_numbers_own(
    office: Office, agency: Agency, other_agency: Agency, routed: bool
) -> None:
    pool(office, agency)
    lost = lose(office, agency)
    job, outcome = send_by(office, agency, add_service(office, agency, routed=routed))
    look(office)
    # Neither proof that it was sent nor that it was not.
    assert office.message(agency, lost)["twilio_sid"] is None
    assert office.state(agency, lost) == "unknown"
    observe(office, job, outcome)
    assert office.message(agency, job.message_id)["twilio_sid"] == outcome.twilio_sid
    office.reconcile_until(lambda: office.state(agency, lost) is None)
    assert office.message(agency, lost)["status"] == "unconfirmed"
    assert office.message(agency, lost)["twilio_sid"] is None


def test_a_message_by_another_agencys_service_is_not_taken_for_the_numbers_own(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    pool(office, agency)
    lost = lose(office, agency)
    job, outcome = send_by(office, other_agency, add_service(office, other_agency, routed=True))
    observe(office, job, outcome)
    look(office)
    assert office.message(agency, lost)["twilio_sid"] is None
    assert office.message(agency, lost)["status"] == "unconfirmed"
    assert office.message(other_agency, job.message_id)["twilio_sid"] == outcome.twilio_sid


def test_a_lost_message_by_the_service_is_found(office: Office, agency: Agency, other_agency: Agency) -> None:
    pool(office, agency)
    job, outcome = send_by(office, agency, add_service(office, agency, routed=True))
    observe(office, job, Unknown("read_timeout"))
    office.reconcile_until(lambda: office.state(agency, job.message_id) != "unknown")
    assert office.message(agency, job.message_id)["twilio_sid"] == outcome.twilio_sid


@pytest.fixture
def described(
    urls: Urls, database: Database, worker_database: Database, agency: Agency, tmp_path: Path
) -> Iterator[Office]:
    """At a carrier that names a messaging service of its own for what a number sent, as Twilio's description has it."""
    entry = {"account_sid": ACCOUNT_SID, "message_sid": "SM" + "1" * 32, "accepted_at": datetime.now(UTC).isoformat()}
    entry |= {"from": agency.sms_address, "to": CONTACT_PHONE, "body": TEXT, "messaging_service_sid": SERVICE}
    (tmp_path / "record").write_text(json.dumps(entry) + "\n")
    with TwilioSimulator({ACCOUNT_SID: AUTH_TOKEN}, record_path=tmp_path / "record") as simulator:
        yield Office(urls, database, worker_database, simulator)


def test_a_service_that_nobody_sends_by_does_not_deny_the_numbers_own_message(
    described: Office, agency: Agency, other_agency: Agency
) -> None:
    mine, theirs = lose(described, agency), lose(described, other_agency)
    described.reconcile_until(lambda: described.state(other_agency, theirs) is None)
    assert described.message(agency, mine)["twilio_sid"] == "SM" + "1" * 32
    assert described.message(other_agency, theirs)["twilio_sid"] is None
