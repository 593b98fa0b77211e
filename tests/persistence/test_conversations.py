"""The inbox list: order, filters, totals and cursors, always beside another agency's look-alike rows."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from delivery import inbound
from delivery.inbound import InboundMessage
from persistence import conversations, messages, paging, sends
from persistence.connection import TenantConnection
from persistence.errors import ContactOptedOut, ConversationForbidden, ConversationNotFound, WhatsAppWindowClosed
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import CONTACT_PHONE, Agency, insert_message, make_conversation, set_status


def _phones(count: int) -> list[str]:
    return [f"+1202555{number:04d}" for number in range(100, 100 + count)]


def _fill(database: Database, agency: Agency, count: int) -> list[UUID]:
    """Newest last."""
    made = []
    for phone in _phones(count):
        with tenant_transaction(database, agency.id) as connection:
            made.append(make_conversation(connection, agency, phone=phone))
    return made


def _ids(page: conversations.Page) -> list[UUID]:
    return [UUID(record["id"]) for record in json.loads(page.conversations)]


def test_the_list_is_newest_first_and_holds_this_agencys_rows_only(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    mine, _theirs = _fill(database, agency, 3), _fill(database, other_agency, 3)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        page = conversations.list_page(connection, location_id=None, status=None, limit=20)
    assert _ids(page) == mine[::-1]
    assert page.total == 3
    assert page.next_cursor is None


def test_cursor_pages_hold_every_conversation_once_when_timestamps_tie(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    mine = _fill(database, agency, 7)
    _fill(database, other_agency, 7)
    with tenant_transaction(database, agency.id) as connection:
        connection.execute(text("update conversations set last_message_at = '2026-01-01' where agency_id = :agency_id"))
    seen: list[UUID] = []
    before = None
    while True:
        with tenant_transaction(database, agency.id, read_only=True) as connection:
            page = conversations.list_page(connection, location_id=None, status=None, limit=3, before=before)
        seen += _ids(page)
        assert page.total == 7
        if page.next_cursor is None:
            break
        before = paging.decode_cursor(page.next_cursor)
    assert seen == sorted(mine, reverse=True)


def test_offset_skips_as_many_rows(database: Database, agency: Agency) -> None:
    mine = _fill(database, agency, 5)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        page = conversations.list_page(connection, location_id=None, status=None, limit=2, offset=2)
    assert _ids(page) == [mine[2], mine[1]]


def test_filters_narrow_the_rows_and_the_total(database: Database, agency: Agency, other_agency: Agency) -> None:
    mine = _fill(database, agency, 4)
    _fill(database, other_agency, 4)
    with tenant_transaction(database, agency.id) as connection:
        set_status(connection, "resolved", mine[1])
        page = conversations.list_page(connection, location_id=None, status="resolved", limit=20)
        assert (_ids(page), page.total) == ([mine[1]], 1)
        page = conversations.list_page(connection, location_id=agency.location_id, status="open", limit=20)
        assert (_ids(page), page.total) == ([mine[3], mine[2], mine[0]], 3)
        for unknown in (other_agency.location_id, uuid_utils.uuid7()):
            page = conversations.list_page(connection, location_id=unknown, status=None, limit=20)
            assert (_ids(page), page.total) == ([], 0)


def test_one_conversation_names_its_contact_and_channel(database: Database, agency: Agency) -> None:
    (conversation_id,) = _fill(database, agency, 1)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        record = json.loads(conversations.get(connection, conversation_id=conversation_id))
    assert record["contact_phone"] == "+12025550100"
    assert record["channel"] == "sms"
    assert record["channel_address"] == agency.sms_address
    assert record["messaging"] == {"can_send_freeform": True, "window_expires_at": None, "blocked_reason": None}


def test_another_agencys_conversation_is_not_found(database: Database, agency: Agency, other_agency: Agency) -> None:
    (theirs,) = _fill(database, other_agency, 1)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        for unknown in (theirs, uuid_utils.uuid7()):
            with pytest.raises(ConversationNotFound):
                conversations.get(connection, conversation_id=unknown)


def test_sending_to_another_agencys_conversation_is_forbidden_like_to_a_missing_one(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    (theirs,) = _fill(database, other_agency, 1)
    with tenant_transaction(database, agency.id) as connection:
        for unknown in (theirs, uuid_utils.uuid7()):
            with pytest.raises(ConversationForbidden):
                sends.lock_for_sending(connection, conversation_id=unknown, is_template=False)


def test_an_opted_out_contact_gets_neither_text_nor_template(database: Database, agency: Agency) -> None:
    (conversation_id,) = _fill(database, agency, 1)
    with tenant_transaction(database, agency.id) as connection:
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=True)
        for is_template in (False, True):
            with pytest.raises(ContactOptedOut):
                sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=is_template)
        conversations.set_opted_out(connection, conversation_id=conversation_id, opted_out=False)
        channel_id = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=False).channel_id
    assert channel_id == agency.sms_id


def test_an_old_conversation_over_sms_has_no_window(database: Database, agency: Agency) -> None:
    (conversation_id,) = _fill(database, agency, 1)
    with tenant_transaction(database, agency.id) as connection:
        _let_a_day_pass(connection)
        channel_id = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=False).channel_id
    assert channel_id == agency.sms_id


def test_whatsapp_reports_when_its_window_closes(database: Database, agency: Agency) -> None:
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = _whatsapp_conversation(connection, agency)
        record = json.loads(conversations.get(connection, conversation_id=conversation_id))
        assert record["messaging"]["can_send_freeform"] is True
        assert record["messaging"]["window_expires_at"] > record["last_message_at"]


def test_a_closed_whatsapp_window_blocks_free_text_and_says_so(database: Database, agency: Agency) -> None:
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = _whatsapp_conversation(connection, agency)
        _let_a_day_pass(connection)
        record = json.loads(conversations.get(connection, conversation_id=conversation_id))
        assert record["messaging"]["blocked_reason"] == "whatsapp_window_closed"
        with pytest.raises(WhatsAppWindowClosed):
            sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=False)
        sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=True)


def test_an_inbound_message_reopens_a_resolved_conversation_and_an_outbound_one_does_not(
    database: Database, agency: Agency
) -> None:
    (conversation_id,) = _fill(database, agency, 1)
    with tenant_transaction(database, agency.id) as connection:
        set_status(connection, "resolved")
        insert_message(connection, conversation_id=conversation_id, direction="outbound", status="queued", content="a")
        assert json.loads(conversations.get(connection, conversation_id=conversation_id))["status"] == "resolved"
        assert make_conversation(connection, agency, phone="+12025550100") == conversation_id
        record = json.loads(conversations.get(connection, conversation_id=conversation_id))
    assert record["status"] == "open"
    assert record["last_message_direction"] == "inbound"


def test_a_contact_has_one_conversation_per_channel(database: Database, agency: Agency) -> None:
    with tenant_transaction(database, agency.id) as connection:
        first = make_conversation(connection, agency, phone=CONTACT_PHONE)
        again = make_conversation(connection, agency, phone=CONTACT_PHONE)
        over_whatsapp = _whatsapp_conversation(connection, agency)
    assert first == again != over_whatsapp


def _send(connection: TenantConnection, conversation_id: UUID, key: str | None) -> datetime:
    sender = sends.begin(connection, conversation_id=conversation_id, is_template=True, key=key, fingerprint=b"")
    assert isinstance(sender, sends.Sender)
    return sender.next_sent_at


def _write(connection: TenantConnection, conversation_id: UUID, agency: Agency) -> datetime:
    make_conversation(connection, agency, phone="+12025550100")
    page = messages.list_page(connection, conversation_id=conversation_id, limit=1, before=None)
    return datetime.fromisoformat(json.loads(page.messages)[0]["sent_at"])


@pytest.mark.parametrize("what", ["sent", "sent with a key", "written by the contact"])
def test_what_comes_while_a_message_is_sent_has_its_place_behind_it(
    database: Database, agency: Agency, what: str
) -> None:
    (conversation_id,) = _fill(database, agency, 1)

    def come() -> datetime:
        with tenant_transaction(database, agency.id) as connection:
            if what == "written by the contact":
                return _write(connection, conversation_id, agency)
            return _send(connection, conversation_id, None if what == "sent" else "a-key")

    with ThreadPoolExecutor(1) as pool:
        with tenant_transaction(database, agency.id) as connection:
            sender = sends.lock_for_sending(connection, conversation_id=conversation_id, is_template=True)
            came = pool.submit(come)
            _await_somebody_who_waits(connection)
            sent_at = sender.next_sent_at + timedelta(hours=1)
            messages.insert(
                connection, conversation_id=conversation_id, direction="outbound", status="queued", sent_at=sent_at
            )
        assert came.result() == sent_at + timedelta(microseconds=1)


def test_a_message_that_is_brought_again_changes_and_makes_nothing(database: Database, agency: Agency) -> None:
    def bring(name: str, channel_id: UUID) -> bool:
        with suppress(inbound.AlreadyHere), tenant_transaction(database, agency.id) as connection:
            message = InboundMessage(twilio_sid="SM1", sender=CONTACT_PHONE, content="Hello", profile_name=name)
            inbound.store(connection, channel_id=channel_id, message=message)
            return True
        return False

    assert bring("Ann", agency.sms_id)
    assert not bring("Somebody else", agency.sms_id)
    assert not bring("Ann", agency.whatsapp_id)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        names = connection.execute(text("select name from contacts where agency_id = :agency_id")).scalars().all()
        talks = connection.execute(text("select channel_id from conversations where agency_id = :agency_id"))
        assert (names, talks.scalars().all()) == (["Ann"], [agency.sms_id])


def _await_somebody_who_waits(connection: TenantConnection) -> None:
    """For a lock that this transaction holds."""
    waiting = text("select exists (select 1 from pg_locks where not granted and database is null)")
    deadline = time.monotonic() + 30
    while not connection.execute(waiting).scalar_one():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _whatsapp_conversation(connection: TenantConnection, agency: Agency) -> UUID:
    return make_conversation(connection, replace(agency, sms_id=agency.whatsapp_id))


def _let_a_day_pass(connection: TenantConnection) -> None:
    connection.execute(
        text("""
            update conversations
            set last_inbound_at = clock_timestamp() - interval '24 hours 1 second'
            where agency_id = :agency_id""")
    )
