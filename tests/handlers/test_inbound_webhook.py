"""What contacts write arrives: once, whole, in the one right conversation, however often and however at once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from urllib.parse import quote_from_bytes, urlencode
from uuid import uuid4

import pytest

from delivery import twilio_gateway
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency
from tests.api_client import AUTH_TOKEN, INBOUND, PUBLIC_BASE_URL, Answer, Api, inbound_form, new_sid


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


def conversations(api: Api, agency: Agency) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = api.of(agency).get("/conversations", limit=100).json["conversations"]
    return listed


def thread(api: Api, agency: Agency, conversation_id: object) -> list[dict[str, object]]:
    """The messages, the oldest first."""
    page = api.of(agency).get(f"/conversations/{conversation_id}/messages", limit=100).json
    return list(reversed(page["messages"]))


def test_a_first_message_makes_the_contact_and_the_conversation(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    sid = new_sid()
    assert api.receive(mine, "Do you have time on Friday?", MessageSid=sid).status == 200
    [conversation] = conversations(api, mine)
    assert (conversation["contact_phone"], conversation["contact_name"]) == (CONTACT_PHONE, None)
    assert (conversation["status"], conversation["channel"]) == ("open", "sms")
    [message] = thread(api, mine, conversation["id"])
    assert (message["content"], message["twilio_sid"]) == ("Do you have time on Friday?", sid)
    assert conversations(api, other) == []


def test_whatsapp_is_another_conversation_of_the_same_contact(api: Api, mine: Agency) -> None:
    sms = api.converse(mine)
    whatsapp = api.converse(mine, channel="whatsapp")
    by_id = {each["id"]: each for each in conversations(api, mine)}
    assert by_id.keys() == {sms, whatsapp}
    assert by_id[sms]["contact_id"] == by_id[whatsapp]["contact_id"]
    assert (by_id[sms]["channel"], by_id[whatsapp]["channel"]) == ("sms", "whatsapp")
    assert by_id[whatsapp]["contact_phone"] == CONTACT_PHONE


def test_the_contacts_name_is_the_latest_that_whatsapp_told(api: Api, mine: Agency) -> None:
    for name in ("Ann", "", "Ann Lee"):
        api.receive(mine, ProfileName=name)
    api.receive(mine)
    assert [each["contact_name"] for each in conversations(api, mine)] == ["Ann Lee"]


def test_a_number_may_belong_to_a_messaging_service(api: Api, mine: Agency) -> None:
    service_sid = "MG" + uuid4().hex
    api.sql(
        mine,
        """update number_routing set address = :sid where agency_id = :agency_id and channel_id = :channel_id""",
        sid=service_sid,
        channel_id=mine.sms_id,
    )
    assert api.receive(mine, "To the pool", MessagingServiceSid=service_sid, To="+12025559999").status == 200
    assert [each["last_message_preview"] for each in conversations(api, mine)] == ["To the pool"]


def test_an_exact_replay_changes_nothing(api: Api, mine: Agency) -> None:
    form = inbound_form(mine, "Once")
    api.post_signed(INBOUND, form.items())
    before = conversations(api, mine)
    again = api.post_signed(INBOUND, form.items())
    assert again.status == 200
    assert conversations(api, mine) == before
    assert len(thread(api, mine, before[0]["id"])) == 1


def test_a_replay_with_other_uncovered_headers_changes_nothing(api: Api, mine: Agency) -> None:
    form = inbound_form(mine, "Once")
    body, signature = (
        urlencode(form).encode(),
        twilio_gateway.sign(PUBLIC_BASE_URL + INBOUND, list(form.items()), AUTH_TOKEN),
    )
    for token in ("first", "second", "third"):
        headers = [("X-Twilio-Signature", signature), ("I-Twilio-Idempotency-Token", token)]
        headers.append(("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"))
        assert api.ask("POST", INBOUND, headers=headers, body=body).status == 200
    [conversation] = conversations(api, mine)
    assert len(thread(api, mine, conversation["id"])) == 1


def test_a_replay_does_not_reopen_or_opt_in_again(api: Api, mine: Agency) -> None:
    start = inbound_form(mine, "START")
    api.post_signed(INBOUND, start.items())
    api.receive(mine, "STOP")
    api.set_status(mine, "resolved")
    api.post_signed(INBOUND, start.items())
    [conversation] = conversations(api, mine)
    assert conversation["status"] == "resolved"
    assert conversation["messaging"]["blocked_reason"] == "contact_opted_out"  # type: ignore[index]


def fifty(post: list[dict[str, str]], api: Api) -> list[Answer]:
    with ThreadPoolExecutor(50) as pool:
        return list(pool.map(lambda form: api.post_signed(INBOUND, form.items()), post))


def test_one_message_delivered_fifty_times_at_once_is_stored_once(api: Api, mine: Agency) -> None:
    answers = fifty([inbound_form(mine, "Once")] * 50, api)
    assert Counter(answer.status for answer in answers) == {200: 50}
    [conversation] = conversations(api, mine)
    assert [message["content"] for message in thread(api, mine, conversation["id"])] == ["Once"]


def test_fifty_first_messages_at_once_make_one_conversation_with_fifty_messages(api: Api, mine: Agency) -> None:
    answers = fifty([inbound_form(mine, str(number)) for number in range(50)], api)
    assert Counter(answer.status for answer in answers) == {200: 50}
    [conversation] = conversations(api, mine)
    messages = thread(api, mine, conversation["id"])
    assert sorted(int(str(message["content"])) for message in messages) == list(range(50))
    assert all(str(earlier["sent_at"]) < str(later["sent_at"]) for earlier, later in pairwise(messages))
    assert conversation["last_message_preview"] == messages[-1]["content"]
    [contacts] = api.sql(mine, "select count(*) from contacts where agency_id = :agency_id")
    assert contacts.count == 1


def test_messages_of_fifty_contacts_to_two_agencies_at_once_do_not_mix(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    forms = [
        inbound_form(agency, f"{agency.id} {number}", From=f"+1202555{6000 + number}")
        for number in range(25)
        for agency in (mine, other)
    ]
    assert Counter(answer.status for answer in fifty(forms, api)) == {200: 50}
    for agency in (mine, other):
        previews = {str(each["last_message_preview"]) for each in conversations(api, agency)}
        assert previews == {f"{agency.id} {number}" for number in range(25)}


@pytest.mark.parametrize(("before", "after"), [("resolved", "open"), ("open", "open"), ("in_progress", "in_progress")])
def test_a_message_reopens_a_resolved_conversation_only(api: Api, mine: Agency, before: str, after: str) -> None:
    conversation_id = api.converse(mine)
    api.set_status(mine, before)
    api.receive(mine, "One more thing")
    [conversation] = conversations(api, mine)
    assert (conversation["id"], conversation["status"]) == (conversation_id, after)


@pytest.mark.parametrize(
    ("content", "fields", "opted_out"),
    [
        ("STOP", {}, True),
        (" stop\n", {}, True),
        ("Unsubscribe", {}, True),
        ("please stop", {}, False),
        ("stop it", {}, False),
        ("HELP", {}, False),
        ("arret", {"OptOutType": "STOP"}, True),
        ("STOP", {"OptOutType": "HELP"}, False),
    ],
)
def test_opt_out_words_count_when_they_are_the_whole_message(
    api: Api, mine: Agency, content: str, fields: dict[str, str], opted_out: bool
) -> None:
    api.receive(mine, content, **fields)
    [conversation] = conversations(api, mine)
    assert (conversation["messaging"]["blocked_reason"] == "contact_opted_out") is opted_out  # type: ignore[index]
    assert [message["content"] for message in thread(api, mine, conversation["id"])] == [content]


def test_an_opt_out_concerns_one_contact_and_one_channel(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    stopped = api.converse(mine, "STOP")
    free = [api.converse(mine, phone="+12025550111"), api.converse(mine, channel="whatsapp")]
    assert api.of(mine).send(stopped).status == 422
    assert [api.of(mine).send(conversation_id).status for conversation_id in free] == [201, 201]
    assert api.of(other).send(api.converse(other)).status == 201


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"a\0b", "a\ufffdb"),
        (b"\0", "\ufffd"),
        (b"half \xed\xa0\x80 pair", "half \ufffd\ufffd\ufffd pair"),
        (b"latin \xe9", "latin \ufffd"),
    ],
)
def test_what_text_cannot_hold_is_replaced_and_flagged(api: Api, mine: Agency, raw: bytes, kept: str) -> None:
    form = {name: value.encode() for name, value in inbound_form(mine).items()} | {"Body": raw, "ProfileName": raw}
    pairs = [(name, value.decode("utf-8", "surrogateescape")) for name, value in form.items()]
    signature = twilio_gateway.sign(PUBLIC_BASE_URL + INBOUND, pairs, AUTH_TOKEN)
    body = "&".join(f"{name}={quote_from_bytes(value, safe='')}" for name, value in form.items())
    assert api.post_form(INBOUND, body.encode(), signature).status == 200
    [conversation] = conversations(api, mine)
    assert conversation["contact_name"] == kept
    assert [message["content"] for message in thread(api, mine, conversation["id"])] == [kept]
    [row] = api.sql(mine, "select content_repaired from messages where agency_id = :agency_id")
    assert row.content_repaired is True


def test_a_replacement_character_that_was_written_is_not_flagged(api: Api, mine: Agency) -> None:
    api.receive(mine, "\ufffd")
    [row] = api.sql(mine, "select content, content_repaired from messages where agency_id = :agency_id")
    assert tuple(row) == ("\ufffd", False)


@pytest.mark.parametrize("field", ["MessageSid", "AccountSid", "From", "To", "MessagingServiceSid", "OptOutType", "X"])
@pytest.mark.parametrize("value", ["\0", "\udced\udca0\udc80", "\udcff", "x" * 20_000])
def test_no_character_and_no_length_of_any_field_breaks_it(api: Api, mine: Agency, field: str, value: str) -> None:
    form = inbound_form(mine, **{field: value})
    assert api.post_signed(INBOUND, form.items()).status in (200, 400, 403)
    assert api.post_form(INBOUND, urlencode(form, errors="surrogateescape").encode(), "x").status == 403


@pytest.mark.parametrize("field", ["MessageSid", "From"])
def test_a_signed_message_without_what_twilio_always_sends_is_400(api: Api, mine: Agency, field: str) -> None:
    answer = api.receive(mine, **{field: ""})
    assert answer.refusal == (400, "invalid_request")
    assert answer.errors == {field: "is required"}
    assert conversations(api, mine) == []


def test_one_number_on_two_accounts_belongs_to_two_agencies(api: Api, mine: Agency) -> None:
    # The same number on another account: an old account's number, ported to a new one.
    other = api.new_agency()
    api.sql(
        other,
        """update number_routing set account_sid = 'AC' || repeat('e', 32), address = :address
        where agency_id = :agency_id and channel_id = :channel_id""",
        address=mine.sms_address,
        channel_id=other.sms_id,
    )
    assert api.receive(mine, "Hello", AccountSid=ACCOUNT_SID).status == 200
    assert api.receive(mine, "Hello", AccountSid="AC" + "e" * 32).status == 403
    assert (len(conversations(api, mine)), len(conversations(api, other))) == (1, 0)


def test_twilio_is_never_told_to_slow_down(api: Api, mine: Agency) -> None:
    answers = [api.receive(mine, str(number)) for number in range(30)]
    assert {answer.status for answer in answers} == {200}
    assert not any("ratelimit" in answer.headers for answer in answers)
