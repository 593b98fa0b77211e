"""Unknown outcomes are decided by evidence only: the carrier's list, twice, and an owner that is done or dead."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from delivery.session import Session
from delivery.worker import Worker
from persistence import attempts, outbox_work
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tests.agencies import Agency
from tests.delivery.conftest import Office, wait_until


def _lose(office: Office, agency: Agency, worker: Worker, fault: str, content: str = "once") -> UUID:
    """A message whose outcome is unknown."""
    office.simulator.set_faults({"script": [fault]})
    message_id = office.queue(agency, office.converse(agency), content)
    wait_until(lambda: office.state(agency, message_id) == "unknown")
    return message_id


def _let_resend(office: Office, agency: Agency) -> None:
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update agencies set resend_unconfirmed = true where agency_id = :agency_id"))
    owner.close()


@pytest.mark.parametrize("fault", ["error_after_accepting", "close_after_accepting", "half_reply"])
def test_a_message_that_the_carrier_lists_is_bound_to_its_sid_and_not_sent_again(
    office: Office, agency: Agency, other_agency: Agency, worker: Worker, fault: str
) -> None:
    _let_resend(office, agency)
    message_id = _lose(office, agency, worker, fault)
    office.reconcile_until(lambda: office.state(agency, message_id) != "unknown")
    (accepted,) = office.simulator.accepted
    assert office.message(agency, message_id)["twilio_sid"] == accepted["message_sid"]
    assert office.message(agency, message_id)["status"] not in ("unconfirmed", "queued")


def test_by_default_a_message_that_the_carrier_never_had_stays_unconfirmed(
    office: Office, agency: Agency, worker: Worker
) -> None:
    message_id = _lose(office, agency, worker, "error_before_accepting")
    office.reconcile_until(lambda: office.state(agency, message_id) is None)
    assert office.message(agency, message_id)["status"] == "unconfirmed"
    assert office.simulator.accepted == []


def test_an_agency_that_wishes_it_gets_one_resend_after_proof(office: Office, agency: Agency, worker: Worker) -> None:
    _let_resend(office, agency)
    message_id = _lose(office, agency, worker, "error_before_accepting")
    office.reconcile_until(lambda: len(office.simulator.accepted) == 1)
    wait_until(lambda: office.message(agency, message_id)["twilio_sid"] is not None)
    assert office.message(agency, message_id)["duplicate_detected"] is False


def test_a_message_that_is_lost_twice_is_not_resent_a_second_time(
    office: Office, agency: Agency, worker: Worker
) -> None:
    _let_resend(office, agency)
    office.simulator.set_faults({"script": ["error_before_accepting", "error_before_accepting"]})
    message_id = office.queue(agency, office.converse(agency), "once")
    wait_until(lambda: office.state(agency, message_id) == "unknown")
    office.reconcile_until(lambda: office.state(agency, message_id) is None)
    assert office.message(agency, message_id)["status"] == "unconfirmed"
    assert office.simulator.faults_struck["error_before_accepting"] == 2


def test_a_listing_that_fails_proves_nothing(office: Office, agency: Agency, worker: Worker) -> None:
    message_id = _lose(office, agency, worker, "error_after_accepting")
    office.simulator.set_faults({"dice": [{"kind": "listing_error", "probability": 1.0}]})
    with transaction.session(office.urls.worker) as connection:
        session = Session(connection)
        wait_until(
            lambda: office.simulator.faults_struck.get("listing_error", 0) >= 4,
            between=lambda: office.reconciler.run_once(session),
        )
    assert office.state(agency, message_id) == "unknown"


def test_the_next_message_of_the_conversation_waits_for_the_answer(
    office: Office, agency: Agency, worker: Worker
) -> None:
    message_id = _lose(office, agency, worker, "close_after_accepting", content="same")
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        (job,) = attempts.list_jobs(connection, message_ids=[message_id])
    second = office.queue(agency, job.conversation_id, "same")
    assert office.state(agency, second) == "waiting"
    office.reconcile_until(lambda: office.state(agency, message_id) != "unknown")
    wait_until(lambda: len(office.simulator.accepted) == 2)
    wait_until(lambda: office.message(agency, second)["twilio_sid"] is not None)
    sids = [office.message(agency, one)["twilio_sid"] for one in (message_id, second)]
    assert sids == [one["message_sid"] for one in office.simulator.accepted]


def test_an_attempt_of_a_dead_worker_is_looked_into_and_one_of_a_living_worker_is_not(
    office: Office, agency: Agency
) -> None:
    message_id = office.queue(agency, office.converse(agency), "claimed")
    with _claimed_by_somebody(office):
        with tenant_transaction(office.worker_database, agency.id) as connection:
            connection.execute(
                text("update outbox set attempted_at = attempted_at - interval '1 hour' where agency_id = :agency_id")
            )
        with transaction.session(office.urls.worker) as own:
            assert office.reconciler.run_once(Session(own)) == 1
        assert office.state(agency, message_id) == "calling"
    office.reconcile_until(lambda: office.state(agency, message_id) != "calling")
    assert office.message(agency, message_id)["status"] == "unconfirmed"


@contextmanager
def _claimed_by_somebody(office: Office) -> Iterator[None]:
    """A worker that has recorded its attempt, and lives while the block runs."""
    with transaction.session(office.urls.worker) as connection:
        session = Session(connection)
        with unbound_transaction(office.worker_database) as unbound:
            (claim,) = outbox_work.claim(unbound, worker_key=session.worker_key, limit=1, per_agency=1)
            attempts.start(transaction.bind(unbound, claim.agency_id), message_ids=[claim.message_id])
        yield


def test_an_attempt_that_is_looked_into_late_gets_both_its_listings_and_its_resend(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    _let_resend(office, agency)
    mine = office.queue(agency, office.converse(agency), "once")
    theirs = office.queue(other_agency, office.converse(other_agency), "once")
    with _claimed_by_somebody(office), _claimed_by_somebody(office):
        pass
    for one in (agency, other_agency):
        with tenant_transaction(office.worker_database, one.id) as connection:
            # Everything of ours was down for much longer than evidence is waited for.
            connection.execute(
                text("update outbox set attempted_at = attempted_at - interval '1 hour' where agency_id = :agency_id")
            )
    office.reconcile_until(
        lambda: office.state(agency, mine) == "queued" and office.state(other_agency, theirs) is None
    )
    assert office.message(other_agency, theirs)["status"] == "unconfirmed"
