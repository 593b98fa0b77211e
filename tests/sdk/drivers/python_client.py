"""A program's session with the client that openapi-python-client makes: what it saw, as JSON."""

import json
import os
from typing import Any
from uuid import UUID

from faro_conversations_client import AuthenticatedClient
from faro_conversations_client.api.conversations import get_conversation, list_conversations
from faro_conversations_client.api.messages import get_message, list_messages, send_message
from faro_conversations_client.models import (
    Conversation,
    ConversationPage,
    Message,
    MessageDetail,
    MessagePage,
    Problem,
    SendMessageRequest,
)
from faro_conversations_client.types import UNSET, Response

GIVEN: dict[str, Any] = json.loads(os.environ["SESSION"])
CONVERSATION = UUID(GIVEN["conversation"])


def client(who: str, wish: str = "") -> AuthenticatedClient:
    """A mock has no memory: it is told which of the documented answers to give."""
    headers = {"Prefer": wish} if wish and GIVEN["mocked"] else {}
    return AuthenticatedClient(base_url=GIVEN["url"], token=GIVEN[who], headers=headers)


def inbox() -> tuple[list[str], int]:
    ids: list[str] = []
    total, cursor = 0, None
    while True:
        wish = "example=nothing_found" if cursor else "example=first_page"
        page = list_conversations.sync(client=client("staff", wish), limit=2, cursor=cursor or UNSET)
        assert isinstance(page, ConversationPage), page
        ids += [str(each.id) for each in page.conversations]
        total, cursor = max(total, page.total), page.next_cursor
        if cursor is None:
            return ids, total


def thread() -> list[str]:
    contents: list[str] = []
    before: UUID | None = None
    while True:
        wish = "example=last_page" if before else "example=newest"
        page = list_messages.sync(CONVERSATION, client=client("staff", wish), limit=2, before=before or UNSET)
        assert isinstance(page, MessagePage), page
        contents += [each.content for each in page.messages]
        before = page.next_before
        if before is None:
            return contents


def send(who: str, content: str, wish: str = "code=201") -> Response[Message | Problem]:
    return send_message.sync_detailed(
        CONVERSATION,
        client=client(who, wish),
        body=SendMessageRequest(content=content),
        idempotency_key=GIVEN["key"],
    )


def refusal(response: Response[Any]) -> tuple[int, str]:
    assert isinstance(response.parsed, Problem), response
    return response.status_code, response.parsed.code.value


def session() -> dict[str, Any]:
    ids, total = inbox()
    conversation = get_conversation.sync(CONVERSATION, client=client("staff"))
    assert isinstance(conversation, Conversation), conversation
    contents = thread()
    sent, again = send("staff", "From Python"), send("staff", "From Python")
    assert isinstance(sent.parsed, Message)
    assert isinstance(again.parsed, Message)
    message = get_message.sync(sent.parsed.id, client=client("staff"))
    assert isinstance(message, MessageDetail), message
    named = list_conversations.sync(client=client("staff"), x_tenant_id=GIVEN["agency"], tenant_id=GIVEN["agency"])
    assert isinstance(named, ConversationPage), named
    lost = get_conversation.sync_detailed(UUID(GIVEN["missing"]), client=client("staff", "code=404"))
    return {
        "inbox": ids,
        "total": total,
        "thread": contents,
        "contact": conversation.contact_phone,
        "channel": conversation.channel.value,
        "last_message_at": int(conversation.last_message_at.timestamp() * 1000),
        "sent": str(sent.parsed.id),
        "status": sent.parsed.status.value,
        "again": str(again.parsed.id),
        "replayed": [each.headers.get("Idempotent-Replayed") for each in (sent, again)],
        "read_back": str(message.id),
        "history": len(message.history),
        "named": len(named.conversations) > 0,
        "codes": [
            refusal(lost),
            refusal(send("viewer", "No", "code=403, example=role_forbidden")),
            refusal(send("staff", "Something else", "code=422, example=idempotency_key_reused")),
        ],
    }


print(json.dumps(session()))  # noqa: T201
