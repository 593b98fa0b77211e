"""Our side is down until the carrier has given up telling us; then nothing is missing and every status is right."""

import time
from collections.abc import Callable, Iterator

import pytest

from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.stack import Stack, database_of_its_own, running

PHONES = [f"+1404555{number:04d}" for number in range(8)]


@pytest.fixture
def own_stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """An installation in a hurry: what takes minutes by default takes seconds here."""
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, tmp_path_factory.mktemp("outage"), STATUS_POLL_SECONDS="4", INBOUND_CHECK_SECONDS="2") as stack,
    ):
        yield stack


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)


def test_after_an_outage_nothing_inbound_is_missing_and_every_status_is_right(own_stack: Stack) -> None:
    agency, stranger = own_stack.agencies[:2]
    sms, theirs = agency.channels[1], stranger.channels[1]
    for phone in PHONES:
        assert own_stack.write(sms, phone, "before")[1] == 200
    assert own_stack.write(theirs, PHONES[0], "theirs")[1] == 200
    conversations = [one["id"] for one in own_stack.conversations(agency)]
    own_stack.stop("worker")
    for conversation in conversations:
        assert own_stack.post(agency, f"/conversations/{conversation}/messages", {"content": "sent"}).status == 201
    own_stack.stop("serve", seconds=0)
    # The worker sends, and nobody hears of it; then it is gone as well, before it could ask.
    own_stack.start("worker")
    wait_until(lambda: len(own_stack.simulator.accepted) == len(PHONES))
    own_stack.stop("worker", seconds=0)
    written = {own_stack.write(sms, phone, "meanwhile")[0] for phone in PHONES}
    # Callbacks are tried again for some seconds, and then never more.
    tried = -1
    while tried != len(own_stack.simulator.posted):
        tried = len(own_stack.simulator.posted)
        time.sleep(5)
    own_stack.start("serve", "worker")

    def threads() -> list[dict[str, object]]:
        return [message for one in conversations for message in own_stack.messages(agency, one)]

    wait_until(lambda: {m["twilio_sid"] for m in threads() if m["content"] == "meanwhile"} == written)
    wait_until(lambda: all(m["status"] == "delivered" for m in threads() if m["content"] == "sent"))
    assert len([m for m in threads() if m["content"] == "meanwhile"]) == len(PHONES)
    assert len(own_stack.simulator.accepted) == len(PHONES)
    (other,) = own_stack.conversations(stranger)
    assert [message["content"] for message in own_stack.messages(stranger, other["id"])] == ["theirs"]
