"""The same send, thousands of times at once: one message for each key, and everybody is told the same."""

import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api_client import Answer, Api

KEYS = 5


def _post_many(api: Api, posts: int) -> None:
    mine, theirs = api.new_agency(), api.new_agency()
    conversation, elsewhere = api.converse(mine), api.converse(theirs)
    me, others = api.of(mine), api.of(theirs)
    keys = [str(uuid.uuid4()) for _ in range(KEYS)]

    def post(number: int) -> tuple[str, Answer]:
        key = keys[number % KEYS]
        while True:
            answer = me.send(conversation, f"Message of {key}", key=key)
            if answer.status not in (409, 429, 503):  # told to come again
                return key, answer

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(post, range(posts)))
    assert others.send(elsewhere, f"Message of {keys[0]}", key=keys[0]).headers["idempotent-replayed"] == "false"
    bodies = defaultdict(set)
    first = defaultdict(int)
    for key, answer in answers:
        assert answer.status == 201
        bodies[key].add(answer.body)
        first[key] += answer.headers["idempotent-replayed"] == "false"
    assert {key: (len(bodies[key]), first[key]) for key in keys} == dict.fromkeys(keys, (1, 1))
    outbound = "select content from messages where agency_id = :agency_id and direction = 'outbound'"
    assert sorted(row.content for row in api.sql(mine, outbound)) == sorted(f"Message of {key}" for key in keys)
    assert len(api.sql(mine, "select 1 from outbox where agency_id = :agency_id")) == KEYS
    assert len(api.sql(theirs, outbound)) == 1


def test_five_hundred_concurrent_duplicates_are_one_message_for_each_key(api: Api) -> None:
    _post_many(api, 500)


@pytest.mark.long
def test_ten_thousand_concurrent_duplicates_are_one_message_for_each_key(api: Api) -> None:
    _post_many(api, 10_000)
