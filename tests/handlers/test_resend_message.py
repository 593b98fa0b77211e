"""POST /messages/{id}/resend: a person may send again what nobody knows the fate of, and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.agencies import Agency
from tests.api_client import Api

STATUSES = ["queued", "sending", "sent", "delivered", "read", "failed", "undelivered", "canceled"]


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def message(api: Api, mine: Agency) -> str:
    """A message whose outcome nobody knows, and that the worker has given up on."""
    conversation = api.converse(mine)
    message_id: str = api.of(mine).send(conversation, "Did you get this?").json["id"]
    become(api, mine, message_id, "unconfirmed")
    return message_id


def become(api: Api, agency: Agency, message_id: str, status: str) -> None:
    api.sql(
        agency,
        "update messages set status = :status where agency_id = :agency_id and id = cast(:id as uuid)",
        status=status,
        id=message_id,
    )
    api.sql(agency, "delete from outbox where agency_id = :agency_id and message_id = cast(:id as uuid)", id=message_id)


def outbox(api: Api, agency: Agency) -> list[str]:
    return [
        str(row.message_id) for row in api.sql(agency, "select message_id from outbox where agency_id = :agency_id")
    ]


def test_an_unconfirmed_message_is_queued_again_in_its_place(api: Api, mine: Agency, message: str) -> None:
    me = api.of(mine)
    before = me.get(f"/messages/{message}").json
    answer = me.post(f"/messages/{message}/resend")
    assert answer.status == 200
    del before["history"]
    assert answer.json == {**before, "status": "queued"}
    assert outbox(api, mine) == [message]


@pytest.mark.parametrize("status", STATUSES)
def test_a_message_in_any_other_status_is_not_resendable(api: Api, mine: Agency, message: str, status: str) -> None:
    become(api, mine, message, status)
    assert api.of(mine).post(f"/messages/{message}/resend").refusal == (422, "not_resendable")
    assert outbox(api, mine) == []


def test_what_the_worker_is_still_finding_out_about_is_not_resendable(api: Api, mine: Agency) -> None:
    conversation = api.converse(mine)
    me = api.of(mine)
    message = me.send(conversation).json["id"]
    api.sql(mine, "update messages set status = 'unconfirmed' where agency_id = :agency_id and direction = 'outbound'")
    api.sql(mine, "update outbox set state = 'unknown' where agency_id = :agency_id")
    assert me.post(f"/messages/{message}/resend").refusal == (422, "not_resendable")


def test_what_a_contact_wrote_cannot_be_resent(api: Api, mine: Agency) -> None:
    conversation = api.converse(mine)
    me = api.of(mine)
    [inbound] = me.get(f"/conversations/{conversation}/messages").json["messages"]
    assert me.post(f"/messages/{inbound['id']}/resend").refusal == (422, "not_resendable")


def test_fifty_concurrent_requests_queue_it_once(api: Api, mine: Agency, message: str) -> None:
    me = api.of(mine)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: me.post(f"/messages/{message}/resend"), range(50)))
    assert sorted(answer.status for answer in answers) == [200] + [422] * 49
    assert outbox(api, mine) == [message]


def test_another_agencys_message_is_not_found_like_one_that_does_not_exist(
    api: Api, mine: Agency, message: str
) -> None:
    stranger = api.of(api.new_agency())
    for message_id in (message, str(uuid4())):
        assert stranger.post(f"/messages/{message_id}/resend").refusal == (404, "message_not_found")
    assert outbox(api, mine) == []


@pytest.mark.parametrize("role", ["viewer", "client_viewer"])
def test_a_role_that_only_reads_does_not_resend(api: Api, mine: Agency, message: str, role: str) -> None:
    assert api.of(mine, role).post(f"/messages/{message}/resend").refusal == (403, "role_forbidden")


def test_the_rules_of_sending_hold(api: Api, mine: Agency, message: str) -> None:
    me = api.of(mine)
    api.receive(mine, "STOP")
    assert me.post(f"/messages/{message}/resend").refusal == (422, "contact_opted_out")
    api.sql(mine, "update agencies set status = 'suspended' where agency_id = :agency_id")
    assert me.post(f"/messages/{message}/resend").refusal == (403, "agency_suspended")
    assert outbox(api, mine) == []


def test_resending_is_recorded(api: Api, mine: Agency, message: str) -> None:
    api.of(mine, user_id="user_b").post(f"/messages/{message}/resend")
    rows = api.sql(
        mine,
        "select user_id, action, message_id from audit_records where agency_id = :agency_id order by occurred_at",
    )
    assert [(row.user_id, row.action, str(row.message_id)) for row in rows] == [
        ("user_1", "send_message", message),
        ("user_b", "resend_message", message),
    ]
