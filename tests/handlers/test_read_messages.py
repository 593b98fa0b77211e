"""Reading one conversation, its thread and one message: everything of one's own, and nothing that is not."""

from datetime import datetime
from uuid import uuid4

import pytest

from tests.agencies import ACCOUNT_SID, Agency
from tests.api_client import BASE_PATH, Api, inbound_form

MESSAGE_FIELDS = {
    "id",
    "conversation_id",
    "direction",
    "content",
    "media_url",
    "media_type",
    "media",
    "template",
    "transcript",
    "status",
    "error",
    "duplicate_detected",
    "twilio_sid",
    "sent_by",
    "sent_at",
    "delivered_at",
    "read_at",
    "created_at",
    "redacted_at",
}


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def thread(api: Api, mine: Agency) -> str:
    """A conversation of seven messages, `0` to `6`, beside another of the agency and a look-alike of another's."""
    other = api.new_agency()
    conversation_id = api.converse(mine, "0")
    for number in range(1, 7):
        api.receive(mine, str(number))
        api.receive(mine, f"another contact {number}", From="+12025550111")
        api.receive(other, f"another agency {number}")
    return conversation_id


def test_a_conversation_is_the_one_of_the_list(api: Api, mine: Agency, thread: str) -> None:
    me = api.of(mine)
    listed = {each["id"]: each for each in me.get("/conversations").json["conversations"]}
    answer = me.get(f"/conversations/{thread}")
    assert answer.status == 200
    assert answer.json == listed[thread]


def test_a_message_of_a_page_is_what_its_own_address_answers(api: Api, mine: Agency, thread: str) -> None:
    """PostgreSQL writes the page, Python the single message."""
    me = api.of(mine)
    odd = '"quoted" \\ \n\t/ \x7f\u2028 \N{PILE OF POO} é <&>'
    media = {"NumMedia": "2", "MediaUrl0": "https://api.twilio.com/m/0", "MediaContentType0": "image/png"}
    api.receive(mine, odd, **media, MediaUrl1="https://api.twilio.com/m/1")
    sent = {
        "plain": {"content": "plain"},
        "media": {"media_url": "https://example.com/a.png", "media_type": "image/png"},
        "template": {"template": {"content_sid": "HX" + "0" * 32, "variables": {"1": 'a "name"'}}},
    }
    ids = {name: me.post(f"/conversations/{thread}/messages", body).json["id"] for name, body in sent.items()}
    for name, assignment in (
        ("plain", "status = 'failed', error_code = '30003', error_message = 'Unreachable'"),
        ("media", "status = 'read', twilio_sid = 'SM1', delivered_at = sent_at, read_at = '2026-11-25 12:00:00.5Z'"),
        ("template", "duplicate_detected = true, transcript = 'spoken'"),
    ):
        update = f"update messages set {assignment} where agency_id = :agency_id and id = cast(:id as uuid)"  # noqa: S608
        api.sql(mine, update, id=ids[name])
    page = me.get(f"/conversations/{thread}/messages").json["messages"]
    assert page[3]["content"] == odd
    assert {message["id"] for message in page} >= set(ids.values())
    for message in page:
        alone = me.get(f"/messages/{message['id']}").json
        del alone["history"]
        assert message.keys() == MESSAGE_FIELDS
        assert {**message, "read_at": None} == {**alone, "read_at": None}
        assert instant(message["read_at"]) == instant(alone["read_at"])


def instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def test_a_thread_is_newest_first_and_exactly_its_own(api: Api, mine: Agency, thread: str) -> None:
    page = api.of(mine).get(f"/conversations/{thread}/messages").json
    assert [message["content"] for message in page["messages"]] == ["6", "5", "4", "3", "2", "1", "0"]
    assert (page["has_more"], page["next_before"]) == (False, None)
    for message in page["messages"]:
        assert set(message) == MESSAGE_FIELDS
        assert message["conversation_id"] == thread
        assert (message["direction"], message["status"], message["sent_by"]) == ("inbound", "received", None)


def test_before_turns_every_page_once_while_messages_arrive(api: Api, mine: Agency, thread: str) -> None:
    me, seen, before = api.of(mine), [], {}
    while before != {"before": None}:
        page = me.get(f"/conversations/{thread}/messages", limit=3, **before).json
        seen += [message["content"] for message in page["messages"]]
        assert page["has_more"] == (page["next_before"] is not None)
        before = {"before": page["next_before"]}
        api.receive(mine, "arrived between the pages")
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]


def test_a_thread_of_one_instant_is_ordered_by_id(api: Api, mine: Agency, thread: str) -> None:
    api.sql(mine, "update messages set sent_at = now() where agency_id = :agency_id")
    me, seen, before = api.of(mine), [], {}
    while before != {"before": None}:
        page = me.get(f"/conversations/{thread}/messages", limit=2, **before).json
        seen += [message["id"] for message in page["messages"]]
        before = {"before": page["next_before"]}
    assert len(seen) == 7
    assert seen == sorted(seen, reverse=True)


def test_before_must_be_a_message_of_this_conversation(api: Api, mine: Agency, thread: str) -> None:
    me, other = api.of(mine), api.new_agency()
    [elsewhere] = [each["id"] for each in me.get("/conversations").json["conversations"] if each["id"] != thread]
    foreign = api.of(other).get(f"/conversations/{api.converse(other)}/messages").json["messages"][0]["id"]
    own_but_elsewhere = me.get(f"/conversations/{elsewhere}/messages").json["messages"][0]["id"]
    answers = [
        me.get(f"/conversations/{thread}/messages", before=before) for before in (own_but_elsewhere, foreign, uuid4())
    ]
    for answer in answers:
        assert answer.refusal == (400, "invalid_request")
        assert answer.errors == {"before": "must be the id of a message of this conversation"}


@pytest.mark.parametrize("query", ["before=", "before=x", "before=%00", "limit=0", "limit=101", "offset=1", "cursor=x"])
def test_a_bad_parameter_of_a_thread_is_named(api: Api, mine: Agency, thread: str, query: str) -> None:
    me = api.of(mine)
    answer = api.ask(
        "GET",
        f"{BASE_PATH}/conversations/{thread}/messages?{query}",
        headers=[("Authorization", f"Bearer {me.token}")],
    )
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == [query.partition("=")[0]]


@pytest.mark.parametrize(
    "bad", ["x", "7", "%00", "00000000-0000-0000-0000-00000000000G", "{}", "'", "%ED%A0%80", "01980f41-7c3e-7d02-9a4b"]
)
@pytest.mark.parametrize(
    ("template", "field"),
    [
        ("/conversations/{}", "conversation_id"),
        ("/conversations/{}/messages", "conversation_id"),
        ("/messages/{}", "message_id"),
    ],
)
def test_a_malformed_id_is_400_and_named(api: Api, template: str, field: str, bad: str) -> None:
    me = api.of(api.new_agency())
    answer = api.ask("GET", BASE_PATH + template.replace("{}", bad), headers=[("Authorization", f"Bearer {me.token}")])
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == [field]


def test_an_id_in_upper_case_is_no_id_of_ours(api: Api, mine: Agency, thread: str) -> None:
    assert api.of(mine).get(f"/conversations/{thread.upper()}").refusal == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/conversations/{}", "/conversations/{}/messages"])
def test_what_does_not_exist_is_404(api: Api, mine: Agency, path: str) -> None:
    assert api.of(mine).get(path.format(uuid4())).refusal == (404, "conversation_not_found")


def test_a_message_is_read_with_its_history(api: Api, mine: Agency, thread: str) -> None:
    me = api.of(mine)
    sent = me.send(thread, "How are you?").json
    for status in ("sent", "delivered"):
        api.post_signed(
            f"{BASE_PATH}/webhooks/twilio/status/{mine.id}/{sent['id']}/1",
            [("AccountSid", ACCOUNT_SID), ("MessageSid", "SM" + "1" * 32), ("MessageStatus", status)],
        )
    message = me.get(f"/messages/{sent['id']}").json
    assert set(message) == MESSAGE_FIELDS | {"history"}
    assert (message["status"], message["twilio_sid"]) == ("delivered", "SM" + "1" * 32)
    assert message["delivered_at"] is not None
    events = [(event["status"], event["provider_status"], event["attempt"]) for event in message["history"]]
    assert events == [("sent", "sent", 1), ("delivered", "delivered", 1)]
    changed = {"status", "twilio_sid", "delivered_at", "history"}
    assert {key: message[key] for key in set(sent) - changed} == {key: sent[key] for key in set(sent) - changed}


def test_what_a_contact_wrote_is_read_back_byte_for_byte(api: Api, mine: Agency) -> None:
    written = [
        "  leading and trailing  ",
        '"quoted, comma',
        "tab\tand\r\nlines",
        "👩‍👩‍👧‍👦 é e\u0301 \u202eright to left\u202c",
        "long " + "€" * 4000,
        "",
    ]
    for content in written:
        assert api.receive(mine, content).status == 200
    conversation_id = api.of(mine).get("/conversations").json["conversations"][0]["id"]
    page = api.of(mine).get(f"/conversations/{conversation_id}/messages").json
    assert [message["content"] for message in page["messages"]] == written[::-1]


def test_attachments_are_listed_and_the_first_is_shown(api: Api, mine: Agency) -> None:
    media = {f"MediaUrl{number}": f"https://api.twilio.com/2010-04-01/Media/ME{number}" for number in range(10)}
    types = {f"MediaContentType{number}": "image/jpeg" for number in range(9)}
    form = inbound_form(mine, "", NumMedia="10", **media, **types)
    conversation_id = api.converse(mine)
    api.receive(mine, **form)
    message = api.of(mine).get(f"/conversations/{conversation_id}/messages").json["messages"][0]
    assert [each["url"] for each in message["media"]] == list(media.values())
    assert [each["content_type"] for each in message["media"]] == ["image/jpeg"] * 9 + [None]
    assert (message["media_url"], message["media_type"]) == (media["MediaUrl0"], "image/jpeg")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "https://api.twilio.com.evil.example/",
        "http://[::1",
        "javascript:alert(1)",
        "file:///etc",
        "",
        "javascript://a.twilio.com/%0aalert(1)",
        "file://x.twilio.com/etc",
        "http://api.twilio.com/2010-04-01/Media/ME0",
        "//api.twilio.com/x",
        "https:/api.twilio.com/x",
        "https:api.twilio.com/x",
        "https://evil.example\\.twilio.com/",
        "https://evil.example/\\.twilio.com/",
        "https://api.twilio.com\\@evil.example/",
        "https://evil.example%2f.twilio.com/",
        "https://evil.example／.twilio.com/",
        "https://user@api.twilio.com/x",
        "https://user:pass@api.twilio.com/x",
        "https://api.twilio.com@evil.example/",
        "https://api.twilio.com:x/",
        "https://twilio.com/x",
        "https://.twilio.com/x",
        "https://eviltwilio.com/x",
        "https://api.twilio.com/a b",
        "https://api.twilio.com/\n",
        "https://api.twi\tlio.com/x",
        "https://api.twilio.com/\x7f",
        "https://api.twilio.com/\0",
        'https://api.twilio.com/"><script>',
        " https://api.twilio.com/x",
        "https://api.twilio.com/x\n",
    ],
)
def test_an_attachment_that_does_not_lie_at_twilio_is_left_out(api: Api, mine: Agency, url: str) -> None:
    conversation_id = api.converse(mine)
    at_twilio = "https://media.api.twilio.com/x?a=b#c"
    assert api.receive(mine, "look", NumMedia="2", MediaUrl0=url, MediaUrl1=at_twilio).status == 200
    message = api.of(mine).get(f"/conversations/{conversation_id}/messages").json["messages"][0]
    assert (message["content"], message["media_url"]) == ("look", at_twilio)
    assert [each["url"] for each in message["media"]] == [at_twilio]


@pytest.mark.parametrize("number", ["²", "１", "-1", "1e3", "", "9" * 5000])
def test_a_number_of_attachments_that_is_none_counts_as_none(api: Api, mine: Agency, number: str) -> None:
    conversation_id = api.converse(mine)
    assert api.receive(mine, "look", NumMedia=number).status == 200
    assert api.of(mine).get(f"/conversations/{conversation_id}/messages").json["messages"][0]["media"] == []
