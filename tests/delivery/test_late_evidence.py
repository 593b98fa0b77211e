"""What is said late, twice or by the wrong one: the newest attempt goes its way, and what is proven stays proven."""

import logging
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import text

from delivery import evidence, recording
from delivery.outcomes import Accepted, NotProcessed, Outcome, Rejected, Unknown
from delivery.session import Session
from persistence import attempts, outbox, outbox_work
from persistence.attempts import Job
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tests.agencies import Agency
from tests.delivery.conftest import Office, running, wait_until

FIRST, SECOND = "SM" + "1" * 32, "SM" + "2" * 32


def let_resend(office: Office, agency: Agency) -> None:
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update agencies set resend_unconfirmed = true where agency_id = :agency_id"))
    owner.close()


def claim(office: Office, agency: Agency, message_id: UUID) -> Job:
    """Record an attempt, as a worker does, and leave it open."""
    with unbound_transaction(office.worker_database) as unbound:
        outbox_work.claim(unbound, worker_key=7, limit=10, per_agency=10)
        tenant = transaction.bind(unbound, agency.id)
        attempts.start(tenant, message_ids=[message_id])
        (job,) = attempts.list_jobs(tenant, message_ids=[message_id])
    return job


def observe(office: Office, job: Job, outcome: Outcome) -> None:
    with tenant_transaction(office.worker_database, job.agency_id) as tenant:
        recording.record(tenant, job, outcome, first_look_seconds=0.0)


def resend(office: Office, job: Job) -> None:
    """What the reconciler does after proof."""
    with tenant_transaction(office.worker_database, job.agency_id) as tenant:
        states = ("unknown",)
        assert outbox.set_state(
            tenant, message_id=job.message_id, state="queued", from_states=states, delay_seconds=0.0
        )


def report(office: Office, job: Job, sid: str, status: str, *, attempt: int) -> None:
    """A callback on the attempt's own URL."""
    with tenant_transaction(office.database, job.agency_id) as tenant:
        evidence.accept(
            tenant,
            message_id=job.message_id,
            conversation_id=job.conversation_id,
            attempt=attempt,
            twilio_sid=sid,
            provider_status=status,
        )
        outbox.follow(tenant, message_id=job.message_id)


@pytest.fixture
def twice(office: Office, agency: Agency) -> tuple[Job, Job]:
    """A message whose first attempt is of unknown outcome and whose second is open."""
    message_id = office.queue(agency, office.converse(agency), "once")
    first = claim(office, agency, message_id)
    observe(office, first, Unknown("read_timeout"))
    resend(office, first)
    second = claim(office, agency, message_id)
    assert (first.attempt, second.attempt) == (1, 2)
    return first, second


@pytest.mark.parametrize("late", [NotProcessed(None, "connect_refused"), Rejected(21211, "no", 400), Unknown("reset")])
def test_what_an_older_attempt_says_late_leaves_the_newer_one_alone(
    office: Office, agency: Agency, twice: tuple[Job, Job], late: Outcome
) -> None:
    first, second = twice
    observe(office, first, late)
    assert office.state(agency, second.message_id) == "calling"
    assert office.message(agency, second.message_id)["status"] == "sending"
    observe(office, second, Accepted(SECOND, "queued"))
    assert office.message(agency, second.message_id)["twilio_sid"] == SECOND


def test_proof_for_the_first_attempt_stops_the_second_before_it_is_made(
    office: Office, agency: Agency, twice: tuple[Job, Job]
) -> None:
    first, second = twice
    report(office, first, FIRST, "sent", attempt=1)
    with transaction.session(office.urls.worker) as connection:
        session = Session(connection)
        assert not session.may_call(second)
    observe(office, second, NotProcessed(None, "leave_to_send_withdrawn"))
    assert office.state(agency, first.message_id) == "accepted"
    assert office.message(agency, first.message_id)["status"] == "sent"


def test_a_worker_may_call_only_for_the_attempt_that_is_its_own(office: Office, agency: Agency) -> None:
    message_id = office.queue(agency, office.converse(agency), "once")
    with transaction.session(office.urls.worker) as mine, transaction.session(office.urls.worker) as other:
        owner, stranger = Session(mine), Session(other)
        with unbound_transaction(office.worker_database) as unbound:
            outbox_work.claim(unbound, worker_key=owner.worker_key, limit=1, per_agency=1)
            tenant = transaction.bind(unbound, agency.id)
            (job,) = attempts.list_jobs(tenant, message_ids=[message_id])
        assert owner.may_call(job)
        assert not stranger.may_call(job)
        mine.close()
        assert not owner.may_call(job)


def test_of_many_who_ask_at_once_each_is_told_of_its_own_attempt(office: Office, agency: Agency) -> None:
    ids = [office.queue(agency, office.converse(agency, f"+1202555{number:04d}"), "once") for number in range(40)]
    with transaction.session(office.urls.worker) as connection, ThreadPoolExecutor(40) as pool:
        session = Session(connection)
        with unbound_transaction(office.worker_database) as unbound:
            outbox_work.claim(unbound, worker_key=session.worker_key, limit=100, per_agency=100)
            jobs = attempts.list_jobs(transaction.bind(unbound, agency.id), message_ids=ids)
        proven = {job.message_id for job in jobs[::3]}
        with tenant_transaction(office.worker_database, agency.id) as tenant:
            for message_id in proven:
                outbox.delete(tenant, message_id=message_id)
        for _ in range(5):
            leave = list(pool.map(session.may_call, jobs))
            assert {job.message_id for job, may in zip(jobs, leave, strict=True) if not may} == proven
        connection.close()
        assert not any(pool.map(session.may_call, jobs))


@pytest.mark.parametrize("state", ["queued", "waiting"])
def test_proof_that_comes_before_the_resend_prevents_it(office: Office, agency: Agency, state: str) -> None:
    conversation_id = office.converse(agency)
    job = claim(office, agency, office.queue(agency, conversation_id, "once"))
    observe(office, job, Unknown("read_timeout"))
    resend(office, job)
    if state == "waiting":
        with tenant_transaction(office.worker_database, agency.id) as tenant:
            outbox.set_state(
                tenant, message_id=job.message_id, state="waiting", from_states=("queued",), delay_seconds=0.0
            )
    report(office, job, FIRST, "delivered", attempt=1)
    assert office.state(agency, job.message_id) is None
    with running(office):
        behind = office.queue(agency, conversation_id, "behind")
        wait_until(lambda: office.state(agency, behind) == "accepted")
    assert [one["body"] for one in office.simulator.accepted] == ["behind"]


def test_a_second_sid_is_flagged_whoever_reports_it_and_the_first_stays(
    office: Office, agency: Agency, other_agency: Agency, twice: tuple[Job, Job]
) -> None:
    theirs = office.queue(other_agency, office.converse(other_agency), "once")
    first, second = twice
    observe(office, second, Accepted(SECOND, "queued"))
    assert office.message(agency, first.message_id)["duplicate_detected"] is False
    report(office, first, FIRST, "sent", attempt=1)
    message = office.message(agency, first.message_id)
    assert (message["twilio_sid"], message["duplicate_detected"]) == (SECOND, True)
    assert office.message(other_agency, theirs)["duplicate_detected"] is False


def test_a_sid_that_is_another_messages_raises_an_alarm(
    office: Office, agency: Agency, other_agency: Agency, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [
        claim(office, whose, office.queue(whose, office.converse(whose, phone), "once"))
        for whose, phone in ((agency, "+12025550199"), (agency, "+12025550188"), (other_agency, "+12025550199"))
    ]
    for job in (jobs[0], jobs[2], jobs[0]):
        observe(office, job, Accepted(FIRST, "queued"))
    assert "sid_of_another_message" not in {record.getMessage() for record in caplog.records}
    observe(office, jobs[1], Accepted(FIRST, "queued"))
    (alarm,) = [record for record in caplog.records if record.getMessage() == "sid_of_another_message"]
    assert alarm.levelno == logging.ERROR
    said = {name: getattr(alarm, name) for name in ("agency_id", "message_id", "owner_id", "twilio_sid")}
    assert said == {
        "agency_id": str(agency.id),
        "message_id": str(jobs[1].message_id),
        "owner_id": str(jobs[0].message_id),
        "twilio_sid": FIRST,
    }
    assert office.message(agency, jobs[0].message_id)["twilio_sid"] == FIRST
    second = office.message(agency, jobs[1].message_id)
    assert (second["twilio_sid"], second["duplicate_detected"]) == (None, False)


def test_a_refusal_of_the_second_attempt_does_not_deny_the_first(
    office: Office, agency: Agency, twice: tuple[Job, Job]
) -> None:
    first, second = twice
    observe(office, second, Rejected(30007, "filtered", 400))
    message = office.message(agency, first.message_id)
    assert (message["status"], message["error"]["code"]) == ("unconfirmed", "30007")
    report(office, first, FIRST, "delivered", attempt=1)
    message = office.message(agency, first.message_id)
    assert (message["status"], message["error"]["code"]) == ("delivered", "30007")


def test_an_agency_suspended_after_a_first_attempt_that_may_have_arrived_leaves_it_unconfirmed(
    office: Office, agency: Agency, twice: tuple[Job, Job]
) -> None:
    first, second = twice
    with tenant_transaction(office.worker_database, agency.id) as tenant:
        evidence.end(
            tenant,
            message_id=second.message_id,
            conversation_id=second.conversation_id,
            attempt=2,
            outcome="not_processed",
            status="canceled",
            reason="agency_suspended",
        )
    assert office.message(agency, first.message_id)["status"] == "unconfirmed"
    assert office.state(agency, first.message_id) is None


def test_a_message_that_was_given_up_is_upgraded_and_followed_again_by_a_late_callback(
    office: Office, agency: Agency
) -> None:
    job = claim(office, agency, office.queue(agency, office.converse(agency), "once"))
    observe(office, job, Unknown("read_timeout"))
    with tenant_transaction(office.worker_database, agency.id) as tenant:
        evidence.give_up(tenant, message_id=job.message_id, conversation_id=job.conversation_id)
    assert office.state(agency, job.message_id) is None
    report(office, job, FIRST, "sent", attempt=1)
    assert office.message(agency, job.message_id)["status"] == "sent"
    assert office.state(agency, job.message_id) == "accepted"
    report(office, job, FIRST, "delivered", attempt=1)
    assert office.state(agency, job.message_id) is None
    report(office, job, FIRST, "sent", attempt=1)
    assert office.state(agency, job.message_id) is None
    assert office.message(agency, job.message_id)["status"] == "delivered"


def test_a_doubled_message_without_any_callback_is_found_and_flagged(office: Office, agency: Agency) -> None:
    let_resend(office, agency)
    # Accepted after the proof of absence: later than the grace and two listings of these tests.
    office.simulator.set_faults({"script": [{"kind": "accept_late", "seconds": 3.0}]})
    with running(office):
        message_id = office.queue(agency, office.converse(agency), "once")
        office.reconcile_until(lambda: len(office.simulator.accepted) == 2)
        office.reconcile_until(lambda: office.message(agency, message_id)["duplicate_detected"])
    first, second = (one["message_sid"] for one in office.simulator.accepted)
    assert office.message(agency, message_id)["twilio_sid"] in (first, second)


def test_a_message_in_the_list_that_may_be_its_twins_is_not_bound(office: Office, agency: Agency) -> None:
    conversation_id = office.converse(agency)
    twin = claim(office, agency, office.queue(agency, conversation_id, "same"))
    observe(office, twin, Unknown("read_timeout"))
    with tenant_transaction(office.worker_database, agency.id) as tenant:
        evidence.give_up(tenant, message_id=twin.message_id, conversation_id=conversation_id)
    office.simulator.set_faults({"script": ["close_after_accepting"]})
    with running(office):
        message_id = office.queue(agency, conversation_id, "same")
        wait_until(lambda: office.state(agency, message_id) == "unknown")
    looks = 0

    def looked_at_again() -> bool:
        nonlocal looks
        looks += 1
        return looks > 15

    office.reconcile_until(looked_at_again)
    assert office.message(agency, message_id)["twilio_sid"] is None
    assert office.message(agency, twin.message_id)["twilio_sid"] is None
    assert office.state(agency, message_id) == "unknown"
    # The callback on the attempt's own URL decides.
    (accepted,) = office.simulator.accepted
    with tenant_transaction(office.database, agency.id, read_only=True) as tenant:
        (job,) = attempts.list_jobs(tenant, message_ids=[message_id])
    report(office, job, accepted["message_sid"], "delivered", attempt=1)
    assert office.message(agency, message_id)["status"] == "delivered"


def test_a_conversation_that_waits_behind_nothing_goes_on(office: Office, agency: Agency, other_agency: Agency) -> None:
    stuck, fine = office.converse(agency), office.converse(other_agency)
    mine = office.queue(agency, stuck, "mine")
    theirs = [office.queue(other_agency, fine, one) for one in ("first", "second")]
    with tenant_transaction(office.worker_database, agency.id) as tenant:
        outbox.set_state(tenant, message_id=mine, state="waiting", from_states=("queued",), delay_seconds=0.0)
    office.reconciler.promote_stuck()
    assert office.state(agency, mine) == "queued"
    assert [office.state(other_agency, one) for one in theirs] == ["queued", "waiting"]
