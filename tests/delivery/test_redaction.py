"""A person asks to be forgotten: their words go, here and at the carrier, whatever goes wrong, and nobody else's do."""

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import text

from delivery import evidence
from delivery.inbound_reconciler import InboundReconciler
from delivery.redaction import MOST_FAILURES_IN_A_ROW, Counts, Redaction, UnknownContact
from delivery.session import Session
from delivery.simulator.webhooks import Inbound
from delivery.twilio_gateway import Accepted, OutboundMessage
from persistence import messages, provider_events
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, Agency
from tests.delivery.conftest import NOWHERE, Office, running, wait_until
from tests.persistence.statements import AT

PERSON = "+12025550199"
SOMEBODY_ELSE = "+12025550198"


@pytest.fixture
def owner(office: Office) -> Iterator[Database]:
    pool = Database(office.urls.owner, pool_size=2, check_bindings=True)
    yield pool
    pool.close()


@pytest.fixture
def redact(office: Office, owner: Database, agency: Agency) -> Callable[[], Counts]:
    """One run of the command, for the person and the agency that a test is about."""

    def run() -> Counts:
        redaction = Redaction(
            database=owner,
            gateway=office.gateway,
            credentials=office.credentials,
            agency_id=agency.id,
            say=said.append,
        )
        return redaction.run(PERSON)

    said: list[str] = []
    return run


@pytest.fixture
def catch_up(office: Office) -> Callable[[], None]:
    """Fetch what contacts wrote, as a worker does; also what it has here already."""
    reconciler = InboundReconciler(
        database=office.worker_database, gateway=office.gateway, credentials=office.credentials, interval_seconds=0.0
    )

    def run() -> None:
        with transaction.session(office.urls.worker) as connection:
            reconciler.run_once(Session(connection))

    return run


def write(office: Office, agency: Agency, body: str, *, phone: str = PERSON, **fields: object) -> str:
    """The person writes; the SID."""
    return office.simulator.receive(
        Inbound(ACCOUNT_SID, from_=phone, to=agency.sms_address, body=body, **fields)  # type: ignore[arg-type]
    )[0]


def stored(office: Office, agency: Agency) -> dict[str, tuple[str, bool]]:
    """What is here of each message that the carrier has: its text, and whether it was redacted."""
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        rows = connection.execute(
            text("select twilio_sid, content, redacted_at from messages where agency_id = :agency_id")
        )
        return {row.twilio_sid: (row.content, row.redacted_at is not None) for row in rows}


def bodies(office: Office, *sids: str) -> list[str]:
    account = office.account
    return [office.gateway.fetch_message(account, sid).body for sid in sids]


def asked(office: Office) -> list[str]:
    """What the carrier was asked to change: the last parts of the paths."""
    return [
        f"{request.method} {request.path.partition('/Messages/')[2]}"
        for request in office.simulator.requests
        if request.method in ("POST", "DELETE")
    ]


def test_the_words_of_one_person_go_and_everybody_elses_stay(
    office: Office, agency: Agency, other_agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    mine = [write(office, agency, "My address is"), write(office, agency, "", media=((None, "image/jpeg"),) * 2)]
    elses = [write(office, agency, "elses", phone=SOMEBODY_ELSE), write(office, other_agency, "other agency")]
    catch_up()
    assert redact() == Counts(here=2, at_carrier=2)
    assert stored(office, agency) == {mine[0]: ("", True), mine[1]: ("", True), elses[0]: ("elses", False)}
    assert stored(office, other_agency) == {elses[1]: ("other agency", False)}
    assert bodies(office, *mine, *elses) == ["", "", "elses", "other agency"]
    assert office.gateway.list_media(office.account, mine[1]) == []
    changed = asked(office)
    assert sorted(path.partition("/")[0] for path in changed) == sorted(
        [f"POST {sid}.json" for sid in mine] + [f"DELETE {mine[1]}"] * 2
    )


def test_what_is_done_is_not_done_again_and_nothing_is_left(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    write(office, agency, "once")
    catch_up()
    assert redact() == Counts(here=1, at_carrier=1)
    before = asked(office)
    assert redact() == Counts()
    assert asked(office) == before


def test_what_the_carrier_did_not_confirm_is_asked_for_again_and_nothing_else(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    sids = [write(office, agency, f"No. {number}") for number in range(3)]
    catch_up()
    office.simulator.set_faults({"script": ["redaction_passes", {"kind": "redaction_error", "http_status": 503}]})
    assert redact() == Counts(here=3, at_carrier=2, unconfirmed=1, reason="http_503")
    assert sorted(bodies(office, *sids)) == ["", "", "No. 1"]
    assert {content for content, _ in stored(office, agency).values()} == {""}
    before = len(asked(office))
    assert redact() == Counts(at_carrier=1)
    assert len(asked(office)) == before + 1
    assert bodies(office, *sids) == ["", "", ""]


def test_a_medium_that_could_not_be_deleted_is_deleted_the_next_time(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    sid = write(office, agency, "a picture", media=((None, "image/jpeg"),) * 2)
    catch_up()
    office.simulator.set_faults({"script": ["redaction_passes", "redaction_passes", "redaction_error"]})
    assert redact() == Counts(here=1, unconfirmed=1, reason="http_503")
    assert len(office.gateway.list_media(office.account, sid)) == 1
    assert redact() == Counts(at_carrier=1)
    assert office.gateway.list_media(office.account, sid) == []


def test_a_carrier_that_does_nothing_but_fail_is_left_alone(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    count = MOST_FAILURES_IN_A_ROW + 3
    for number in range(count):
        write(office, agency, f"No. {number}")
    catch_up()
    office.simulator.set_faults({"dice": [{"kind": "redaction_error", "probability": 1.0}]})
    assert redact() == Counts(here=count, unconfirmed=count, reason="http_503")
    assert len(asked(office)) == MOST_FAILURES_IN_A_ROW
    office.simulator.set_faults({})
    assert redact() == Counts(at_carrier=count)


def test_a_message_that_the_carrier_does_not_have_is_no_hindrance(
    office: Office, agency: Agency, redact: Callable[[], Counts]
) -> None:
    office.converse(agency, PERSON)  # its SID is nobody's at the simulator
    assert redact() == Counts(here=1, not_at_carrier=1)
    assert redact() == Counts()


def test_what_is_not_sent_yet_goes_out_whole_and_is_redacted_afterwards(
    office: Office, agency: Agency, redact: Callable[[], Counts]
) -> None:
    conversation_id = office.converse(agency, PERSON)
    first, second = (office.queue(agency, conversation_id, content) for content in ("first", "second"))
    assert redact() == Counts(here=1, not_at_carrier=1, under_way=2)
    with running(office):
        wait_until(lambda: len(office.simulator.accepted) == 2)
        wait_until(lambda: all(office.state(agency, each) in ("accepted", None) for each in (first, second)))
    assert [one["body"] for one in office.simulator.accepted] == ["first", "second"]
    assert redact() == Counts(here=2, at_carrier=2)
    for message_id in (first, second):
        message = office.message(agency, message_id)
        assert (message["content"], message["redacted_at"] is not None) == ("", True)
        assert bodies(office, message["twilio_sid"]) == [""]


def test_both_copies_of_a_message_that_went_out_twice_are_redacted(
    office: Office, agency: Agency, redact: Callable[[], Counts]
) -> None:
    conversation_id = office.converse(agency, PERSON)
    copies = [write(office, agency, "twice") for _ in range(2)]
    message_id = office.queue(agency, conversation_id, "twice")
    for sid in copies:
        report(office, agency, message_id, conversation_id, sid)
    assert redact() == Counts(here=2, at_carrier=1, not_at_carrier=1)
    assert bodies(office, *copies) == ["", ""]
    # A third one comes to light when everything was done.
    late = write(office, agency, "twice")
    report(office, agency, message_id, conversation_id, late)
    assert redact() == Counts(at_carrier=1)
    assert bodies(office, late) == [""]
    assert redact() == Counts()


def test_a_copy_that_only_an_attempt_tells_of_is_redacted_too(
    office: Office, owner: Database, agency: Agency, redact: Callable[[], Counts]
) -> None:
    """Its call was answered, and no report of it has come."""
    conversation_id = office.converse(agency, PERSON)
    message_id = office.queue(agency, conversation_id, "twice")
    copies = [write(office, agency, "twice") for _ in range(3)]
    report(office, agency, message_id, conversation_id, copies[0])
    answered(owner, agency, message_id, 1, copies[1])
    assert redact() == Counts(here=2, at_carrier=1, not_at_carrier=1)
    assert bodies(office, *copies) == ["", "", "twice"]
    answered(owner, agency, message_id, 2, copies[2])
    assert redact() == Counts(at_carrier=1)
    assert bodies(office, *copies) == ["", "", ""]


def answered(owner: Database, agency: Agency, message_id: UUID, number: int, sid: str) -> None:
    """An attempt to which the carrier has said that it has the message."""
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("""
                insert into attempts (agency_id, message_id, number, worker_key, finished_at, outcome, twilio_sid)
                values (:agency_id, :message_id, :number, 7, clock_timestamp(), 'accepted', :sid)"""),
            message_id=message_id,
            number=number,
            sid=sid,
        )


def report(office: Office, agency: Agency, message_id: UUID, conversation_id: UUID, sid: str) -> None:
    """What a delivery report does."""
    with tenant_transaction(office.database, agency.id) as connection:
        provider_events.insert(
            connection,
            message_id=message_id,
            attempt=1,
            twilio_sid=sid,
            provider_status="delivered",
            error_code="",
            status="delivered",
            payload={"To": PERSON},
        )
        evidence.accept(
            connection,
            message_id=message_id,
            conversation_id=conversation_id,
            attempt=None,
            twilio_sid=sid,
            provider_status="delivered",
        )


def test_neither_a_listing_nor_the_same_webhook_brings_anything_back(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    sid = write(office, agency, "forget me")
    catch_up()
    redact()
    before = stored(office, agency)
    catch_up()
    assert stored(office, agency) == before == {sid: ("", True)}


def test_what_the_person_writes_afterwards_is_a_new_message(
    office: Office, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    old = write(office, agency, "forget me")
    catch_up()
    redact()
    new = write(office, agency, "hello again")
    catch_up()
    assert stored(office, agency) == {old: ("", True), new: ("hello again", False)}


def test_an_empty_message_at_the_carrier_is_not_taken_for_a_redacted_one(
    office: Office, agency: Agency, redact: Callable[[], Counts]
) -> None:
    """One that may have gone out twice is looked for by its text, and has none any more."""
    conversation_id = office.converse(agency, PERSON)
    office.simulator.set_faults({"script": ["error_after_accepting"]})
    message_id = office.queue(agency, conversation_id, "went out, and the answer was lost")
    with running(office):
        wait_until(lambda: office.state(agency, message_id) == "unknown")
    report(office, agency, message_id, conversation_id, office.simulator.accepted[0]["message_sid"])
    assert redact() == Counts(here=2, at_carrier=1, not_at_carrier=1)
    sent_by_others = OutboundMessage(
        sender=agency.sms_address,
        recipient=PERSON,
        channel="sms",
        content="not by us",
        status_callback_url=NOWHERE,
        validity_period_seconds=3600,
    )
    outcome = office.gateway.create_message(office.account, sent_by_others)
    assert isinstance(outcome, Accepted)
    assert office.gateway.redact_message(office.account, outcome.twilio_sid)
    listed = len(office.simulator.requests)
    office.follower.run_once()
    assert any("To=" in request.target for request in list(office.simulator.requests)[listed:])
    message = office.message(agency, message_id)
    assert (message["duplicate_detected"], message["content"]) == (False, "")


def test_an_unknown_number_and_another_agencys_contact_are_nobody(
    office: Office, agency: Agency, other_agency: Agency, redact: Callable[[], Counts]
) -> None:
    office.converse(other_agency, PERSON)
    with pytest.raises(UnknownContact):
        redact()


def test_without_the_token_of_the_account_everything_goes_here_and_is_left_there(
    office: Office, owner: Database, agency: Agency, catch_up: Callable[[], None], redact: Callable[[], Counts]
) -> None:
    sid = write(office, agency, "one")
    catch_up()
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("update channels set account_sid = :other where agency_id = :agency_id"), other="AC" + "f" * 32
        )
    counts = redact()
    assert (counts.here, counts.at_carrier, counts.unconfirmed) == (1, 0, 1)
    assert stored(office, agency) == {sid: ("", True)}
    assert bodies(office, sid) == ["one"]


@pytest.mark.parametrize(
    "assignment",
    ["content = 'x'", "media = '[{}]'", "template = '{}'", "transcript = 'x'", "error_message = 'x'"],
)
def test_the_database_takes_no_words_into_a_redacted_message(
    office: Office, owner: Database, agency: Agency, redact: Callable[[], Counts], assignment: str
) -> None:
    office.converse(agency, PERSON)
    redact()
    update = text(f"update messages set {assignment} where agency_id = :agency_id")  # noqa: S608
    refused = pytest.raises(sqlalchemy.exc.IntegrityError, match="messages_redacted")
    with refused, tenant_transaction(owner, agency.id) as connection:
        connection.execute(update)


def test_no_role_that_serves_may_redact_or_rewrite(office: Office, agency: Agency) -> None:
    office.converse(agency, PERSON)
    for database in (office.database, office.worker_database):
        for assignment in ("content = ''", "redacted_at = :at", "carrier_redacted_at = :at"):
            update = text(f"update messages set {assignment} where agency_id = :agency_id")  # noqa: S608
            values = {"at": AT} if ":at" in assignment else {}
            refused = pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied")
            with refused, tenant_transaction(database, agency.id) as connection:
                connection.execute(update, **values)


def test_each_redacted_message_has_its_audit_record_of_the_same_run(
    office: Office, owner: Database, agency: Agency, other_agency: Agency, redact: Callable[[], Counts]
) -> None:
    conversation_id = office.converse(agency, PERSON)
    office.converse(other_agency, PERSON)
    redact()
    with tenant_transaction(owner, agency.id, read_only=True) as connection:
        page = messages.list_page(connection, conversation_id=conversation_id, limit=10, before=None)
        records = connection.execute(
            text("select action, tenant_source, role, message_id::text from audit_records where agency_id = :agency_id")
        ).all()
    assert [tuple(record[:3]) for record in records] == [("redact_message", "command", "operator")]
    assert records[0].message_id in page.messages
    with tenant_transaction(owner, other_agency.id, read_only=True) as connection:
        assert not connection.execute(text("select 1 from audit_records where agency_id = :agency_id")).all()
