"""The worker: one call per attempt, in order within a conversation, and the outcome written down as it was observed."""

import threading

import pytest
from sqlalchemy import text

from delivery.twilio_gateway import TwilioGateway
from delivery.worker import Sending, Worker
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency
from tests.delivery.conftest import NOWHERE, Office, running, wait_until


def _settled(office: Office, agency: Agency, message_id: object) -> bool:
    return office.state(agency, message_id) not in ("waiting", "queued", "calling")  # type: ignore[arg-type]


def test_a_queued_message_is_sent_once_with_its_content_and_addresses(
    office: Office, agency: Agency, other_agency: Agency, worker: Worker
) -> None:
    theirs = office.queue(other_agency, office.converse(other_agency), "theirs")
    mine = office.queue(agency, office.converse(agency), "mine\n with  spaces ")
    wait_until(lambda: _settled(office, agency, mine) and _settled(office, other_agency, theirs))
    sent = {(one["from"], one["to"], one["body"]) for one in office.simulator.accepted}
    assert sent == {
        (agency.sms_address, "+12025550199", "mine\n with  spaces "),
        (other_agency.sms_address, "+12025550199", "theirs"),
    }
    assert len(office.simulator.accepted) == 2
    assert office.message(agency, mine)["twilio_sid"] in {one["message_sid"] for one in office.simulator.accepted}
    assert office.message(agency, mine)["status"] == "sending"


def test_a_conversations_messages_go_out_in_order(office: Office, agency: Agency, worker: Worker) -> None:
    conversation_id = office.converse(agency)
    ids = [office.queue(agency, conversation_id, f"{number}") for number in range(12)]
    wait_until(lambda: _settled(office, agency, ids[-1]))
    assert [one["body"] for one in office.simulator.accepted] == [f"{number}" for number in range(12)]


def test_a_held_up_recipient_holds_up_nobody_else(office: Office, agency: Agency, worker: Worker) -> None:
    slow, quick = office.converse(agency, "+12025550111"), office.converse(agency, "+12025550112")
    office.simulator.set_faults({"script": [{"kind": "too_many_requests", "to": "+12025550111", "retry_after": 30}]})
    held = office.queue(agency, slow, "held")
    after_held = office.queue(agency, slow, "after held")
    wait_until(lambda: office.simulator.faults_struck.get("too_many_requests") == 1)
    free = office.queue(agency, quick, "free")
    wait_until(lambda: _settled(office, agency, free))
    assert [one["body"] for one in office.simulator.accepted] == ["free"]
    wait_until(lambda: office.state(agency, held) == "queued")
    assert office.state(agency, after_held) == "waiting"


def test_what_was_not_processed_is_tried_again(office: Office, agency: Agency, worker: Worker) -> None:
    office.simulator.set_faults({"script": ["too_many_requests", "too_many_requests"]})
    message_id = office.queue(agency, office.converse(agency), "again")
    wait_until(lambda: _settled(office, agency, message_id))
    assert [one["body"] for one in office.simulator.accepted] == ["again"]
    assert office.message(agency, message_id)["status"] == "sending"


def test_a_rejection_fails_the_message_with_the_carriers_code(office: Office, agency: Agency, worker: Worker) -> None:
    office.simulator.set_faults({"script": [{"kind": "reject", "code": 21211}]})
    message_id = office.queue(agency, office.converse(agency), "no")
    wait_until(lambda: office.message(agency, message_id)["status"] == "failed")
    assert office.message(agency, message_id)["error"]["code"] == "21211"
    assert office.simulator.accepted == []
    assert office.state(agency, message_id) is None


def test_a_rejection_because_of_stop_marks_the_contact_as_opted_out(
    office: Office, database: Database, agency: Agency, other_agency: Agency, worker: Worker
) -> None:
    office.simulator.set_faults({"script": [{"kind": "reject", "code": 21610}]})
    conversation_id, theirs = office.converse(agency), office.converse(other_agency)
    message_id = office.queue(agency, conversation_id, "no")
    wait_until(lambda: office.message(agency, message_id)["status"] == "failed")
    opted_out = text("select opted_out_at is not null from conversations where agency_id = :agency_id and id = :id")
    with tenant_transaction(database, agency.id) as connection:
        assert connection.execute(opted_out, id=conversation_id).scalar_one() is True
    with tenant_transaction(database, other_agency.id) as connection:
        assert connection.execute(opted_out, id=theirs).scalar_one() is False


def test_a_refused_account_pauses_the_sender_and_keeps_its_queue(
    office: Office, database: Database, agency: Agency, worker: Worker
) -> None:
    office.simulator.set_faults({"script": [{"kind": "reject", "code": 20003, "http_status": 401}]})
    first = office.queue(agency, office.converse(agency, "+12025550111"), "first")
    wait_until(lambda: office.simulator.faults_struck.get("reject") == 1 and office.state(agency, first) == "queued")
    second = office.queue(agency, office.converse(agency, "+12025550112"), "second")
    wait_until(lambda: all(held > 30 for held in _seconds_until_due(database, agency, first, second)))
    assert office.simulator.accepted == []
    assert office.message(agency, first)["status"] in ("queued", "sending")


def _seconds_until_due(database: Database, agency: Agency, *message_ids: object) -> list[float]:
    with tenant_transaction(database, agency.id) as connection:
        return list(
            connection.execute(
                text("""
                    select extract(epoch from available_at - clock_timestamp())::float8
                    from outbox
                    where agency_id = :agency_id
                    and message_id = any(:ids)"""),
                ids=list(message_ids),
            ).scalars()
        )


@pytest.mark.parametrize(
    "fault", ["error_before_accepting", "error_after_accepting", "close_after_accepting", "created_without_sid"]
)
def test_an_unknown_outcome_is_shown_as_unconfirmed_and_never_resent_blindly(
    office: Office, agency: Agency, worker: Worker, fault: str
) -> None:
    office.simulator.set_faults({"script": [fault]})
    conversation_id = office.converse(agency)
    message_id = office.queue(agency, conversation_id, "once")
    waiting = office.queue(agency, conversation_id, "next")
    wait_until(lambda: office.message(agency, message_id)["status"] == "unconfirmed")
    assert office.state(agency, message_id) == "unknown"
    assert office.state(agency, waiting) == "waiting"
    assert len(office.simulator.accepted) == (0 if fault == "error_before_accepting" else 1)


def test_a_suspended_agency_sends_nothing_and_its_queue_is_canceled(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    mine = office.queue(agency, office.converse(agency), "mine")
    theirs = office.queue(other_agency, office.converse(other_agency), "theirs")
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update agencies set status = 'suspended' where agency_id = :agency_id"))
    owner.close()
    with running(office):
        wait_until(lambda: office.message(agency, mine)["status"] == "canceled")
        wait_until(lambda: _settled(office, other_agency, theirs))
    assert [one["body"] for one in office.simulator.accepted] == ["theirs"]


def test_a_quiet_agency_is_served_while_another_has_a_long_queue(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    for number in range(150):
        office.queue(other_agency, office.converse(other_agency, f"+1202555{number:04d}"), "busy")
    office.queue(agency, office.converse(agency), "quiet")
    with running(office):
        wait_until(lambda: len(office.simulator.accepted) == 151)
    place = [one["body"] for one in office.simulator.accepted].index("quiet")
    assert place < 60


def test_one_worker_keeps_sixty_four_calls_under_way_and_a_place_for_who_has_none(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    office.simulator.set_faults({"latency_ms": 8000})
    gateway = TwilioGateway(
        base_url=office.simulator.url, connect_timeout_seconds=5.0, total_deadline_seconds=20.0, max_concurrency=96
    )
    for number in range(100):
        office.queue(agency, office.converse(agency, f"+1202555{number:04d}"), "busy")
    worker = Worker(
        database=office.worker_database,
        session_url=office.urls.worker,
        gateway=gateway,
        credentials=office.credentials,
        sending=Sending(NOWHERE, concurrency=64, validity_seconds=3600, first_look_seconds=0.0),
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: len(office.simulator.requests) == 64)
        # The busy agency waits for a place to come free; the quiet one gets one that is kept for such as it.
        quiet = office.queue(other_agency, office.converse(other_agency), "quiet")
        wait_until(lambda: office.state(other_agency, quiet) == "calling")
    finally:
        worker.stop()
        thread.join(timeout=60)
    assert office.state(other_agency, quiet) == "accepted"
