"""The API is killed with SIGKILL at each named point of a send or a callback: repeating the request makes it whole."""

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from conversations_api import child_processes
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.delivery.crashing import POINTS
from tests.stack import Answer, Stack, database_of_its_own, running

SEND_POINTS = ["request_received", "message_inserted", "all_inserted_not_committed", "committed_not_answered"]


@pytest.fixture(scope="module")
def own_stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Nothing runs yet but the carrier."""
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, tmp_path_factory.mktemp("crashing"), commands=(), WEB_CONCURRENCY="1") as stack,
    ):
        yield stack


def start_crashing(stack: Stack, point: str, flag: Path) -> None:
    """`serve`, whose process dies at the point once the flag is there, and is replaced by gunicorn."""
    command = [sys.executable, "-m", "tests.delivery.crashing", point, str(flag)]
    stack.children["serve"] = child_processes.start(
        "serve", command, environment=stack.environment, log_path=stack.folder / "serve.log"
    )
    deadline = time.monotonic() + 60
    while not stack._is_ready():
        assert time.monotonic() < deadline, stack.log_tail()
        time.sleep(0.05)


def repeat(stack: Stack, path: str, body: dict[str, str], key: str) -> Answer:
    """As a client does that gets no answer: the same request again."""
    agency = stack.agencies[0]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError, HTTPException):
            answer = stack.post(agency, path, body, key=key)
            if answer.status != 503:
                return answer
        time.sleep(0.1)
    raise AssertionError("no answer")


@pytest.mark.parametrize("point", SEND_POINTS)
def test_a_send_that_died_anywhere_is_one_message_when_it_is_repeated(
    own_stack: Stack, tmp_path: Path, point: str
) -> None:
    agency = own_stack.agencies[0]
    flag = tmp_path / "flag"
    start_crashing(own_stack, point, flag)
    try:
        own_stack.write(agency.channels[1], "+12025550143", "Hello")
        conversation = next(iter(own_stack.conversations(agency)))["id"]
        content, key = f"died at {point}", str(uuid.uuid4())
        path = f"/conversations/{conversation}/messages"
        flag.touch()
        with pytest.raises((OSError, HTTPException)):
            own_stack.post(agency, path, {"content": content}, key=key)
        assert not flag.exists()
        answer = repeat(own_stack, path, {"content": content}, key)
        assert answer.status == 201
        assert answer.headers["idempotent-replayed"] == ("true" if point == "committed_not_answered" else "false")
        thread = [one for one in own_stack.messages(agency, conversation) if one["content"] == content]
        assert [one["id"] for one in thread] == [answer.json["id"]]
    finally:
        own_stack.stop("serve", seconds=0)


def test_a_callback_whose_receiver_died_is_applied_when_the_carrier_repeats_it(
    own_stack: Stack, tmp_path: Path
) -> None:
    agency = own_stack.agencies[0]
    flag = tmp_path / "flag"
    start_crashing(own_stack, "status_applied_not_committed", flag)
    try:
        own_stack.write(agency.channels[1], "+12025550144", "Hello")
        conversation = next(iter(own_stack.conversations(agency)))["id"]
        sent = own_stack.post(agency, f"/conversations/{conversation}/messages", {"content": "Hi"}).json
        path = f"/api/v1/webhooks/twilio/status/{agency.id}/{sent['id']}/1"
        account_sid = agency.channels[1].account_sid
        form = [("MessageSid", "SM" + "7" * 32), ("AccountSid", account_sid), ("MessageStatus", "delivered")]
        flag.touch()
        with pytest.raises((OSError, HTTPException)):
            own_stack.post_signed(path, form, account_sid)
        deadline = time.monotonic() + 60
        statuses = []
        while len(statuses) < 3:
            assert time.monotonic() < deadline
            with suppress(OSError, HTTPException):
                statuses.append(own_stack.post_signed(path, form, account_sid).status)
        assert statuses == [200, 200, 200]
        message = own_stack.get(agency, f"/messages/{sent['id']}").json
        assert (message["status"], message["twilio_sid"]) == ("delivered", "SM" + "7" * 32)
        assert [event["status"] for event in message["history"]] == ["delivered"]
    finally:
        own_stack.stop("serve", seconds=0)


def test_every_point_of_the_api_is_tried() -> None:
    serving = {point for point, (command, *_) in POINTS.items() if command == "serve"}
    assert serving == {*SEND_POINTS, "status_applied_not_committed"}
