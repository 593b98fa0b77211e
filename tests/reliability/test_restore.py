"""The database goes back to an older copy of itself, and what happened since is found out at the carrier."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.conftest import urls_of
from tests.deployment import test_operations_page as operations_page
from tests.stack import Stack, running

LIVE, COPY = "faro_live", "faro_backup_copy"
PHONES = [f"+1404555{number:04d}" for number in range(4)]
# What takes minutes by default takes seconds here.
HASTE = {
    "SEND_CONNECT_TIMEOUT_SECONDS": "1",
    "SEND_DEADLINE_SECONDS": "2",
    "RECONCILE_GRACE_SECONDS": "3",
    "RECONCILE_INTERVAL_SECONDS": "1",
    "RECONCILE_HOLD_SECONDS": "30",
    "STATUS_POLL_SECONDS": "4",
    "INBOUND_CHECK_SECONDS": "2",
}


def wait_until(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)


def copy(postgres: EmbeddedPostgres, source: str, target: str) -> None:
    """What a backup is, and what restoring one is; nobody is connected."""
    postgres.drop_database(target)
    postgres.create_database(target, template=source)


def write_to_everybody(stack: Stack, conversations: list[str], *texts: str) -> None:
    for text in texts:
        for conversation in conversations:
            sent = stack.post(stack.agencies[0], f"/conversations/{conversation}/messages", {"content": text})
            assert sent.status == 201


def test_after_a_restore_nothing_is_sent_twice_nothing_inbound_is_missing_and_statuses_are_right(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path: Path
) -> None:
    copy(postgres, migrated_template, LIVE)
    urls = urls_of(postgres, LIVE)
    with running(urls, tmp_path, **HASTE) as stack:
        agency, stranger = stack.agencies[:2]
        ours, theirs = agency.channels[1], stranger.channels[1]
        for phone in PHONES:
            stack.write(ours, phone, "Hello")
        stack.write(theirs, PHONES[0], "Hello")
        conversations = [one["id"] for one in stack.conversations(agency)]
        (elsewhere,) = [one["id"] for one in stack.conversations(stranger)]

        def threads() -> list[dict[str, Any]]:
            return [message for one in conversations for message in stack.messages(agency, one)]

        def outbound() -> list[dict[str, Any]]:
            return [message for message in threads() if message["direction"] == "outbound"]

        def accepted() -> Counter[tuple[str, str, str]]:
            return Counter((entry["from"], entry["to"], entry["body"]) for entry in stack.simulator.accepted)

        # One message has left and not ended, three of each conversation have not left when the copy is made.
        stack.simulator.set_faults({"dice": [{"kind": "callback_lost", "probability": 1.0}]})
        write_to_everybody(stack, conversations, "on its way")
        wait_until(lambda: len(stack.simulator.accepted) == len(PHONES))
        stack.stop("worker")
        write_to_everybody(stack, conversations, "first", "second", "third")
        refused = stack.post(stranger, f"/conversations/{elsewhere}/messages", {"content": "first"}).json["id"]
        stack.stop("serve")
        copy(postgres, LIVE, COPY)

        # Life goes on, and all of it is lost: what is sent, what is received, what is reported.
        operations_page.run(
            urls.owner, "suspend", **{str(operations_page.AGENCY_ID): str(stranger.id)}
        )  # its message is not sent, though it was queued
        stack.simulator.set_faults({})
        stack.start("serve", "worker")
        written = {stack.write(ours, phone, "meanwhile")[0] for phone in PHONES}
        wait_until(lambda: all(message["status"] == "delivered" for message in outbound()))
        before = accepted()
        assert sorted(before.values()) == [1] * 4 * len(PHONES)
        wait_until(lambda: stack.get(stranger, f"/messages/{refused}").json["status"] == "canceled")
        stack.stop("serve", "worker")

        copy(postgres, COPY, LIVE)
        operations_page.run(urls.superuser, "after a restore")
        stack.start("serve", "worker")
        wait_until(lambda: {m["twilio_sid"] for m in threads() if m["content"] == "meanwhile"} == written)
        wait_until(lambda: all(message["status"] == "delivered" for message in outbound()))
        assert Counter(m["content"] for m in threads() if m["direction"] == "inbound") == {
            "Hello": len(PHONES),
            "meanwhile": len(PHONES),
        }
        assert not any(message["duplicate_detected"] for message in outbound())
        sids = {entry["message_sid"]: entry["body"] for entry in stack.simulator.accepted}
        assert {message["twilio_sid"]: message["content"] for message in outbound()} == sids
        # The other agency's text is the same, to the same contact; of it the carrier knows nothing.
        time.sleep(5)
        lost = stack.get(stranger, f"/messages/{refused}").json
        assert (lost["status"], lost["twilio_sid"]) == ("unconfirmed", None)
        assert accepted() == before
        # What is written from now on goes out as ever.
        write_to_everybody(stack, conversations, "afterwards")
        wait_until(lambda: len(stack.simulator.accepted) == sum(before.values()) + len(PHONES))
        assert max(accepted().values()) == 1
    postgres.drop_database(LIVE)
    postgres.drop_database(COPY)
