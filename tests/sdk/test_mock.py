"""A screen can be built before the server is there: Prism's answers pass the same generated clients."""

import uuid

import pytest

from tests.contract.document import load
from tests.sdk.clients import CLIENTS, Client, Workspace

EXAMPLES = {name: each["value"] for name, each in load()["components"]["examples"].items()}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_mock_passes_the_generated_client(workspace: Workspace, mock_url: str, client: Client) -> None:
    page, conversation = EXAMPLES["ConversationPage"], EXAMPLES["WhatsAppConversation"]
    session = {
        "url": mock_url,
        "staff": "any",
        "viewer": "any",
        "agency": str(uuid.uuid4()),
        "conversation": conversation["id"],
        "missing": str(uuid.uuid4()),
        "key": str(uuid.uuid4()),
        "mocked": True,
    }
    seen = workspace.run(client, session)
    assert seen["inbox"] == [each["id"] for each in page["conversations"]]
    assert seen["total"] == page["total"]
    told = [*EXAMPLES["MessagePage"]["messages"], *EXAMPLES["LastMessagePage"]["messages"]]
    assert seen["thread"] == [each["content"] for each in told]
    assert (seen["contact"], seen["channel"]) == (conversation["contact_phone"], conversation["channel"])
    assert (seen["sent"], seen["status"]) == (EXAMPLES["QueuedText"]["id"], "queued")
    assert seen["history"] == len(EXAMPLES["ReadMessage"]["history"])
    assert seen["codes"] == [
        [404, "conversation_not_found"],
        [403, "role_forbidden"],
        [422, "idempotency_key_reused"],
    ]
