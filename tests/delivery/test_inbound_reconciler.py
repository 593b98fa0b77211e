"""What contacts wrote while nobody was there is fetched: all of it, once, from its own numbers only."""

import json
import threading
import time
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import text

from delivery import inbound
from delivery.inbound import InboundMessage
from delivery.inbound_reconciler import InboundReconciler
from delivery.session import Session
from delivery.simulator.webhooks import Inbound
from persistence import conversations, messages
from tenancy import transaction
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, Agency, make_conversation
from tests.delivery.conftest import Office, wait_until
from tests.handlers.test_webhook_races import await_waiting
from tests.reliability.test_database_faults import cursor_of

CONTACT = "+12025550177"


@pytest.fixture
def reconcile(office: Office) -> Callable[[], None]:
    """Look once at every number, as a worker does."""
    reconciler = InboundReconciler(
        database=office.worker_database, gateway=office.gateway, credentials=office.credentials, interval_seconds=0.0
    )

    def run() -> None:
        with transaction.session(office.urls.worker) as connection:
            reconciler.run_once(Session(connection))

    return run


def write(office: Office, to: str, body: str, **fields: object) -> str:
    """A contact writes, and no webhook is there to hear it."""
    prefix = "whatsapp:" if to.startswith("whatsapp:") else ""
    inbound = Inbound(ACCOUNT_SID, from_=prefix + CONTACT, to=to, body=body, **fields)  # type: ignore[arg-type]
    return office.simulator.receive(inbound)[0]


def received(database: Database, agency: Agency) -> list[tuple[str, str]]:
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        rows = connection.execute(
            text("""
                select twilio_sid, content
                from messages
                where agency_id = :agency_id
                and direction = 'inbound'
                order by sent_at""")
        )
        return [(row.twilio_sid, row.content) for row in rows]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_webhook_that_is_first_keeps_nothing_that_follows_from_being_fetched(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None], is_known: bool
) -> None:
    known = []
    if is_known:
        with tenant_transaction(database, agency.id) as connection:
            make_conversation(connection, agency, phone=CONTACT, content="Before", sid="SM" + "0" * 32)
        known = [("SM" + "0" * 32, "Before")]
    raced = write(office, agency.sms_address, "By a webhook, too")
    later = write(office, agency.sms_address, "Later")
    looking = threading.Thread(target=reconcile)
    with cursor_of(office.urls.superuser) as session:
        with tenant_transaction(database, agency.id) as connection:
            message = InboundMessage(twilio_sid=raced, sender=CONTACT, content="By a webhook, too")
            inbound.store(connection, channel_id=agency.sms_id, message=message)
            connection.transaction.flush()
            looking.start()
            await_waiting(session, 1)
        looking.join()
    assert received(database, agency) == [*known, (raced, "By a webhook, too"), (later, "Later")]


def test_everything_that_no_webhook_brought_is_fetched_once_in_its_order(
    office: Office, database: Database, agency: Agency, other_agency: Agency, reconcile: Callable[[], None]
) -> None:
    mine = [(write(office, agency.sms_address, f"No. {number}"), f"No. {number}") for number in range(230)]
    theirs = [(write(office, other_agency.whatsapp_address, "theirs"), "theirs")]
    for _ in range(2):
        reconcile()
        assert received(database, agency) == mine
        assert received(database, other_agency) == theirs


def test_what_a_webhook_brought_is_not_stored_again(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None]
) -> None:
    sid = write(office, agency.sms_address, "Hello")
    with tenant_transaction(database, agency.id) as connection:
        make_conversation(connection, agency, phone=CONTACT, sid=sid)
    reconcile()
    assert received(database, agency) == [(sid, "Hello")]


def test_our_own_messages_in_the_list_are_nobodys_inbound(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None]
) -> None:
    conversation_id = office.converse(agency, CONTACT)
    before = received(database, agency)
    office.queue(agency, conversation_id, "from us")
    worker = office.new_worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_until(lambda: len(office.simulator.accepted) == 1)
    worker.stop()
    thread.join()
    reconcile()
    assert received(database, agency) == before


def test_media_and_a_stop_word_arrive_too(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None]
) -> None:
    write(office, agency.sms_address, "", media=((None, "image/jpeg"), (None, "image/png")))
    write(office, agency.sms_address, "STOP")
    reconcile()
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        listed = conversations.list_page(connection, location_id=None, status=None, limit=10)
        (conversation,) = json.loads(listed.conversations)
        page = messages.list_page(connection, conversation_id=UUID(str(conversation["id"])), limit=10, before=None)
    assert conversation["messaging"]["blocked_reason"] == "contact_opted_out"
    media = json.loads(page.messages)[1]["media"]
    assert [one["content_type"] for one in media] == ["image/jpeg", "image/png"]
    assert all(one["url"].startswith(f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT_SID}/") for one in media)


@pytest.mark.parametrize(("missed", "heard"), [("START", "STOP"), ("STOP", "START")])
def test_a_word_that_is_found_late_does_not_overrule_a_newer_one(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None], missed: str, heard: str
) -> None:
    write(office, agency.sms_address, missed)
    time.sleep(1.1)  # Twilio tells whole seconds
    with tenant_transaction(database, agency.id) as connection:
        message = InboundMessage(twilio_sid="SM" + "b" * 32, sender=CONTACT, content=heard)
        inbound.store(connection, channel_id=agency.sms_id, message=message)
    reconcile()
    assert [content for _, content in received(database, agency)] == [heard, missed]
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        opted_out = connection.execute(
            text("select opted_out_at is not null from conversations where agency_id = :agency_id")
        )
        assert opted_out.scalars().all() == [heard == "STOP"]


def test_a_listing_that_fails_leaves_the_watermark_where_it_was(
    office: Office, database: Database, agency: Agency, reconcile: Callable[[], None]
) -> None:
    sid = write(office, agency.sms_address, "Hello")
    office.simulator.set_faults({"dice": [{"kind": "listing_error", "probability": 1.0}]})
    reconcile()
    assert received(database, agency) == []
    office.simulator.set_faults({})
    reconcile()
    assert received(database, agency) == [(sid, "Hello")]


def test_a_messaging_services_numbers_are_found_through_the_service(
    office: Office, database: Database, agency: Agency, other_agency: Agency, reconcile: Callable[[], None]
) -> None:
    service = "MG" + "a" * 32
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        for statement in (
            "update channels set address = :service where agency_id = :agency_id and id = :id",
            "update number_routing set address = :service where agency_id = :agency_id and channel_id = :id",
        ):
            connection.execute(text(statement), service=service, id=agency.sms_id)
    owner.close()
    pooled = write(office, "+12025550888", "to the pool", messaging_service_sid=service)
    # A number that is somebody's own, although it stands in the pool as well.
    owned = write(office, other_agency.sms_address, "to the number", messaging_service_sid=service)
    write(office, "+12025550889", "to nobody of ours")
    reconcile()
    assert received(database, agency) == [(pooled, "to the pool")]
    assert received(database, other_agency) == [(owned, "to the number")]


def test_a_channel_with_several_numbers_misses_none_of_them(
    office: Office, database: Database, agency: Agency, other_agency: Agency, reconcile: Callable[[], None]
) -> None:
    second = "+12025550889"
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(
            text("""
                insert into number_routing (account_sid, address, agency_id, channel_id)
                values (:account_sid, :address, :agency_id, :id)"""),
            account_sid=ACCOUNT_SID,
            address=second,
            id=agency.sms_id,
        )
    owner.close()
    mine = {(write(office, to, f"to {to}"), f"to {to}") for to in (agency.sms_address, second)}
    theirs = [(write(office, other_agency.sms_address, "theirs"), "theirs")]
    once = InboundReconciler(
        database=office.worker_database, gateway=office.gateway, credentials=office.credentials, interval_seconds=0.5
    )
    with tenant_transaction(office.worker_database, agency.id) as connection:
        connection.execute(
            text("""
                update channels
                set inbound_complete_until = clock_timestamp() - interval '1 hour'
                where agency_id = :agency_id""")
        )
    with transaction.session(office.urls.worker) as session:
        once.run_once(Session(session))
    assert set(received(database, agency)) == mine
    reconcile()
    assert set(received(database, agency)) == mine
    assert received(database, other_agency) == theirs


def test_two_workers_do_not_list_the_same_number_at_a_time(office: Office, agency: Agency) -> None:
    with transaction.session(office.urls.worker) as one, transaction.session(office.urls.worker) as other:
        first, second = Session(one), Session(other)
        with first.alone_with(7) as mine, second.alone_with(7) as theirs:
            assert (mine, theirs) == (True, False)
        with second.alone_with(7) as theirs:
            assert theirs
