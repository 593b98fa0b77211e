"""Delivery reports: each kept once and in full, each moving a status forward or not at all."""

from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest

from persistence import message_status
from tests.agencies import ACCOUNT_SID, Agency
from tests.api_client import BASE_PATH, EMPTY_TWIML, Answer, Api, new_sid
from tests.handlers.test_webhook_signatures import OWN_TOKEN, own_account

SID = "SM" + "5" * 32
REPORTED = ["sent", "delivered", "read", "failed", "undelivered"]


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def message(api: Api, mine: Agency) -> str:
    """The id of a queued message."""
    message_id: str = api.of(mine).send(api.converse(mine)).json["id"]
    return message_id


def path(agency_id: object, message_id: object, attempt: object = 1) -> str:
    return f"{BASE_PATH}/webhooks/twilio/status/{agency_id}/{message_id}/{attempt}"


def report(api: Api, agency: Agency, message_id: str, status: str, *, attempt: int = 1, **fields: str) -> Answer:
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": SID, "MessageStatus": status, "SmsStatus": status} | fields
    return api.post_signed(path(agency.id, message_id, attempt), form.items())


def read(api: Api, agency: Agency, message_id: str) -> dict[str, Any]:
    message: dict[str, Any] = api.of(agency).get(f"/messages/{message_id}").json
    return message


def test_a_report_moves_the_message_and_is_kept(api: Api, mine: Agency, message: str) -> None:
    answer = report(api, mine, message, "delivered")
    assert (answer.status, answer.body) == (200, EMPTY_TWIML)
    shown = read(api, mine, message)
    assert (shown["status"], shown["twilio_sid"]) == ("delivered", SID)
    assert shown["delivered_at"] is not None
    assert [(event["status"], event["twilio_sid"], event["attempt"]) for event in shown["history"]] == [
        ("delivered", SID, 1)
    ]


def test_a_report_before_our_own_record_of_the_call_counts(api: Api, mine: Agency, message: str) -> None:
    # The worker has not said yet that it called; the report proves that Twilio has the message.
    report(api, mine, message, "sent")
    assert read(api, mine, message)["twilio_sid"] == SID
    [row] = api.sql(mine, "select state from outbox where agency_id = :agency_id")
    assert row.state == "accepted"


def test_what_went_wrong_is_told_with_twilios_code(api: Api, mine: Agency, message: str) -> None:
    report(api, mine, message, "undelivered", ErrorCode="30003")
    shown = read(api, mine, message)
    assert (shown["status"], shown["error"]["code"]) == ("undelivered", "30003")
    assert shown["history"][0]["error_code"] == "30003"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"ErrorCode": "30003", "ErrorMessage": "Unreachable destination handset"}, "Unreachable destination handset"),
        ({"ErrorCode": "30003", "ErrorMessage": "a\0b"}, "a\ufffdb"),
        ({"ErrorCode": "30003", "ErrorMessage": "x" * 5000}, "x" * 1000),
        ({"ErrorCode": "30003", "ErrorMessage": ""}, None),
        ({"ErrorCode": "30003"}, None),
    ],
    ids=["words", "unstorable", "long", "empty", "missing"],
)
def test_what_went_wrong_is_told_in_twilios_words_where_there_are_some(
    api: Api, mine: Agency, message: str, told: dict[str, str], shown: str | None
) -> None:
    other = api.of(mine).send(api.converse(mine, phone="+12025550177")).json["id"]
    report(api, mine, message, "undelivered", **told)
    assert read(api, mine, message)["error"] == {"code": "30003", "message": shown}
    assert read(api, mine, other)["error"] is None


def test_words_without_a_code_are_no_error(api: Api, mine: Agency, message: str) -> None:
    report(api, mine, message, "sent", ErrorCode="0", ErrorMessage="No error")
    assert read(api, mine, message)["error"] is None
    report(api, mine, message, "undelivered", ErrorCode="30005", ErrorMessage="Unknown handset")
    assert read(api, mine, message)["error"] == {"code": "30005", "message": "Unknown handset"}


def test_a_replay_changes_nothing(api: Api, mine: Agency, message: str) -> None:
    report(api, mine, message, "sent")
    report(api, mine, message, "delivered")
    before = read(api, mine, message)
    for status in ("sent", "delivered", "delivered"):
        assert report(api, mine, message, status).status == 200
    assert read(api, mine, message) == before


@pytest.mark.parametrize("statuses", tuple(permutations(REPORTED, 3)), ids="-".join)
def test_in_whatever_order_reports_come_a_status_never_falls(
    api: Api, mine: Agency, message: str, statuses: tuple[str, ...]
) -> None:
    current = "queued"
    for status in statuses:
        report(api, mine, message, status)
        shown = read(api, mine, message)["status"]
        assert shown == (status if status in message_status.TRANSITIONS[current] else current)
        current = shown
    assert [event["provider_status"] for event in read(api, mine, message)["history"]] == list(statuses)


@pytest.mark.parametrize("status", [" ", "unheard_of", "DELIVERED", "delivered ", "received", "x" * 5000, "\0"])
def test_an_unknown_status_is_kept_and_moves_nothing(api: Api, mine: Agency, message: str, status: str) -> None:
    assert report(api, mine, message, status, SmsStatus="").status == 200
    shown = read(api, mine, message)
    assert shown["status"] == "queued"
    [event] = shown["history"]
    assert event["status"] is None
    assert event["provider_status"] == status[:100].replace("\0", "\ufffd")


@pytest.mark.parametrize("field", ["MessageSid", "MessageStatus"])
@pytest.mark.parametrize("kept", [True, False], ids=["empty", "missing"])
def test_a_signed_report_without_what_twilio_always_sends_is_400_and_not_kept(
    api: Api, mine: Agency, message: str, field: str, kept: bool
) -> None:
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": SID, "MessageStatus": "sent", "ErrorCode": "30003"}
    form = form | {field: ""} if kept else {name: value for name, value in form.items() if name != field}
    answer = api.post_signed(path(mine.id, message), form.items())
    assert answer.refusal == (400, "invalid_request")
    assert answer.errors == {field: "is required"}
    shown = read(api, mine, message)
    assert (shown["status"], shown["history"]) == ("queued", [])


def test_a_status_by_its_older_name_is_read_where_there_is_no_other(api: Api, mine: Agency, message: str) -> None:
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": SID, "SmsStatus": "delivered"}
    assert api.post_signed(path(mine.id, message), form.items()).status == 200
    assert read(api, mine, message)["status"] == "delivered"
    report(api, mine, message, "read", SmsStatus="failed")
    assert [event["provider_status"] for event in read(api, mine, message)["history"]] == ["delivered", "read"]


def test_a_report_of_whatever_status_proves_that_twilio_has_the_message(api: Api, mine: Agency, message: str) -> None:
    sid = "SM" + "5" * 32
    report(api, mine, message, "held_for_review", MessageSid=sid)
    assert read(api, mine, message)["twilio_sid"] == sid
    (row,) = api.sql(mine, "select state from outbox where agency_id = :agency_id")
    assert row.state == "accepted"  # and not sent any more, but asked about


@pytest.mark.parametrize("code", ["", "0", "99999", "not a number", "9" * 5000, "\0"])
def test_an_unknown_error_code_breaks_nothing(api: Api, mine: Agency, message: str, code: str) -> None:
    assert report(api, mine, message, "failed", ErrorCode=code).status == 200
    shown = read(api, mine, message)
    assert shown["status"] == "failed"
    assert shown["error"] is None if code in ("", "0") else shown["error"]["code"] == code[:100].replace("\0", "\ufffd")


@pytest.mark.parametrize(
    "changed", [{"MessageStatus": "delivered"}, {"ErrorCode": "30005"}, {"MessageSid": "SM" + "6" * 32}], ids=str
)
def test_a_report_that_differs_in_anything_that_tells_is_kept_beside_the_first(
    api: Api, mine: Agency, message: str, changed: dict[str, str]
) -> None:
    first = {"ErrorCode": "30003", "MessageStatus": "undelivered"}
    for fields in (first, first | changed, first, first | changed):
        assert report(api, mine, message, "", **fields).status == 200
    kept = read(api, mine, message)["history"]
    assert [(one["provider_status"], one["error_code"], one["twilio_sid"]) for one in kept] == [
        (fields["MessageStatus"], fields["ErrorCode"], fields.get("MessageSid", SID))
        for fields in (first, first | changed)
    ]


def test_a_report_of_an_unknown_message_is_taken_and_kept(api: Api, mine: Agency) -> None:
    unknown = str(uuid4())
    assert report(api, mine, unknown, "delivered").status == 200
    [event] = api.sql(mine, "select message_id, provider_status from provider_events where agency_id = :agency_id")
    assert (str(event.message_id), event.provider_status) == (unknown, "delivered")
    assert api.of(mine).get(f"/messages/{unknown}").status == 404


def test_a_report_of_an_unknown_agency_is_taken_and_not_kept(api: Api, mine: Agency, message: str) -> None:
    nobody = uuid4()
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": SID, "MessageStatus": "delivered"}
    assert api.post_signed(path(nobody, message), form.items()).status == 200
    assert read(api, mine, message)["status"] == "queued"
    assert api.sql(nobody, "select 1 from provider_events where agency_id = :agency_id") == []


def test_a_report_of_what_a_contact_wrote_moves_nothing(api: Api, mine: Agency) -> None:
    conversation_id = api.converse(mine)
    [inbound] = api.of(mine).get(f"/conversations/{conversation_id}/messages").json["messages"]
    assert report(api, mine, inbound["id"], "failed").status == 200
    assert read(api, mine, inbound["id"])["status"] == "received"


def test_another_agencys_account_cannot_report_on_a_message(api: Api, mine: Agency, message: str) -> None:
    stranger = api.new_agency()
    account_sid = own_account(api, stranger)
    form = {"AccountSid": account_sid, "MessageSid": SID, "MessageStatus": "failed"}
    refused = api.post_signed(path(mine.id, message), form.items(), token=OWN_TOKEN)
    assert refused.refusal == (403, "invalid_signature")
    # Under its own agency's address the message is one that it does not have.
    assert api.post_signed(path(stranger.id, message), form.items(), token=OWN_TOKEN).status == 200
    assert (read(api, mine, message)["status"], read(api, mine, message)["history"]) == ("queued", [])


def test_the_account_must_be_the_one_of_the_messages_channel(api: Api, mine: Agency, message: str) -> None:
    # The agency has moved its numbers to an account of its own; the old account no longer speaks for the message.
    own = own_account(api, mine)
    assert report(api, mine, message, "delivered").refusal == (403, "invalid_signature")
    assert read(api, mine, message)["status"] == "queued"
    form = {"AccountSid": own, "MessageSid": SID, "MessageStatus": "delivered"}
    assert api.post_signed(path(mine.id, message), form.items(), token=OWN_TOKEN).status == 200
    assert read(api, mine, message)["status"] == "delivered"


@pytest.mark.parametrize("target", ["other message", "other agency", "other attempt"])
def test_a_signature_for_one_address_is_none_for_another(api: Api, mine: Agency, message: str, target: str) -> None:
    addresses = {
        "other message": path(mine.id, uuid4()),
        "other agency": path(uuid4(), message),
        "other attempt": path(mine.id, message, 2),
    }
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": SID, "MessageStatus": "failed"}
    answer = api.post_signed(path(mine.id, message), form.items(), signed_path=addresses[target])
    assert answer.refusal == (403, "invalid_signature")
    assert read(api, mine, message)["status"] == "queued"


def test_a_second_sid_is_shown_as_a_duplicate(api: Api, mine: Agency, message: str) -> None:
    report(api, mine, message, "sent")
    report(api, mine, message, "sent", attempt=2, MessageSid=new_sid())
    shown = read(api, mine, message)
    assert (shown["twilio_sid"], shown["duplicate_detected"], len(shown["history"])) == (SID, True, 2)


def test_a_sid_that_another_message_has_is_not_bound_again(api: Api, mine: Agency, message: str) -> None:
    taken = new_sid()
    api.receive(mine, MessageSid=taken)
    assert report(api, mine, message, "sent", MessageSid=taken).status == 200
    assert read(api, mine, message)["twilio_sid"] is None


def test_a_suspended_agencys_reports_are_taken(api: Api, mine: Agency, message: str) -> None:
    api.sql(mine, "update agencies set status = 'suspended' where agency_id = :agency_id")
    assert report(api, mine, message, "delivered").status == 200
    assert read(api, mine, message)["status"] == "delivered"


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (path("x", uuid4()), "agency_id"),
        (path(uuid4(), "x"), "message_id"),
        (path(uuid4(), uuid4(), "x"), "attempt"),
        (path(uuid4(), uuid4(), 0), "attempt"),
        (path(uuid4(), uuid4(), 10_001), "attempt"),
        (path(uuid4(), uuid4(), "9" * 5000), "attempt"),
        (path(uuid4(), uuid4(), "%D9%A3"), "attempt"),
    ],
    ids=range(7),
)
def test_a_malformed_address_is_400(api: Api, target: str, field: str) -> None:
    answer = api.post_signed(target, [("AccountSid", ACCOUNT_SID)])
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == [field]


@pytest.mark.parametrize("field", ["MessageSid", "MessageStatus", "ErrorCode", "ErrorMessage", "Extra\0"])
@pytest.mark.parametrize("value", ["\0", "\udced\udca0\udc80", "x" * 20_000])
def test_no_character_and_no_length_of_any_field_breaks_it(
    api: Api, mine: Agency, message: str, field: str, value: str
) -> None:
    assert report(api, mine, message, "sent", **{field: value}).status in (200, 400)
