"""What many attempts came to is written down together, and comes to the same as one by one."""

import threading
from functools import partial
from uuid import UUID

from sqlalchemy import text

from delivery import evidence, recorder, recording
from delivery.outcomes import Accepted, Unknown
from delivery.recorder import Ended, Recorder
from persistence import attempts, conversations, outbox_work
from persistence.attempts import Job
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tests.agencies import Agency, Urls
from tests.delivery.conftest import Office, wait_until

SIDS = [f"SM{number:032x}" for number in range(20)]


def claim(office: Office, agency: Agency, ids: list[UUID]) -> list[Job]:
    with unbound_transaction(office.worker_database) as unbound:
        outbox_work.claim(unbound, worker_key=7, limit=100, per_agency=100)
        tenant = transaction.bind(unbound, agency.id)
        attempts.start(tenant, message_ids=ids)
        jobs = {job.message_id: job for job in attempts.list_jobs(tenant, message_ids=ids)}
    return [jobs[one] for one in ids]


def ended(job: Job, outcome: Accepted | Unknown) -> Ended:
    record = partial(recording.record, job=job, outcome=outcome, first_look_seconds=0.0)
    return Ended(job, record, outcome if isinstance(outcome, Accepted) else None)


def write(office: Office, all_ended: list[Ended]) -> list[UUID]:
    """The messages in the order in which they were said to be written down."""
    recorded: list[UUID] = []
    write_into(recorded, office.worker_database, all_ended)
    return recorded


def write_into(recorded: list[UUID], database: Database, all_ended: list[Ended]) -> None:
    recorder = Recorder(
        database=database, stopping=threading.Event(), recorded=lambda job: recorded.append(job.message_id)
    )
    for one in all_ended:
        recorder.put(one)
    with recorder.running():
        pass


def test_many_acceptances_of_two_agencies_are_each_bound_to_their_own_message(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    phones = [f"+1202555{number:04d}" for number in range(5)]
    mine = [office.queue(agency, office.converse(agency, phone), "Hello") for phone in phones]
    theirs = [office.queue(other_agency, office.converse(other_agency, phone), "Hello") for phone in phones]
    jobs = claim(office, agency, mine)
    other_jobs = claim(office, other_agency, theirs)
    accepted = [ended(job, Accepted(sid, "queued")) for job, sid in zip(jobs + other_jobs, SIDS, strict=False)]
    assert set(write(office, accepted)) == {*mine, *theirs}
    assert [office.message(agency, one)["twilio_sid"] for one in mine] == SIDS[:5]
    assert [office.message(other_agency, one)["twilio_sid"] for one in theirs] == SIDS[5:10]
    assert {office.message(agency, one)["status"] for one in mine} == {"sending"}
    assert {office.state(agency, one) for one in mine} == {"accepted"}
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        rows = connection.execute(
            text("select outcome, twilio_sid from attempts where agency_id = :agency_id order by twilio_sid")
        )
        assert [(row.outcome, row.twilio_sid) for row in rows] == [("accepted", sid) for sid in SIDS[:5]]


def test_the_next_message_of_each_conversation_goes_when_the_one_before_it_is_written_down(
    office: Office, agency: Agency
) -> None:
    conversations = [office.converse(agency, f"+1202555{number:04d}") for number in range(3)]
    first = [office.queue(agency, one, "first") for one in conversations]
    second = [office.queue(agency, one, "second") for one in conversations]
    third = [office.queue(agency, one, "third") for one in conversations]
    jobs = claim(office, agency, first)
    write(office, [ended(job, Accepted(sid, "queued")) for job, sid in zip(jobs, SIDS, strict=False)])
    assert {office.state(agency, one) for one in second} == {"queued"}
    assert {office.state(agency, one) for one in third} == {"waiting"}


def test_what_waited_in_a_backup_is_looked_into_when_its_turn_comes_and_not_sent(
    office: Office, agency: Agency
) -> None:
    conversations = [office.converse(agency, f"+1202555{number:04d}") for number in range(2)]
    first = [office.queue(agency, one, "first") for one in conversations]
    restored, new = [office.queue(agency, one, "second") for one in conversations]
    jobs = claim(office, agency, first)
    with tenant_transaction(office.worker_database, agency.id) as connection:
        attempted = text("update outbox set attempted_at = sent_at where agency_id = :agency_id and message_id = :id")
        connection.execute(attempted, id=restored)
    write(office, [ended(job, Accepted(sid, "queued")) for job, sid in zip(jobs, SIDS, strict=False)])
    assert [office.state(agency, one) for one in (restored, new)] == ["unknown", "queued"]


def test_a_conversation_that_somebody_holds_keeps_no_other_agency_waiting(
    urls: Urls, office: Office, agency: Agency, other_agency: Agency
) -> None:
    held = office.converse(other_agency)
    mine, theirs = office.queue(agency, office.converse(agency), "Hello"), office.queue(other_agency, held, "Hello")
    jobs = [*claim(office, agency, [mine]), *claim(office, other_agency, [theirs])]
    accepted = [ended(job, Accepted(sid, "queued")) for job, sid in zip(jobs, SIDS, strict=False)]
    recorded: list[UUID] = []
    # As patient as this test: were it not for the recorder, mine would wait as long as theirs.
    patience = "-c%20lock_timeout%3D120s%20-c%20statement_timeout%3D120s"
    patient = Database(f"{urls.worker}?options={patience}", pool_size=3)
    writing = threading.Thread(target=write_into, args=(recorded, patient, accepted))
    with tenant_transaction(office.database, other_agency.id) as holding:
        holding.execute(conversations.LOCK, conversation_id=held)
        writing.start()
        wait_until(lambda: mine in recorded)
        assert recorded == [mine]
    writing.join()
    patient.close()
    assert recorded == [mine, theirs]
    assert [office.message(whose, one)["twilio_sid"] for whose, one in ((agency, mine), (other_agency, theirs))] == [
        SIDS[0],
        SIDS[1],
    ]


def test_many_conversations_that_somebody_holds_keep_no_other_agency_waiting(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    held = [office.converse(other_agency, f"+1202555{number:04d}") for number in range(2 * recorder.THREADS)]
    theirs = [office.queue(other_agency, one, "Hello") for one in held]
    mine = office.queue(agency, office.converse(agency), "Hello")
    jobs = [*claim(office, other_agency, theirs), *claim(office, agency, [mine])]
    recorded: list[UUID] = []
    stopping = threading.Event()
    one = Recorder(
        database=office.worker_database, stopping=stopping, recorded=lambda job: recorded.append(job.message_id)
    )
    with one.running():
        with tenant_transaction(office.database, other_agency.id) as holding:
            for conversation_id in held:
                holding.execute(conversations.LOCK, conversation_id=conversation_id)
            for job, sid in zip(jobs[:-1], SIDS, strict=False):
                one.put(ended(job, Accepted(sid, "queued")))
            wait_until(lambda: len(one._again) >= recorder.THREADS)  # all have been tried, or are being tried
            one.put(ended(jobs[-1], Accepted(SIDS[-1], "queued")))
            wait_until(lambda: mine in recorded)
            assert recorded == [mine]
        wait_until(lambda: len(recorded) == len(jobs))
    assert {office.message(other_agency, message_id)["twilio_sid"] for message_id in theirs} == set(SIDS[: len(theirs)])


def test_what_cannot_be_written_is_tried_once_more_when_the_worker_stops(office: Office, agency: Agency) -> None:
    conversation_id = office.converse(agency)
    message_id = office.queue(agency, conversation_id, "Hello")
    (job,) = claim(office, agency, [message_id])
    recorded: list[UUID] = []
    stopping = threading.Event()
    one = Recorder(
        database=office.worker_database, stopping=stopping, recorded=lambda job: recorded.append(job.message_id)
    )
    with tenant_transaction(office.database, agency.id) as holding:
        holding.execute(conversations.LOCK, conversation_id=conversation_id)
        with one.running():
            one.put(ended(job, Accepted(SIDS[0], "queued")))
            wait_until(lambda: len(one._again) == 1)
            stopping.set()
    assert recorded == [message_id]
    assert office.state(agency, message_id) == "calling"  # and so it is looked into


def test_what_is_special_about_one_message_is_seen_among_many(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    ids = [office.queue(agency, office.converse(agency, f"+1202555{number:04d}"), "Hello") for number in range(5)]
    plain, quick, doubled, lost, foreign = claim(office, agency, ids)
    office.queue(other_agency, office.converse(other_agency), "Hello")
    # Callbacks that were faster.
    for job, sid, status in ((quick, SIDS[1], "delivered"), (doubled, SIDS[9], "sent")):
        with tenant_transaction(office.database, agency.id) as tenant:
            evidence.accept(
                tenant,
                message_id=job.message_id,
                conversation_id=job.conversation_id,
                attempt=job.attempt,
                twilio_sid=sid,
                provider_status=status,
            )
    outcomes: list[Accepted | Unknown] = [Accepted(sid, "queued") for sid in SIDS[:3]]
    # The last is told a SID that is another message's: the database refuses it, and each is written by itself.
    outcomes += [Unknown("read_timeout"), Accepted(SIDS[0], "queued")]
    jobs = [plain, quick, doubled, lost, foreign]
    assert set(write(office, [ended(job, one) for job, one in zip(jobs, outcomes, strict=True)])) == set(ids)
    messages = [office.message(agency, one) for one in ids]
    assert [one["status"] for one in messages] == ["sending", "delivered", "sent", "unconfirmed", "sending"]
    assert [one["twilio_sid"] for one in messages[:3]] == [SIDS[0], SIDS[1], SIDS[9]]
    assert [one["duplicate_detected"] for one in messages] == [False, False, True, False, False]
    assert office.state(agency, lost.message_id) == "unknown"
