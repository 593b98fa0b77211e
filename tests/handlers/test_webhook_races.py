"""Webhooks that come at once with one SID: one of them has it, the others find it there, and none leaves anything."""

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.agencies import ACCOUNT_SID, Agency
from tests.api_client import BASE_PATH, Answer, Api, new_sid
from tests.reliability.test_database_faults import cursor_of

FOUR = [f"+1202555{number}" for number in range(7000, 7004)]


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


def report(api: Api, agency: Agency, message_id: str, sid: str) -> Answer:
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": sid, "MessageStatus": "sent"}
    return api.post_signed(f"{BASE_PATH}/webhooks/twilio/status/{agency.id}/{message_id}/1", form.items())


def await_waiting(session: Any, number: int) -> None:
    """Until so many transactions wait for a lock."""
    deadline = time.monotonic() + 30
    while True:
        session.execute("select count(*) from pg_locks where not granted")
        [(waiting,)] = session.fetchall()
        if waiting >= number:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def thread(api: Api, agency: Agency, conversation_id: str) -> list[str]:
    page = api.of(agency).get(f"/conversations/{conversation_id}/messages").json
    return [message["content"] for message in page["messages"]]


def inbox(api: Api, agency: Agency) -> dict[str, list[str]]:
    """What each contact wrote; the list and its total say the same."""
    page = api.of(agency).get("/conversations", limit=100).json
    assert page["total"] == len(page["conversations"])
    return {each["contact_phone"]: thread(api, agency, each["id"]) for each in page["conversations"]}


def rows(api: Api, agency: Agency) -> tuple[int, ...]:
    """How many contacts, conversations and messages there are."""
    [row] = api.sql(
        agency,
        """select (select count(*) from contacts where agency_id = :agency_id),
        (select count(*) from conversations where agency_id = :agency_id),
        (select count(*) from messages where agency_id = :agency_id)""",
    )
    return tuple(row)


def test_one_sid_from_four_contacts_at_once_is_one_message(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    for agency in (mine, other):
        api.converse(agency)
    sid = new_sid()
    with ThreadPoolExecutor(4) as pool:
        with cursor_of(api.urls.superuser) as session:
            # All four have found nothing, made contact and conversation, and wait to count the latter.
            session.execute(
                "select 1 from conversation_counts where agency_id = %s and status = 'open' for update", (str(mine.id),)
            )
            posts = [pool.submit(api.receive, mine, "Once", From=phone, MessageSid=sid) for phone in FOUR]
            await_waiting(session, 4)
        assert [post.result().status for post in posts] == [200] * 4
    assert Counter(content for contents in inbox(api, mine).values() for content in contents) == {"Hello": 1, "Once": 1}
    assert rows(api, mine) == (2, 2, 2)
    assert rows(api, other) == (1, 1, 1)


def test_who_finds_the_message_there_after_beginning_a_conversation_takes_it_back(api: Api, mine: Agency) -> None:
    late, early = FOUR[:2]
    api.converse(mine, phone=late, channel="whatsapp")
    before = inbox(api, mine)
    sid = new_sid()
    with ThreadPoolExecutor(1) as pool:
        with cursor_of(api.urls.superuser) as session:
            # Somebody begins the same conversation and gives up; meanwhile the message arrives from somebody else.
            session.execute(
                """insert into conversations (agency_id, id, location_id, channel_id, contact_id, last_message_at,
                    last_message_direction)
                select agency_id, gen_random_uuid(), %s, %s, id, now(), 'inbound' from contacts where agency_id = %s""",
                (str(mine.location_id), str(mine.sms_id), str(mine.id)),
            )
            post = pool.submit(api.receive, mine, "Late", From=late, MessageSid=sid)
            await_waiting(session, 1)
            assert api.receive(mine, "Early", From=early, MessageSid=sid).status == 200
            session.execute("rollback")
        assert post.result().status == 200
    assert inbox(api, mine) == {**before, early: ["Early"]}
    assert rows(api, mine) == (2, 2, 2)


def test_a_sid_that_another_message_is_being_given_is_not_bound_to_this_one(api: Api, mine: Agency) -> None:
    first, second = (api.of(mine).send(api.converse(mine, phone=phone)).json["id"] for phone in FOUR[:2])
    sid = new_sid()
    with ThreadPoolExecutor(1) as pool:
        with cursor_of(api.urls.superuser) as session:
            session.execute(
                "update messages set twilio_sid = %s where agency_id = %s and id = %s", (sid, str(mine.id), first)
            )
            post = pool.submit(report, api, mine, second, sid)
            await_waiting(session, 1)
        assert post.result().status == 200
    shown = [api.of(mine).get(f"/messages/{message_id}").json for message_id in (first, second)]
    assert [message["twilio_sid"] for message in shown] == [sid, None]
    # As when the report comes later: what it says of the message counts, and is kept once.
    assert (shown[1]["status"], [event["twilio_sid"] for event in shown[1]["history"]]) == ("sent", [sid])


def test_one_sid_for_four_messages_at_once_is_bound_to_one(api: Api, mine: Agency) -> None:
    messages = [api.of(mine).send(api.converse(mine, phone=phone)).json["id"] for phone in FOUR]
    with ThreadPoolExecutor(4) as pool:
        for sid in (new_sid() for _ in range(10)):
            answers = pool.map(lambda message_id, sid=sid: report(api, mine, message_id, sid), messages)
            assert [answer.status for answer in answers] == [200] * 4
            bound = api.sql(mine, "select id from messages where agency_id = :agency_id and twilio_sid = :sid", sid=sid)
            assert len(bound) <= 1


def test_a_conversation_that_was_left_without_a_message_is_not_shown_until_it_has_one(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    for agency in (mine, other):
        conversation_id = api.converse(agency)
    [damaged] = api.sql(mine, "select id from conversations where agency_id = :agency_id")
    # What a release before this one could leave: it was never counted.
    api.sql(mine, "delete from messages where agency_id = :agency_id")
    api.sql(mine, "update conversations set last_message_at = '-infinity' where agency_id = :agency_id")
    api.recount(mine.id)
    assert inbox(api, mine) == {}
    assert api.of(mine).get("/conversations", status="open").json["total"] == 0
    assert api.of(mine).get(f"/conversations/{damaged.id}").refusal == (404, "conversation_not_found")
    assert api.converse(mine, "At last") == str(damaged.id)
    assert list(inbox(api, mine).values()) == [["At last"]]
    assert thread(api, other, conversation_id) == ["Hello"]


def test_a_report_waits_for_whoever_holds_the_conversation_and_keeps_nobody_waiting(
    api: Api, mine: Agency, caplog: pytest.LogCaptureFixture
) -> None:
    """As the reconciler does: it holds the conversation, and then keeps the event that the report brings as well."""
    conversation = api.converse(mine, phone=FOUR[0])
    message_id, sid = api.of(mine).send(conversation).json["id"], new_sid()
    with caplog.at_level(logging.INFO, "conversations_api"), ThreadPoolExecutor(1) as pool:
        with cursor_of(api.urls.superuser) as session:
            session.execute("set local lock_timeout = '10s'")
            session.execute("select from conversations where id = %s for no key update", (conversation,))
            post = pool.submit(report, api, mine, message_id, sid)
            await_waiting(session, 1)
            session.execute(
                """insert into provider_events (agency_id, id, message_id, twilio_sid, provider_status, error_code,
                    status, payload)
                values (%s, gen_random_uuid(), %s, %s, 'sent', '', 'sent', '{}')""",
                (str(mine.id), message_id, sid),
            )
        assert post.result().status == 200
    shown = api.of(mine).get(f"/messages/{message_id}").json
    assert [event["twilio_sid"] for event in shown["history"]] == [sid]
    # A deadlock would have been resolved, by doing the request again.
    assert "request_repeated" not in caplog.messages
    assert "request" in caplog.messages
