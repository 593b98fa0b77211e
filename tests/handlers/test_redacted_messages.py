"""A message whose words were deleted at the contact's request: what it looks like, and what no longer happens to it."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from persistence import conversations, redaction
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency
from tests.api_client import BASE_PATH, Api, inbound_form, new_sid

WORDS = "the words of a person"


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def owner(api: Api) -> Iterator[Database]:
    pool = Database(api.urls.owner, pool_size=1)
    yield pool
    pool.close()


def redact(owner: Database, agency: Agency) -> None:
    """What the command does here."""
    with tenant_transaction(owner, agency.id) as connection:
        contact_id = redaction.find_contact(connection, phone=CONTACT_PHONE)
        assert contact_id is not None
        for thread in redaction.forget_contact(connection, contact_id=contact_id, phone=CONTACT_PHONE):
            conversations.lock(connection, conversation_id=thread.id)
            redaction.redact(connection, conversation_id=thread.id, limit=100, request_id="test")


def settle(api: Api, agency: Agency, message_id: str, status: str) -> None:
    """The message is not under way any more."""
    update = "update messages set status = :status where agency_id = :agency_id and id = cast(:id as uuid)"
    api.sql(agency, update, status=status, id=message_id)
    api.sql(agency, "delete from outbox where agency_id = :agency_id and message_id = cast(:id as uuid)", id=message_id)


def everything(api: Api, agency: Agency) -> str:
    """All that is stored of an agency."""
    tables = ("contacts", "conversations", "messages", "attempts", "provider_events", "idempotency_keys")
    tables += ("audit_records", "outbox")
    return "\n".join(
        str(row.whole)
        for table in tables
        for row in api.sql(agency, f"select {table}::text as whole from {table} where agency_id = :agency_id")  # noqa: S608
    )


def report(api: Api, agency: Agency, message_id: str, status: str, **fields: str) -> None:
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": "SM" + "5" * 32, "MessageStatus": status, "To": CONTACT_PHONE}
    path = f"{BASE_PATH}/webhooks/twilio/status/{agency.id}/{message_id}/1"
    assert api.post_signed(path, (form | fields).items()).status == 200


def without_words(message: dict[str, Any]) -> dict[str, Any]:
    gone = {"content": "", "media": [], "media_url": None, "media_type": None, "template": None, "transcript": None}
    return message | gone


def test_nothing_of_what_was_said_is_stored_any_more_and_another_agencys_is(
    api: Api, mine: Agency, owner: Database
) -> None:
    other = api.new_agency()
    for agency in (mine, other):
        media = {"NumMedia": "1", "MediaUrl0": f"https://api.twilio.com/{WORDS}", "MediaContentType0": "image/png"}
        conversation = api.converse(agency, WORDS)
        api.receive(agency, WORDS, ProfileName=WORDS, **media)
        me = api.of(agency)
        sent = [
            me.send(conversation, WORDS, key=str(uuid4())),
            me.post(f"/conversations/{conversation}/messages", {"template": template()}, key=str(uuid4())),
        ]
        for answer in sent:
            report(api, agency, answer.json["id"], "undelivered", ErrorCode="30003", Extra=WORDS)
            settle(api, agency, answer.json["id"], "undelivered")
        update = "update messages set transcript = :words, error_message = :words where agency_id = :agency_id"
        api.sql(agency, update, words=WORDS)
    redact(owner, mine)
    assert WORDS not in everything(api, mine)
    kept = everything(api, other)
    assert kept.count(WORDS) > 10
    (events,) = {
        str(row.payload) for row in api.sql(mine, "select payload from provider_events where agency_id = :agency_id")
    }
    assert events == "{}"


def template() -> dict[str, Any]:
    return {"content_sid": "HX" + "0" * 32, "variables": {"1": WORDS}}


def test_a_redacted_message_keeps_all_but_its_words(api: Api, mine: Agency, owner: Database) -> None:
    me, conversation = api.of(mine), api.converse(mine, WORDS)
    message_id = me.send(conversation, WORDS).json["id"]
    report(api, mine, message_id, "undelivered", ErrorCode="30003")
    settle(api, mine, message_id, "undelivered")
    before = me.get(f"/messages/{message_id}").json
    page = me.get(f"/conversations/{conversation}/messages").json["messages"]
    redact(owner, mine)
    after = me.get(f"/messages/{message_id}").json
    assert before["redacted_at"] is None
    assert after["redacted_at"] is not None
    assert after == without_words(before) | {"redacted_at": after["redacted_at"]}
    assert after["error"] == {"code": "30003", "message": None}
    shown = me.get(f"/conversations/{conversation}/messages").json["messages"]
    assert shown == [without_words(one) | {"redacted_at": after["redacted_at"]} for one in page]
    (listed,) = me.get("/conversations").json["conversations"]
    assert (listed["last_message_preview"], listed["contact_name"]) == ("", None)


def test_the_key_of_a_redacted_message_still_protects_from_a_second_one(
    api: Api, mine: Agency, owner: Database
) -> None:
    me, conversation, key = api.of(mine), api.converse(mine), str(uuid4())
    first = me.send(conversation, WORDS, key=key).json
    settle(api, mine, first["id"], "delivered")
    redact(owner, mine)
    again = me.send(conversation, WORDS, key=key)
    assert (again.status, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json == without_words(first) | {"redacted_at": again.json["redacted_at"]}
    assert again.json["redacted_at"] is not None


def test_a_redacted_message_is_not_sent_again(api: Api, mine: Agency, owner: Database) -> None:
    me, conversation = api.of(mine), api.converse(mine)
    message_id = me.send(conversation, WORDS).json["id"]
    settle(api, mine, message_id, "unconfirmed")
    redact(owner, mine)
    assert me.post(f"/messages/{message_id}/resend").refusal == (422, "not_resendable")
    assert api.sql(mine, "select 1 from outbox where agency_id = :agency_id") == []


def test_a_late_report_moves_the_status_and_brings_back_nothing_of_the_person(
    api: Api, mine: Agency, owner: Database
) -> None:
    me, conversation = api.of(mine), api.converse(mine)
    message_id = me.send(conversation, WORDS).json["id"]
    settle(api, mine, message_id, "sent")
    redact(owner, mine)
    report(api, mine, message_id, "undelivered", Body=WORDS, ErrorCode="30003", ErrorMessage=WORDS)
    shown = me.get(f"/messages/{message_id}").json
    assert (shown["status"], shown["content"]) == ("undelivered", "")
    assert shown["error"] == {"code": "30003", "message": None}
    assert len(shown["history"]) == 1
    (event,) = api.sql(mine, "select payload from provider_events where agency_id = :agency_id")
    assert event.payload == {}


def test_the_same_webhook_again_brings_nothing_back(api: Api, mine: Agency, owner: Database) -> None:
    form = inbound_form(mine, WORDS, MessageSid=new_sid(), ProfileName="A name")
    webhook = f"{BASE_PATH}/webhooks/twilio/inbound"
    assert api.post_signed(webhook, form.items()).status == 200
    redact(owner, mine)
    before = everything(api, mine)
    assert api.post_signed(webhook, form.items()).status == 200
    assert everything(api, mine) == before
    assert WORDS not in before
    assert "A name" not in before


def test_the_number_stays_with_its_opt_out(api: Api, mine: Agency, owner: Database) -> None:
    conversation = api.converse(mine, WORDS)
    api.receive(mine, "STOP")
    redact(owner, mine)
    assert api.of(mine).send(conversation).refusal == (422, "contact_opted_out")
    (listed,) = api.of(mine).get("/conversations").json["conversations"]
    assert (UUID(listed["id"]), listed["contact_phone"]) == (UUID(conversation), CONTACT_PHONE)
