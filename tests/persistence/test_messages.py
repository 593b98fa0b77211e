"""Threads: order, pages, previews and statuses, always beside another agency's look-alike rows."""

import json
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence import conversations, message_status, messages
from persistence.errors import ConversationNotFound, InvalidFields, MessageNotFound
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency, Urls, insert_message, make_conversation


def _thread(database: Database, agency: Agency, count: int) -> tuple[UUID, list[UUID]]:
    """A conversation whose first message is inbound and whose others are outbound; newest last."""
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = make_conversation(connection, agency)
        for number in range(count - 1):
            insert_message(
                connection,
                conversation_id=conversation_id,
                direction="outbound",
                status="queued",
                content=f"Answer {number}",
            )
        page = messages.list_page(connection, conversation_id=conversation_id, limit=100, before=None)
    return conversation_id, _ids(page)[::-1]


def _ids(page: messages.Page) -> list[UUID]:
    return [UUID(message["id"]) for message in json.loads(page.messages)]


def _walk(database: Database, agency: Agency, conversation_id: UUID, limit: int) -> list[UUID]:
    seen: list[UUID] = []
    before = None
    while True:
        with tenant_transaction(database, agency.id, read_only=True) as connection:
            page = messages.list_page(connection, conversation_id=conversation_id, limit=limit, before=before)
        seen += _ids(page)
        assert page.has_more == (page.next_before is not None)
        if page.next_before is None:
            return seen
        before = UUID(page.next_before)


def test_pages_hold_every_message_once(database: Database, agency: Agency, other_agency: Agency) -> None:
    conversation_id, ids = _thread(database, agency, 8)
    _thread(database, other_agency, 8)
    assert len(set(ids)) == 8
    assert _walk(database, agency, conversation_id, limit=3) == ids[::-1]


def test_pages_hold_every_message_once_when_timestamps_tie(urls: Urls, database: Database, agency: Agency) -> None:
    conversation_id, ids = _thread(database, agency, 8)
    owner = Database(urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update messages set sent_at = '2026-01-01' where agency_id = :agency_id"))
    owner.close()
    assert _walk(database, agency, conversation_id, limit=3) == sorted(ids, reverse=True)


def test_a_message_that_arrives_between_pages_neither_repeats_nor_hides_one(database: Database, agency: Agency) -> None:
    conversation_id, ids = _thread(database, agency, 6)
    with tenant_transaction(database, agency.id) as connection:
        first = messages.list_page(connection, conversation_id=conversation_id, limit=3, before=None)
        insert_message(connection, conversation_id=conversation_id, direction="outbound", status="queued", content="x")
        second = messages.list_page(
            connection, conversation_id=conversation_id, limit=3, before=UUID(first.next_before)
        )
    assert _ids(first) + _ids(second) == ids[::-1]


def test_before_must_be_a_message_of_this_conversation(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    conversation_id, _ = _thread(database, agency, 2)
    _, theirs = _thread(database, other_agency, 2)
    with tenant_transaction(database, agency.id) as connection:
        another = make_conversation(connection, agency, phone="+12025550111")
        in_another = _ids(messages.list_page(connection, conversation_id=another, limit=1, before=None))[0]
        for before in (theirs[0], in_another, uuid_utils.uuid7()):
            with pytest.raises(InvalidFields) as refused:
                messages.list_page(connection, conversation_id=conversation_id, limit=5, before=before)
            assert refused.value.errors[0][0] == "before"


def test_another_agencys_thread_is_not_found(database: Database, agency: Agency, other_agency: Agency) -> None:
    theirs, ids = _thread(database, other_agency, 2)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        for unknown in (theirs, uuid_utils.uuid7()):
            with pytest.raises(ConversationNotFound):
                messages.list_page(connection, conversation_id=unknown, limit=5, before=None)
        for unknown in (ids[0], uuid_utils.uuid7()):
            with pytest.raises(MessageNotFound):
                messages.get(connection, message_id=unknown)


def test_a_message_takes_its_place_after_the_last_one_even_when_the_clock_was_set_back(
    database: Database, agency: Agency
) -> None:
    conversation_id, _ = _thread(database, agency, 1)
    with tenant_transaction(database, agency.id) as connection:
        ahead = connection.execute(
            text("""
                update conversations
                set last_message_at = clock_timestamp() + interval '1 hour'
                where agency_id = :agency_id
                returning last_message_at""")
        ).scalar_one()
        message = insert_message(
            connection, conversation_id=conversation_id, direction="outbound", status="queued", content="later"
        )
        record = json.loads(conversations.get(connection, conversation_id=conversation_id))
    assert message["sent_at"] == ahead + timedelta(microseconds=1)
    assert datetime.fromisoformat(record["last_message_at"]) == message["sent_at"]
    assert record["last_message_preview"] == "later"


def test_the_preview_is_one_line_of_at_most_160_characters() -> None:
    assert messages.preview("  two\r\n lines\tand more ") == "two lines and more"
    assert messages.preview("😀" * 200) == "😀" * 160


def test_the_database_moves_a_status_exactly_where_the_table_says(database: Database, agency: Agency) -> None:
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = make_conversation(connection, agency)
        for source, targets in message_status.TRANSITIONS.items():
            if source == "received":
                continue  # of inbound messages only, which nothing moves
            for target in message_status.TRANSITIONS:
                message = insert_message(
                    connection, conversation_id=conversation_id, direction="outbound", status=source, content="x"
                )
                moved = messages.advance_status(connection, message_id=message["id"], status=target)
                after = messages.get(connection, message_id=message["id"])["status"]
                assert (moved, after) == ((True, target) if target in targets else (False, source))


def test_another_agencys_message_is_never_moved(database: Database, agency: Agency, other_agency: Agency) -> None:
    _, theirs = _thread(database, other_agency, 2)
    with tenant_transaction(database, agency.id) as connection:
        assert not messages.advance_status(connection, message_id=theirs[1], status="sent")
    with tenant_transaction(database, other_agency.id, read_only=True) as connection:
        assert messages.get(connection, message_id=theirs[1])["status"] == "queued"


def test_the_first_error_stays(database: Database, agency: Agency) -> None:
    _, ids = _thread(database, agency, 2)
    with tenant_transaction(database, agency.id) as connection:
        messages.advance_status(connection, message_id=ids[1], status="sent", error_code="30008", error_message="first")
        messages.advance_status(
            connection, message_id=ids[1], status="undelivered", error_code="30003", error_message="second"
        )
        message = messages.get(connection, message_id=ids[1])
    assert (message["status"], message["error"]) == ("undelivered", {"code": "30008", "message": "first"})


def test_read_without_delivered_counts_as_delivered(database: Database, agency: Agency) -> None:
    _, ids = _thread(database, agency, 2)
    with tenant_transaction(database, agency.id) as connection:
        messages.advance_status(connection, message_id=ids[1], status="read")
        message = messages.get(connection, message_id=ids[1])
    assert message["delivered_at"] is not None
    assert message["read_at"] is not None


def test_a_second_sid_is_flagged_and_the_first_one_stays(database: Database, agency: Agency) -> None:
    _, ids = _thread(database, agency, 2)
    first, second = f"SM{'1' * 32}", f"SM{'2' * 32}"
    with tenant_transaction(database, agency.id) as connection:
        assert not messages.bind_twilio_sid(connection, message_id=ids[1], twilio_sid=first)
        assert not messages.bind_twilio_sid(connection, message_id=ids[1], twilio_sid=first)
        assert messages.bind_twilio_sid(connection, message_id=ids[1], twilio_sid=second)
        message = messages.get(connection, message_id=ids[1])
    assert (message["twilio_sid"], message["duplicate_detected"]) == (first, True)
