"""GET /conversations: the inbox of one agency, whole, in order, and nobody else's."""

import base64
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from tests.agencies import Agency
from tests.api_client import Answer, Api

FIELDS = {
    "id",
    "location_id",
    "channel",
    "channel_address",
    "contact_id",
    "contact_name",
    "contact_phone",
    "status",
    "lead_status",
    "lead_value",
    "assigned_to",
    "last_message_at",
    "last_message_preview",
    "last_message_direction",
    "messaging",
    "created_at",
    "updated_at",
}


def phone(number: int) -> str:
    return f"+1202555{5000 + number}"


@pytest.fixture
def mine(api: Api) -> Agency:
    """An agency with five conversations, beside one whose contacts have the same phones."""
    agency, look_alike = api.new_agency(), api.new_agency()
    for number in range(5):
        api.converse(agency, f"mine {number}", phone=phone(number))
        api.converse(look_alike, f"not mine {number}", phone=phone(number))
    return agency


def phones(answer: Answer) -> list[str]:
    assert answer.status == 200
    return [conversation["contact_phone"] for conversation in answer.json["conversations"]]


def test_the_list_is_newest_first_and_exactly_the_agencys(api: Api, mine: Agency) -> None:
    answer = api.of(mine).get("/conversations")
    assert phones(answer) == [phone(number) for number in (4, 3, 2, 1, 0)]
    assert [each["last_message_preview"] for each in answer.json["conversations"]] == [
        f"mine {n}" for n in (4, 3, 2, 1, 0)
    ]
    assert {key: value for key, value in answer.json.items() if key != "conversations"} == {
        "total": 5,
        "limit": 20,
        "offset": 0,
        "next_cursor": None,
    }


def test_a_conversation_has_every_field_of_the_contract(api: Api, mine: Agency) -> None:
    first = api.of(mine).get("/conversations", limit=1).json["conversations"][0]
    assert set(first) == FIELDS
    assert (first["channel"], first["channel_address"]) == ("sms", mine.sms_address)
    assert first["location_id"] == str(mine.location_id)
    assert (first["status"], first["last_message_direction"]) == ("open", "inbound")
    assert first["messaging"] == {"can_send_freeform": True, "window_expires_at": None, "blocked_reason": None}
    assert first["last_message_at"].endswith("Z")


def test_a_message_moves_its_conversation_to_the_top(api: Api, mine: Agency) -> None:
    api.receive(mine, "me again", From=phone(2))
    assert phones(api.of(mine).get("/conversations"))[:2] == [phone(2), phone(4)]


def test_cursors_turn_every_page_once(api: Api, mine: Agency) -> None:
    me, seen, cursor = api.of(mine), [], {}
    for _ in range(3):
        page = me.get("/conversations", limit=2, **cursor)
        seen += phones(page)
        assert page.json["total"] == 5
        cursor = {"cursor": page.json["next_cursor"]}
    assert seen == [phone(number) for number in (4, 3, 2, 1, 0)]
    assert cursor == {"cursor": None}


def test_a_conversation_that_moves_up_between_pages_is_not_repeated(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    first = me.get("/conversations", limit=2)
    api.receive(mine, "now at the top", From=phone(0))
    rest = me.get("/conversations", limit=100, cursor=first.json["next_cursor"])
    assert phones(first) + phones(rest) == [phone(number) for number in (4, 3, 2, 1)]
    assert phones(me.get("/conversations"))[0] == phone(0)


def test_offset_jumps_and_stays_within_its_bound(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    page = me.get("/conversations", limit=2, offset=3)
    assert phones(page) == [phone(1), phone(0)]
    assert (page.json["total"], page.json["limit"], page.json["offset"]) == (5, 2, 3)
    assert phones(me.get("/conversations", offset=10_000)) == []
    assert me.get("/conversations", offset=10_001).errors == {"offset": "must be at most 10000"}


def test_ties_are_broken_by_id_on_every_page(api: Api, mine: Agency) -> None:
    # A Saturday on which everybody wrote within the same microsecond.
    api.sql(mine, "update conversations set last_message_at = :at where agency_id = :agency_id", at=datetime.now(UTC))
    me, seen, cursor = api.of(mine), [], {}
    while cursor != {"cursor": None}:
        page = me.get("/conversations", limit=1, **cursor).json
        seen += [conversation["id"] for conversation in page["conversations"]]
        cursor = {"cursor": page["next_cursor"]}
    assert len(set(seen)) == 5
    assert all(earlier > later for earlier, later in pairwise(seen))


def test_filters_narrow_the_list_and_its_total(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    for status, number in (("resolved", 1), ("in_progress", 2)):
        api.set_status(mine, status, api.converse(mine, phone=phone(number)))
    for status, expected in (("open", [4, 3, 0]), ("resolved", [1]), ("in_progress", [2])):
        page = me.get("/conversations", status=status, location_id=mine.location_id)
        assert phones(page) == [phone(number) for number in expected]
        assert page.json["total"] == len(expected)


def test_another_agencys_location_is_an_empty_list_like_one_that_does_not_exist(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    api.converse(other)
    for location_id in (other.location_id, uuid4()):
        answer = api.of(mine).get("/conversations", location_id=location_id)
        assert answer.json == {"conversations": [], "total": 0, "limit": 20, "offset": 0, "next_cursor": None}


def test_cursor_and_offset_exclude_each_other_even_at_the_default(api: Api, mine: Agency) -> None:
    cursor = api.of(mine).get("/conversations", limit=1).json["next_cursor"]
    answer = api.of(mine).get("/conversations", cursor=cursor, offset=0)
    assert answer.refusal == (400, "invalid_request")
    assert answer.errors == {"offset": "cannot be combined with cursor"}


SOME_ID = "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90"


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "AAAA",
        "null",
        encoded("2026-03-02T18:01:44.120093+00:00"),
        encoded(f"yesterday|{SOME_ID}"),
        encoded(f"2026-03-02T18:01:44.120093|{SOME_ID}"),
        encoded(f"2026-03-02T18:01:44.120093+00:00|{SOME_ID}|more"),
        encoded(f"0001-01-01T00:00:00+23:59|{SOME_ID}"),
        encoded("2026-03-02T18:01:44.120093+00:00|' or 1=1 --"),
        "A" * 512,
    ],
)
def test_a_cursor_that_this_api_did_not_make_is_refused(api: Api, cursor: str) -> None:
    answer = api.of(api.new_agency()).get("/conversations", cursor=cursor)
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == ["cursor"]


def test_the_earliest_and_the_latest_time_are_places_in_the_list_like_any_other(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    assert phones(me.get("/conversations", cursor=encoded(f"0001-01-01T00:00:00+00:00|{uuid4()}"))) == []
    assert len(phones(me.get("/conversations", cursor=encoded(f"9999-12-31T23:59:59.999999+00:00|{uuid4()}")))) == 5


def test_another_agencys_cursor_is_only_a_place(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    for number in range(3):
        api.converse(other, phone=phone(number))
    cursor = api.of(other).get("/conversations", limit=1).json["next_cursor"]
    page = api.of(mine).get("/conversations", cursor=cursor)
    assert phones(page) == [phone(number) for number in (4, 3, 2, 1, 0)]
    assert page.json["total"] == 5


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=abc", "limit"),
        ("limit=5.0", "limit"),
        ("limit=1e1", "limit"),
        ("limit=true", "limit"),
        ("limit=%00", "limit"),
        ("limit=", "limit"),
        ("limit=+5", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit[]=5", "limit[]"),
        ("offset=-1", "offset"),
        ("offset=9223372036854775808", "offset"),
        ("offset=" + "9" * 5000, "offset"),
        ("status=closed", "status"),
        ("status=open&status=resolved", "status"),
        ("status=", "status"),
        ("location_id=zzz", "location_id"),
        ("location_id=%00", "location_id"),
        ("location_id=", "location_id"),
        ("location_id={x}", "location_id"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("agency_id=01980f3e-2a10-7b6c-8d21-5f0c9e3a7b14", "agency_id"),
        ("q=hello", "q"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, query: str, field: str) -> None:
    me = api.of(api.new_agency())
    answer = api.ask("GET", f"/api/v1/conversations?{query}", headers=[("Authorization", f"Bearer {me.token}")])
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == [field]


def test_every_bad_parameter_is_named_at_once(api: Api, mine: Agency) -> None:
    answer = api.of(mine).get("/conversations", limit=0, offset="x", status="gone", colour="red")
    assert set(answer.errors) == {"limit", "offset", "status", "colour"}


def test_head_is_get_without_the_body(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    authorization = [("Authorization", f"Bearer {me.token}")]
    head = api.ask("HEAD", "/api/v1/conversations", headers=authorization)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(me.get("/conversations").body))
    assert api.ask("HEAD", "/api/v1/conversations").status == 401


def test_the_window_of_a_whatsapp_conversation_is_told(api: Api) -> None:
    agency = api.new_agency()
    conversation_id = api.converse(agency, channel="whatsapp")
    me = api.of(agency)
    [conversation] = me.get("/conversations").json["conversations"]
    expires_at = datetime.fromisoformat(conversation["messaging"]["window_expires_at"])
    after = expires_at - datetime.fromisoformat(conversation["last_message_at"])
    assert abs(after - timedelta(hours=24)) < timedelta(seconds=1)
    assert conversation["messaging"]["can_send_freeform"] is True
    api.sql(
        agency,
        """update conversations set last_inbound_at = clock_timestamp() - interval '25 hours'
        where agency_id = :agency_id""",
    )
    [conversation] = me.get("/conversations").json["conversations"]
    assert conversation["id"] == conversation_id
    assert conversation["messaging"]["can_send_freeform"] is False
    assert conversation["messaging"]["blocked_reason"] == "whatsapp_window_closed"


def test_what_an_operator_noted_is_shown(api: Api) -> None:
    agency = api.new_agency()
    api.converse(agency)
    api.sql(
        agency,
        """update conversations set lead_status = 'quoted', lead_value = 1234567890.12, assigned_to = 'user_9'
        where agency_id = :agency_id""",
    )
    [conversation] = api.of(agency).get("/conversations").json["conversations"]
    assert (conversation["lead_status"], conversation["lead_value"], conversation["assigned_to"]) == (
        "quoted",
        1234567890.12,
        "user_9",
    )


def test_the_preview_is_one_short_line(api: Api) -> None:
    agency = api.new_agency()
    api.converse(agency, "two\nlines \t and " + "x" * 300)
    [conversation] = api.of(agency).get("/conversations").json["conversations"]
    assert conversation["last_message_preview"] == ("two lines and " + "x" * 300)[:160]
