"""Idempotency-Key: however often and however concurrently a send is repeated, the message is sent once."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from persistence import idempotency, sends
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency
from tests.api_client import BASE_PATH, Api


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.fixture
def conversation(api: Api, mine: Agency) -> str:
    return api.converse(mine)


def contents(api: Api, agency: Agency) -> list[str]:
    rows = api.sql(
        agency, "select content from messages where agency_id = :agency_id and direction = 'outbound' order by sent_at"
    )
    return [row.content for row in rows]


def test_the_same_key_and_body_gets_the_first_answer_again(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    first = me.send(conversation, "Once", key=key)
    # What has become of the message since does not show: it is the answer that is repeated, not the message.
    api.sql(mine, "update messages set status = 'sending' where agency_id = :agency_id and direction = 'outbound'")
    again = me.send(conversation, "Once", key=key)
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["location"] == first.headers["location"]
    assert (first.headers["idempotent-replayed"], again.headers["idempotent-replayed"]) == ("false", "true")
    assert contents(api, mine) == ["Once"]


def test_what_forbids_a_send_since_does_not_hide_that_it_was_made(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    first = me.send(conversation, "Once", key=key)
    api.receive(mine, "STOP")
    assert me.send(conversation, "Once", key=key).body == first.body
    api.sql(mine, "update agencies set status = 'suspended' where agency_id = :agency_id")
    assert me.send(conversation, "Once", key=key).body == first.body
    assert me.send(conversation, "Once", key=str(uuid4())).refusal == (403, "agency_suspended")
    assert contents(api, mine) == ["Once"]


def test_the_same_body_written_differently_is_the_same(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    path = f"/conversations/{conversation}/messages"
    first = me.post(path, b'{"content": "\\u0041", "media_url": "https://a.example.com/"}', key=key)
    again = me.post(path, b'{ "media_url":"https://a.example.com/","content":"A"}', key=key)
    assert first.status == 201
    assert again.body == first.body


def test_the_same_key_with_another_body_or_path_is_422(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    me.send(conversation, "Once", key=key)
    elsewhere = api.converse(mine, phone="+12025550123")
    assert me.send(conversation, "Twice", key=key).refusal == (422, "idempotency_key_reused")
    assert me.send(elsewhere, "Once", key=key).refusal == (422, "idempotency_key_reused")
    assert contents(api, mine) == ["Once"]


def test_a_colleague_may_repeat_it(api: Api, mine: Agency, conversation: str) -> None:
    key = str(uuid4())
    first = api.of(mine, user_id="user_a").send(conversation, key=key)
    assert api.of(mine, user_id="user_b").send(conversation, key=key).body == first.body


def test_the_same_key_of_two_agencies_has_nothing_in_common(api: Api, mine: Agency, conversation: str) -> None:
    other, key = api.new_agency(), str(uuid4())
    elsewhere = api.converse(other)
    first = api.of(mine).send(conversation, "Mine", key=key)
    second = api.of(other).send(elsewhere, "Theirs", key=key)
    assert (first.status, second.status) == (201, 201)
    assert second.headers["idempotent-replayed"] == "false"
    assert (contents(api, mine), contents(api, other)) == (["Mine"], ["Theirs"])


def test_fifty_concurrent_posts_with_one_key_send_one_message(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: me.send(conversation, "Once", key=key), range(50)))
    outcomes = Counter((answer.status, answer.headers.get("idempotent-replayed")) for answer in answers)
    assert outcomes[201, "false"] == 1
    assert set(outcomes) <= {(201, "false"), (201, "true"), (409, None)}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1
    assert {answer.code for answer in answers if answer.status == 409} <= {"idempotency_in_progress"}
    assert contents(api, mine) == ["Once"]


@pytest.fixture
def database(api: Api) -> Iterator[Database]:
    """For a transaction beside those of the API."""
    database = Database(api.urls.app, pool_size=1)
    yield database
    database.close()


def test_while_the_first_is_running_a_repeat_is_409_and_does_not_wait(
    api: Api, mine: Agency, conversation: str, database: Database
) -> None:
    me, key, id_ = api.of(mine), str(uuid4()), UUID(conversation)
    # The first one holds the conversation as well: who waited for that would get a 503, by the lock timeout.
    with tenant_transaction(database, mine.id) as connection:
        first = sends.begin(connection, conversation_id=id_, is_template=False, key=key, fingerprint=b"")
        assert isinstance(first, sends.Sender)
        answer = me.send(conversation, key=key)
    assert answer.refusal == (409, "idempotency_in_progress")
    assert int(answer.headers["retry-after"]) >= 1
    assert me.send(conversation, key=key).status == 201


def test_a_first_answer_is_given_again_while_another_message_is_sent(
    api: Api, mine: Agency, conversation: str, database: Database
) -> None:
    me, key = api.of(mine), str(uuid4())
    first = me.send(conversation, key=key)
    with tenant_transaction(database, mine.id) as connection:
        sends.lock_for_sending(connection, conversation_id=UUID(conversation), is_template=False)
        again = me.send(conversation, key=key)
    assert (again.status, again.headers["idempotent-replayed"], again.body) == (201, "true", first.body)


def test_only_a_201_is_kept(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    assert me.send(str(uuid4()), "Hi", key=key).status == 403
    assert me.send(conversation, "x" * 1601, key=key).status == 400
    api.receive(mine, "STOP")
    assert me.send(conversation, "Hi", key=key).status == 422
    api.receive(mine, "START")
    answer = me.send(conversation, "Something else", key=key)
    assert (answer.status, answer.headers["idempotent-replayed"]) == (201, "false")


def test_a_key_is_forgotten_after_24_hours(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), str(uuid4())
    first = me.send(conversation, "Today", key=key)

    def age(interval: str) -> None:
        api.sql(
            mine,
            """update idempotency_keys set created_at = clock_timestamp() - cast(:interval as interval)
            where agency_id = :agency_id""",
            interval=interval,
        )

    age("23 hours 59 minutes")
    assert me.send(conversation, "Today", key=key).body == first.body
    age("24 hours 1 second")
    assert me.send(conversation, "Tomorrow", key=key).headers["idempotent-replayed"] == "false"
    assert me.send(conversation, "Tomorrow", key=key).headers["idempotent-replayed"] == "true"
    assert contents(api, mine) == ["Today", "Tomorrow"]


def test_keys_that_have_expired_are_cleared_away_faster_than_new_ones_come(
    api: Api, mine: Agency, conversation: str
) -> None:
    me, most = api.of(mine), 2 * idempotency.CLEARING
    for _ in range(most + 2):
        me.send(conversation, key=str(uuid4()))
    count = """select count(*) as left_over from idempotency_keys
        where agency_id = :agency_id and created_at < clock_timestamp() - interval '24 hours'"""
    age = "update idempotency_keys set created_at = created_at - interval '25 hours' where agency_id = :agency_id"
    api.sql(mine, age)
    while True:  # until it is the turn of one, which comes soon: the ids are random
        message = me.send(conversation, key=str(uuid4())).json
        [row] = api.sql(mine, count)
        if UUID(message["id"]).int % idempotency.CLEARING == 0:
            break
        assert row.left_over == most + 2
    assert row.left_over == 2


def test_what_may_no_longer_be_sent_is_not_replayed_to_one_who_may_not(
    api: Api, mine: Agency, conversation: str
) -> None:
    key = str(uuid4())
    api.of(mine).send(conversation, key=key)
    assert api.of(mine, "viewer").send(conversation, key=key).refusal == (403, "role_forbidden")


def test_without_a_key_a_repeated_send_is_a_second_message(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine)
    assert [me.send(conversation, "Hi").status for _ in range(2)] == [201, 201]
    assert contents(api, mine) == ["Hi", "Hi"]


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "\t", "x" * 256, "\x7f", "a\x01"])
def test_a_bad_key_is_named_and_nothing_is_sent(api: Api, mine: Agency, conversation: str, key: str) -> None:
    me = api.of(mine)
    headers = [("Authorization", f"Bearer {me.token}"), ("Content-Type", "application/json")]
    answer = api.ask(
        "POST",
        f"{BASE_PATH}/conversations/{conversation}/messages",
        headers=[*headers, ("Idempotency-Key", key)],
        body=b'{"content": "x"}',
    )
    assert answer.status == 400
    assert contents(api, mine) == []


def test_a_key_that_comes_twice_is_refused(api: Api, mine: Agency, conversation: str) -> None:
    me = api.of(mine)
    answer = me.send(conversation, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == ["Idempotency-Key"]


def test_a_key_of_255_characters_is_accepted(api: Api, mine: Agency, conversation: str) -> None:
    me, key = api.of(mine), "~" * 255
    assert me.send(conversation, key=key).status == 201
    assert me.send(conversation, key=key).headers["idempotent-replayed"] == "true"
