"""Every client that `make sdk` generates compiles strictly and works against the service, as it was generated."""

import subprocess
import uuid
from datetime import datetime
from typing import Any

import pytest

from tests.sdk.clients import CLIENTS, DRIVERS, Client, Workspace
from tests.sdk.generate import GENERATORS, ROOT
from tests.stack import Stack

PHONES = [f"+1202555018{number}" for number in range(5)]
by_name = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


@pytest.fixture(scope="module")
def thread(stack: Stack) -> dict[str, Any]:
    """A conversation of five messages beside four others, in the agency where other tests seldom write."""
    agency = stack.agencies[-1]
    channel = next(channel for channel in agency.channels if channel.kind == "sms")
    for phone in PHONES:
        stack.write(channel, phone, f"I am {phone}")
    for number in range(2, 6):
        stack.write(channel, PHONES[0], f"Message {number}")
    return next(each for each in stack.conversations(agency) if each["contact_phone"] == PHONES[0])


@by_name
def test_a_generated_client_compiles_strictly(workspace: Workspace, client: Client) -> None:
    assert workspace.compile(client) == ""


@by_name
def test_a_generated_client_does_what_a_screen_does(
    stack: Stack, thread: dict[str, Any], workspace: Workspace, client: Client
) -> None:
    workspace.compile(client)
    agency = stack.agencies[-1]
    foreign = next(iter(stack.conversations(stack.agencies[0])), {"id": str(uuid.uuid4())})
    inbox = [each["id"] for each in stack.conversations(agency)]
    contents = [each["content"] for each in stack.messages(agency, thread["id"])]
    before = stack.get(agency, f"/conversations/{thread['id']}").json
    session = {
        "url": stack.api_url,
        "staff": stack.token(agency),
        "viewer": stack.token(agency, role="viewer"),
        "agency": str(agency.id),
        "conversation": thread["id"],
        "missing": foreign["id"],
        "key": str(uuid.uuid4()),
        "mocked": False,
    }
    seen = workspace.run(client, session)
    assert len(inbox) >= 5
    assert seen["inbox"] == inbox
    assert seen["total"] == len(inbox)
    assert contents[-5:] == ["Message 5", "Message 4", "Message 3", "Message 2", f"I am {PHONES[0]}"]
    assert seen["thread"] == contents
    assert (seen["contact"], seen["channel"]) == (PHONES[0], "sms")
    moment = datetime.fromisoformat(before["last_message_at"]).timestamp()
    assert seen["last_message_at"] == int(moment * 1000)
    assert seen["status"] == "queued"
    assert seen["again"] == seen["sent"] == seen["read_back"]
    assert seen["replayed"] == ["false", "true"]
    assert seen["named"] is True
    assert seen["codes"] == [
        [404, "conversation_not_found"],
        [403, "role_forbidden"],
        [422, "idempotency_key_reused"],
    ]
    newest = next(stack.messages(agency, thread["id"]))
    assert newest["id"] == seen["sent"]
    assert newest["content"].startswith("From ")


def test_what_the_generators_make_is_not_kept_in_the_repository() -> None:
    """So it cannot be edited by hand, and cannot fall behind the contract."""
    kept = subprocess.run(["git", "ls-files", "sdk"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert kept.stdout == ""
    assert "/sdk/" in ROOT.joinpath(".gitignore").read_text(encoding="utf-8").splitlines()


def test_every_generated_client_has_a_driver() -> None:
    assert {client.folder for client in CLIENTS} == set(GENERATORS)
    assert {path.stem for path in DRIVERS.glob("*_*.*")} == {
        "openapi_fetch",
        "typescript_fetch",
        "python_client",
        "ruby_client",
    }
