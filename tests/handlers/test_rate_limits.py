"""An agency that asks too much is told so, and when to come again; nobody else is, and Twilio never."""

import re
import socket
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.agencies import Urls
from tests.api_client import BASE_PATH, Answer, Api
from tests.serving import served

REQUESTS, SENDS = 8, 3
LEFT = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')


@pytest.fixture
def limited(urls: Urls) -> Iterator[Api]:
    limits = {"RATE_LIMIT_REQUESTS_PER_MINUTE": str(REQUESTS), "RATE_LIMIT_SENDS_PER_MINUTE": str(SENDS)}
    with served(urls, **limits) as api:
        yield api


def left(answer: Answer) -> dict[str, int]:
    """What is left of each limit; the seconds until it is full again are checked."""
    found = LEFT.findall(answer.headers["ratelimit"])
    assert answer.headers["ratelimit"] == ", ".join('"{}";r={};t={}'.format(*each) for each in found)
    assert all(1 <= int(seconds) <= 60 for _, _, seconds in found)
    return {name: int(remaining) for name, remaining, _ in found}


def test_every_answer_in_an_agencys_name_says_what_is_left(limited: Api) -> None:
    agency = limited.new_agency()
    conversation, me = limited.converse(agency), limited.of(agency)
    answers = [
        me.get("/conversations"),
        me.get(f"/conversations/{uuid4()}"),
        me.send(conversation),
        me.send(str(uuid4())),
    ]
    assert [answer.status for answer in answers] == [200, 404, 201, 403]
    assert [left(answer) for answer in answers] == [
        {"requests": 7},
        {"requests": 6},
        {"requests": 5, "sending": 2},
        {"requests": 4, "sending": 1},
    ]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=8;w=60'
    assert answers[2].headers["ratelimit-policy"] == '"requests";q=8;w=60, "sending";q=3;w=60'


def test_past_the_limit_it_is_429_until_the_window_ends(limited: Api) -> None:
    me = limited.of(limited.new_agency())
    answers = [me.get("/conversations") for _ in range(REQUESTS + 2)]
    assert [answer.status for answer in answers] == [200] * REQUESTS + [429] * 2
    refused = answers[-1]
    assert refused.code == "rate_limited"
    assert left(refused) == {"requests": 0}
    assert int(refused.headers["retry-after"]) == int(LEFT.findall(refused.headers["ratelimit"])[0][2])


def test_sending_has_a_stricter_limit_of_its_own_and_what_is_refused_is_not_sent(limited: Api) -> None:
    agency = limited.new_agency()
    conversation, me = limited.converse(agency), limited.of(agency)
    answers = [me.send(conversation, str(number)) for number in range(SENDS + 1)]
    assert [answer.status for answer in answers] == [201] * SENDS + [429]
    assert left(answers[-1]) == {"requests": REQUESTS - SENDS - 1, "sending": 0}
    assert me.post(f"/messages/{uuid4()}/resend").status == 429
    assert me.get("/conversations").status == 200
    rows = limited.sql(agency, "select content from messages where agency_id = :agency_id and direction = 'outbound'")
    assert sorted(row.content for row in rows) == ["0", "1", "2"]


def test_the_limit_is_the_agencys_and_not_its_users(limited: Api) -> None:
    agency = limited.new_agency()
    answers = [limited.of(agency, user_id=f"user_{number}").get("/conversations") for number in range(REQUESTS + 1)]
    assert answers[-1].status == 429


def test_one_agencys_limit_is_nobody_elses(limited: Api) -> None:
    loud, quiet = limited.new_agency(), limited.new_agency()
    for _ in range(REQUESTS + 1):
        limited.of(loud).get("/conversations")
    assert left(limited.of(quiet).get("/conversations")) == {"requests": REQUESTS - 1}


def test_a_stranger_uses_up_the_limit_of_its_own_agency_and_of_no_other(limited: Api) -> None:
    agency, home = limited.new_agency(), limited.new_agency()
    stranger = limited.of(home)
    for _ in range(REQUESTS):
        answer = stranger.get("/conversations", headers=[("X-Tenant-ID", str(agency.id))])
        assert answer.refusal == (403, "tenant_forbidden")
        assert "ratelimit" not in answer.headers
    for tried in (agency.id, uuid4()):
        answer = stranger.get("/conversations", headers=[("X-Tenant-ID", str(tried))])
        assert (answer.refusal, left(answer)) == ((429, "rate_limited"), {"requests": 0})
    assert stranger.get("/conversations").status == 429
    for _ in range(REQUESTS + 1):
        limited.ask("GET", f"{BASE_PATH}/conversations", headers=[("X-Tenant-ID", str(agency.id))])
    assert left(limited.of(agency).get("/conversations")) == {"requests": REQUESTS - 1}


def test_a_member_who_names_another_agency_counts_in_both(limited: Api) -> None:
    home, other = limited.new_agency(), limited.new_agency()
    me = limited.of(home, user_id="user_member")
    answer = me.get("/conversations", headers=[("X-Tenant-ID", str(other.id))])
    assert left(answer) == {"requests": REQUESTS - 1}
    assert left(me.get("/conversations")) == {"requests": REQUESTS - 2}
    assert left(limited.of(other).get("/conversations")) == {"requests": REQUESTS - 2}


def test_who_may_not_send_uses_up_no_send(limited: Api) -> None:
    agency = limited.new_agency()
    conversation, viewer = limited.converse(agency), limited.of(agency, role="viewer")
    for number in range(SENDS + 1):
        answer = viewer.send(conversation)
        assert (answer.refusal, left(answer)) == ((403, "role_forbidden"), {"requests": REQUESTS - 1 - number})
    assert left(limited.of(agency).send(conversation)) == {"requests": REQUESTS - SENDS - 2, "sending": SENDS - 1}


def test_webhooks_and_health_checks_are_never_limited(limited: Api) -> None:
    agency = limited.new_agency()
    answers = [limited.receive(agency, str(number)) for number in range(REQUESTS * 2)]
    answers += [
        limited.ask("GET", f"{BASE_PATH}/{path}") for path in ("healthz", "readyz") for _ in range(REQUESTS * 2)
    ]
    assert {answer.status for answer in answers} == {200}
    assert not any("ratelimit" in answer.headers for answer in answers)


def test_what_the_contract_refuses_is_not_counted(limited: Api) -> None:
    me = limited.of(limited.new_agency())
    for _ in range(REQUESTS):
        assert me.get("/conversations", limit=0).status == 400
    assert left(me.get("/conversations")) == {"requests": REQUESTS - 1}


def test_without_limits_nothing_is_said_of_them(api: Api) -> None:
    assert "ratelimit" not in api.of(api.new_agency()).get("/conversations").headers


def test_a_redis_that_does_not_answer_limits_nobody_and_costs_no_answer(urls: Urls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        storage = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with served(urls, RATE_LIMIT_REQUESTS_PER_MINUTE="1", RATE_LIMIT_STORAGE_URL=storage) as api:
            me = api.of(api.new_agency())
            answers = [me.get("/conversations") for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert not any("ratelimit" in answer.headers for answer in answers)
