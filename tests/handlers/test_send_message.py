"""POST /conversations/{id}/messages: who may send what where, and what is kept of it."""

import json
import re
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.agencies import Agency
from tests.api_client import BASE_PATH, Api
from tests.handlers.test_read_messages import MESSAGE_FIELDS


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def conversation(api: Api, mine: Agency) -> str:
    return api.converse(mine)


def sent_messages(api: Api, agency: Agency) -> list[str]:
    rows = api.sql(
        agency,
        "select content from messages where agency_id = :agency_id and direction = 'outbound' order by sent_at",
    )
    return [row.content for row in rows]


def test_a_message_is_accepted_with_its_whole_record_and_address(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine, user_id="user_42")
    answer = me.send(conversation, "On our way")
    assert answer.status == 201
    message = answer.json
    assert set(message) == MESSAGE_FIELDS
    assert (message["conversation_id"], message["direction"], message["content"]) == (
        conversation,
        "outbound",
        "On our way",
    )
    assert (message["status"], message["sent_by"], message["twilio_sid"]) == ("queued", "user_42", None)
    assert (message["media"], message["template"], message["error"]) == ([], None, None)
    assert answer.headers["location"] == f"{BASE_PATH}/messages/{message['id']}"
    assert answer.headers["idempotent-replayed"] == "false"
    followed = me.get(answer.headers["location"].removeprefix(BASE_PATH)).json
    assert followed == {**message, "history": []}


def test_a_message_is_queued_for_the_worker_and_leads_its_conversation(
    api: Api, mine: Agency, conversation: str
) -> None:
    me = api.of(mine)
    message = me.send(conversation, "On our way").json
    [queued] = api.sql(mine, "select message_id, state from outbox where agency_id = :agency_id")
    assert (str(queued.message_id), queued.state) == (message["id"], "queued")
    shown = me.get(f"/conversations/{conversation}").json
    assert (shown["last_message_preview"], shown["last_message_direction"]) == ("On our way", "outbound")
    assert shown["last_message_at"] == message["sent_at"]


def test_sending_leaves_a_record_of_who_and_how(api: Api, mine: Agency, conversation: str) -> None:
    api.of(mine, user_id="user_a").send(conversation, headers=[("X-Request-Id", "request-1")])
    api.of(mine, user_id="user_b", role="owner").send(conversation, headers=[("X-Tenant-ID", str(mine.id))])
    records = api.sql(
        mine,
        """select user_id, role, action, tenant_source, request_id from audit_records where agency_id = :agency_id
        order by occurred_at""",
    )
    assert [tuple(record)[:4] for record in records] == [
        ("user_a", "staff", "send_message", "token"),
        ("user_b", "owner", "send_message", "request"),
    ]
    assert records[0].request_id == "request-1"


@pytest.mark.parametrize(
    "content",
    [
        "x" * 1600,
        "😀" * 1600,
        "  kept exactly \n",
        "e\u0301",
        "\u202eabc",
        "\ufeffBOM",
        '"\\/\b\f\t</script>',
        "'; drop table messages; --",
        "%00 %s {0} $1 :content",
    ],
)
def test_text_is_kept_exactly(api: Api, mine: Agency, conversation: str, content: str) -> None:
    me = api.of(mine)
    answer = me.send(conversation, content)
    assert answer.status == 201
    assert answer.json["content"] == content
    assert me.get(f"/conversations/{conversation}/messages").json["messages"][0]["content"] == content


def test_the_next_id_cannot_be_told_from_the_last(api: Api, mine: Agency, conversation: str) -> None:
    """Besides the time it holds nothing that counts: whoever knows one has billions to try for the next."""
    me = api.of(mine)
    ids = [UUID(me.send(conversation, str(number)).json["id"]) for number in range(16)]
    assert {id_.version for id_ in ids} == {7}
    ends = [id_.int & 0xFFFFFFFF for id_ in ids]
    steps = [abs(later - earlier) for earlier, later in pairwise(ends)]
    assert len({step >> 16 for step in steps}) > 12
    shown = json.dumps(me.get(f"/conversations/{conversation}/messages").json)
    assert not re.search(r'"(id|number|sequence|[a-z_]+_id)": *\d', shown)


def test_media_is_kept_with_its_type(api: Api, mine: Agency, conversation: str) -> None:
    media = {"media_url": "https://files.example.com/a/photo.jpg?w=1", "media_type": "image/jpeg"}
    me = api.of(mine)
    with_text = me.post(f"/conversations/{conversation}/messages", {"content": "Look", **media}).json
    without = me.post(f"/conversations/{conversation}/messages", {"media_url": media["media_url"]}).json
    listed = [{"url": media["media_url"], "content_type": "image/jpeg"}]
    assert (with_text["content"], with_text["media"]) == ("Look", listed)
    assert (with_text["media_url"], with_text["media_type"]) == (media["media_url"], "image/jpeg")
    assert (without["content"], without["media_type"]) == ("", None)


def test_a_template_is_kept_with_its_variables(api: Api, mine: Agency) -> None:
    conversation = api.converse(mine, channel="whatsapp")
    template = {"content_sid": "HX" + "a1" * 16, "variables": {"1": "Ann", "when": "8 pm"}}
    me = api.of(mine)
    answer = me.post(f"/conversations/{conversation}/messages", {"template": template})
    assert answer.status == 201
    assert (answer.json["template"], answer.json["content"]) == (template, "")
    bare = me.post(f"/conversations/{conversation}/messages", {"template": {"content_sid": "HX" + "0" * 32}})
    assert bare.json["template"] == {"content_sid": "HX" + "0" * 32, "variables": {}}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"body"}),
        ({"content": ""}, {"content"}),
        ({"content": " \t\n\u00a0\u200b\u2060"}, {"content"}),
        ({"content": "x" * 1601}, {"content"}),
        ({"content": 5}, {"content"}),
        ({"content": None}, {"content"}),
        ({"content": ["x"]}, {"content"}),
        ({"content": "x", "media_url": "http://files.example.com/x"}, {"media_url"}),
        ({"content": "x", "media_url": "https://user:secret@files.example.com/x"}, {"media_url"}),
        ({"content": "x", "media_url": "https://169.254.169.254/latest"}, {"media_url"}),
        ({"content": "x", "media_url": "https://[::1]/x"}, {"media_url"}),
        ({"content": "x", "media_url": "javascript:alert(1)"}, {"media_url"}),
        ({"content": "x", "media_type": "image/png"}, {"media_type"}),
        ({"media_type": "image/png"}, {"content", "media_type"}),
        ({"content": "x", "template": {"content_sid": "HX" + "0" * 32}}, {"content"}),
        ({"template": {"content_sid": "HX1"}}, {"template.content_sid"}),
        ({"template": {}}, {"template.content_sid"}),
        ({"template": {"content_sid": "HX" + "0" * 32, "variables": {"1": 1}}}, {"template.variables.1"}),
        *(
            ({"content": "x", name: "x"}, {name})
            for name in ("agency_id", "id", "status", "created_at", "direction", "sent_by", "twilio_sid", "media")
        ),
    ],
    ids=lambda value: json.dumps(value, default=sorted)[:60],
)
def test_a_bad_body_is_refused_field_by_field_and_nothing_is_sent(
    api: Api, mine: Agency, conversation: str, body: dict[str, Any], fields: set[str]
) -> None:
    answer = api.of(mine).post(f"/conversations/{conversation}/messages", body)
    assert answer.refusal == (400, "invalid_request")
    assert set(answer.errors) == fields
    assert sent_messages(api, mine) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"content": "x", "content": "y"}',
        b'{"content": "\\u0000"}',
        b'{"content": "\\ud800"}',
    ],
)
def test_what_is_no_clean_json_is_refused(api: Api, mine: Agency, conversation: str, raw: bytes) -> None:
    assert api.of(mine).post(f"/conversations/{conversation}/messages", raw).refusal == (400, "invalid_request")
    assert sent_messages(api, mine) == []


@pytest.mark.parametrize("role", ["owner", "admin", "manager", "staff"])
def test_these_roles_send(api: Api, mine: Agency, conversation: str, role: str) -> None:
    assert api.of(mine, role).send(conversation, role).status == 201
    assert sent_messages(api, mine) == [role]


@pytest.mark.parametrize("role", ["viewer", "client_viewer"])
def test_these_roles_only_read(api: Api, mine: Agency, conversation: str, role: str) -> None:
    me = api.of(mine, role)
    assert me.get("/conversations").json["total"] == 1
    assert me.get(f"/conversations/{conversation}/messages").status == 200
    assert me.send(conversation).refusal == (403, "role_forbidden")
    assert sent_messages(api, mine) == []


def test_a_role_that_nobody_knows_does_nothing(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine, "superuser")
    assert me.get("/conversations").refusal == (403, "role_forbidden")
    assert me.send(conversation).refusal == (403, "role_forbidden")


def test_another_agencys_conversation_is_forbidden_like_one_that_does_not_exist(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    for conversation_id in (api.converse(other), str(uuid4())):
        answer = api.of(mine).send(conversation_id)
        assert answer.refusal == (403, "conversation_forbidden")
        assert answer.json["detail"] == "You may not send to this conversation."
    assert sent_messages(api, other) == []


def test_a_suspended_agency_reads_and_receives_and_sends_nothing(api: Api) -> None:
    agency = api.new_agency(status="suspended")
    conversation = api.converse(agency)
    me = api.of(agency)
    assert me.get(f"/conversations/{conversation}/messages").json["messages"][0]["content"] == "Hello"
    assert me.send(conversation).refusal == (403, "agency_suspended")
    assert sent_messages(api, agency) == []


def test_a_token_of_an_agency_that_does_not_exist_finds_nothing_and_sends_nothing(api: Api) -> None:
    caller = api.of(api.new_agency())
    nobody = type(caller)(api, api.token(uuid4()))
    assert nobody.get("/conversations").json["total"] == 0
    assert nobody.send(str(uuid4())).refusal == (403, "agency_suspended")


def test_a_contact_who_wrote_stop_gets_nothing_until_start(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine)
    api.receive(mine, " Stop \n")
    assert me.send(conversation).refusal == (422, "contact_opted_out")
    messaging = me.get(f"/conversations/{conversation}").json["messaging"]
    assert (messaging["can_send_freeform"], messaging["blocked_reason"]) == (False, "contact_opted_out")
    api.receive(mine, "START")
    assert me.send(conversation, "Welcome back").status == 201


def test_outside_the_whatsapp_window_only_a_template_goes(api: Api, mine: Agency) -> None:
    conversation = api.converse(mine, channel="whatsapp")
    api.sql(
        mine,
        """update conversations set last_inbound_at = clock_timestamp() - interval '24 hours 1 second'
        where agency_id = :agency_id""",
    )
    me = api.of(mine)
    assert me.send(conversation).refusal == (422, "whatsapp_window_closed")
    template = {"template": {"content_sid": "HX" + "0" * 32}}
    assert me.post(f"/conversations/{conversation}/messages", template).status == 201


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"])
def test_another_method_is_405_and_told_which_there_are(api: Api, conversation: str, method: str) -> None:
    answer = api.ask(method, f"{BASE_PATH}/conversations/{conversation}/messages")
    assert answer.refusal == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


def test_a_body_of_another_type_is_415(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine)
    authorization = ("Authorization", f"Bearer {me.token}")
    target = f"{BASE_PATH}/conversations/{conversation}/messages"
    for content_type in ([], [("Content-Type", "text/plain")], [("Content-Type", "application/json; charset=utf-16")]):
        answer = api.ask("POST", target, headers=[authorization, *content_type], body=b'{"content": "x"}')
        assert answer.refusal == (415, "unsupported_media_type")
    assert sent_messages(api, mine) == []
