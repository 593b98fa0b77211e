"""Reading a thread, and sending into it."""

import hashlib
import json
from typing import Any
from uuid import UUID

from handlers import responses
from handlers.requests import Request
from handlers.responses import Response
from persistence import agencies, audit_records, idempotency, messages, outbox, provider_events, sends
from persistence.errors import InvalidFields, NotResendable
from tenancy.access import Inbox


def list_messages(request: Request, conversation_id: str, limit: int, before: str | None = None) -> Response:
    with request.open_inbox() as inbox:
        page = messages.list_page(
            inbox.connection,
            conversation_id=UUID(conversation_id),
            limit=limit,
            before=None if before is None else UUID(before),
        )
    return responses.page({"has_more": page.has_more, "next_before": page.next_before}, messages=page.messages)


def get_message(request: Request, message_id: str) -> Response:
    with request.open_inbox() as inbox:
        message = messages.get(inbox.connection, message_id=UUID(message_id))
        message["history"] = provider_events.list_history(inbox.connection, message_id=UUID(message_id))
    return responses.ok(message)


def send_message(request: Request, conversation_id: str, body: dict[str, Any]) -> Response:
    _require_combination(body)
    id_, key = UUID(conversation_id), request.headers.get("idempotency-key")
    fingerprint = _fingerprint(conversation_id, body)
    with request.open_inbox(sending=True) as inbox:
        begun = sends.begin(
            inbox.connection, conversation_id=id_, is_template="template" in body, key=key, fingerprint=fingerprint
        )
        if isinstance(begun, sends.FirstAnswer):
            return _created(begun.response, begun.message_id, replayed=True)
        message = _queue(request, inbox, id_, begun, body)
        answer = responses.dumps(message).decode()
        if key is not None:
            idempotency.insert(
                inbox.connection, key=key, fingerprint=fingerprint, message_id=message["id"], response=answer
            )
    return _created(answer, message["id"], replayed=False)


def resend_message(request: Request, message_id: str) -> Response:
    with request.open_inbox(sending=True) as inbox:
        connection, id_ = inbox.connection, UUID(message_id)
        agencies.require_active(connection)
        message = messages.get(connection, message_id=id_)
        if message["direction"] != "outbound":
            raise NotResendable
        sender = sends.lock_for_sending(
            connection, conversation_id=message["conversation_id"], is_template=message["template"] is not None
        )
        # Asked again under the lock: evidence may have arrived, or another request or a redaction may have been first.
        redacted = messages.get(connection, message_id=id_)["redacted_at"] is not None
        if redacted or outbox.find_state(connection, message_id=id_) is not None:
            raise NotResendable
        if not messages.advance_status(connection, message_id=id_, status="queued"):
            raise NotResendable
        outbox.insert(
            connection,
            message_id=id_,
            conversation_id=message["conversation_id"],
            channel_id=sender.channel_id,
            sent_at=message["sent_at"],
            again=True,
        )
        _audit(request, inbox, "resend_message", id_)
        message = messages.get(connection, message_id=id_)
    return responses.ok(message)


def _queue(
    request: Request, inbox: Inbox, conversation_id: UUID, sender: sends.Sender, body: dict[str, Any]
) -> dict[str, Any]:
    connection, template = inbox.connection, body.get("template")
    message = messages.insert(
        connection,
        conversation_id=conversation_id,
        direction="outbound",
        status="queued",
        sent_at=sender.next_sent_at,
        content=body.get("content", ""),
        media=[{"url": body["media_url"], "content_type": body.get("media_type")}] if "media_url" in body else [],
        template=template and {"content_sid": template["content_sid"], "variables": template.get("variables", {})},
        sent_by=inbox.user_id,
    )
    outbox.insert(
        connection,
        message_id=message["id"],
        conversation_id=conversation_id,
        channel_id=sender.channel_id,
        sent_at=message["sent_at"],
    )
    _audit(request, inbox, "send_message", message["id"])
    return message


def _require_combination(body: dict[str, Any]) -> None:
    errors: list[tuple[str, str]] = []
    if "template" in body:
        errors = [(field, "cannot be combined with template") for field in ("content", "media_url") if field in body]
    elif "content" not in body and "media_url" not in body:
        errors = [("content", "is required where there is no media_url and no template")]
    if "media_type" in body and "media_url" not in body:
        errors.append(("media_type", "needs a media_url"))
    if errors:
        raise InvalidFields(*errors)


def _fingerprint(conversation_id: str, body: dict[str, Any]) -> bytes:
    canonical = json.dumps([conversation_id, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def _audit(request: Request, inbox: Inbox, action: str, message_id: UUID) -> None:
    audit_records.insert(
        inbox.connection,
        user_id=inbox.user_id,
        role=inbox.role,
        action=action,
        tenant_source=inbox.tenant_source,
        request_id=request.state["request_id"],
        message_id=message_id,
    )


def _created(answer: str, message_id: UUID, *, replayed: bool) -> Response:
    return responses.created(answer.encode(), location=f"/api/v1/messages/{message_id}", replayed=replayed)
