"""The handlers of documented Connexion: functions that are named as the contract names operations, and return dicts.

The content type is named because Connexion cannot choose one where an operation documents both JSON and problems.
A send makes the same writes as ours, in one transaction: conversation, message, outbox, audit record, idempotency key.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import connexion
import uuid_utils.compat as uuid_utils
from connexion.exceptions import ProblemException
from sqlalchemy import Connection, text

from benchmarks.peers import connexion_documented, shapes, statements

JSON = {"Content-Type": "application/json"}

BIND = text(statements.BIND)
COUNT = text(statements.COUNT)
LIST_FIRST, LIST_AFTER = text(statements.LIST_FIRST), text(statements.LIST_AFTER)
FIND_PLACE = text(statements.FIND_PLACE)
MESSAGES_FIRST, MESSAGES_BEFORE = text(statements.MESSAGES_FIRST), text(statements.MESSAGES_BEFORE)

LOCK_KEY = text("select pg_try_advisory_xact_lock(hashtextextended(cast(:agency_id as text) || ' ' || :key, 0))")

FIND_ANSWER = text("""
    select response
    from idempotency_keys
    where agency_id = :agency_id
    and key = :key
    and created_at > clock_timestamp() - interval '24 hours'
""")

FIND_STATUS = text("""
    select status
    from agencies
    where agency_id = :agency_id
""")

LOCK_CONVERSATION = text("""
    select conversations.channel_id, conversations.opted_out_at is not null as opted_out,
        greatest(clock_timestamp(), conversations.last_message_at + interval '1 microsecond') as sent_at,
        channels.kind = 'whatsapp'
            and coalesce(conversations.last_inbound_at + interval '24 hours' <= clock_timestamp(), true)
            as window_closed
    from conversations
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    where conversations.agency_id = :agency_id
    and conversations.id = :conversation_id
    for no key update of conversations
""")

UPDATE_CONVERSATION = text("""
    update conversations
    set last_message_at = :sent_at, last_message_preview = :preview, last_message_direction = 'outbound',
        updated_at = :sent_at
    where agency_id = :agency_id
    and id = :conversation_id
""")

INSERT_MESSAGE = text("""
    insert into messages (agency_id, id, conversation_id, direction, content, media, status, sent_by, sent_at)
    values (:agency_id, :id, :conversation_id, 'outbound', :content, '[]', 'queued', :sent_by, :sent_at)
    returning id, conversation_id, direction, content, media, template, transcript, status, error_code,
        error_message, twilio_sid, sent_by, sent_at, delivered_at, read_at, created_at, duplicate_detected, redacted_at
""")

INSERT_OUTBOX = text("""
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
    values (:agency_id, :message_id, :conversation_id, :channel_id, :sent_at,
        case
            when exists (
                select 1
                from outbox
                where agency_id = :agency_id
                and conversation_id = :conversation_id
                and state in ('waiting', 'queued', 'calling', 'unknown')) then 'waiting'
            else 'queued'
        end)
""")

NOTIFY = text("notify faro_outbox")

INSERT_AUDIT_RECORD = text("""
    insert into audit_records (agency_id, id, user_id, role, action, tenant_source, request_id, message_id)
    values (:agency_id, :id, :user_id, :role, 'send_message', 'token', :request_id, :message_id)
""")

INSERT_KEY = text("""
    insert into idempotency_keys (agency_id, key, fingerprint, message_id, response)
    values (:agency_id, :key, :fingerprint, :message_id, :response)
""")


@contextmanager
def transaction(agency_id: str) -> Iterator[Connection]:
    with connexion_documented.engine.begin() as connection:
        connection.execute(BIND, {"agency_id": agency_id})
        yield connection


def listConversations(  # the contract's operationId is the function's name
    token_info: dict[str, Any], limit: int, cursor: str | None = None
) -> Any:
    parameters: dict[str, Any] = {"agency_id": token_info["agency_id"], "limit": limit + 1}
    if cursor is not None:
        parameters["before_at"], parameters["before_id"] = shapes.decode_cursor(cursor)
    with transaction(token_info["agency_id"]) as connection:
        rows = connection.execute(LIST_FIRST if cursor is None else LIST_AFTER, parameters).mappings().all()
        total = connection.execute(COUNT, parameters).scalar_one()
    return shapes.conversation_page(rows, total=total, limit=limit), 200, JSON


def listMessages(token_info: dict[str, Any], conversation_id: str, limit: int, before: str | None = None) -> Any:
    parameters: dict[str, Any] = {
        "agency_id": token_info["agency_id"],
        "conversation_id": conversation_id,
        "before": before,
        "limit": limit + 1,
    }
    with transaction(token_info["agency_id"]) as connection:
        place = connection.execute(FIND_PLACE, parameters).first()
        if place is None:
            raise ProblemException(404, "Not found", "There is no such conversation.")
        parameters["before_at"] = place.sent_at
        statement = MESSAGES_FIRST if before is None else MESSAGES_BEFORE
        rows = connection.execute(statement, parameters).mappings().all()
    return shapes.message_page(rows, limit=limit), 200, JSON


def sendMessage(token_info: dict[str, Any], conversation_id: str, body: dict[str, Any]) -> Any:
    agency_id, key = token_info["agency_id"], connexion.request.headers.get("Idempotency-Key")
    with transaction(agency_id) as connection:
        if key is not None:
            first = find_answer(connection, agency_id, key)
            if first is not None:
                return first
        if connection.execute(FIND_STATUS, {"agency_id": agency_id}).scalar() != "active":
            raise ProblemException(403, "Forbidden", "The agency is suspended.")
        answer = insert(connection, token_info, UUID(conversation_id), body["content"])
        if key is not None:
            parameters = {"agency_id": agency_id, "key": key, "message_id": answer["id"]}
            parameters["fingerprint"] = hashlib.sha256(json.dumps([conversation_id, body]).encode()).digest()
            connection.execute(INSERT_KEY, {**parameters, "response": json.dumps(answer, default=str)})
    return created(answer, replayed=False)


def find_answer(connection: Connection, agency_id: str, key: str) -> Any:
    if not connection.execute(LOCK_KEY, {"agency_id": agency_id, "key": key}).scalar():
        raise ProblemException(409, "Conflict", "The first request with this key is still running.")
    response = connection.execute(FIND_ANSWER, {"agency_id": agency_id, "key": key}).scalar()
    return None if response is None else created(json.loads(response), replayed=True)


def insert(connection: Connection, claims: dict[str, Any], conversation_id: UUID, content: str) -> dict[str, Any]:
    """Everything that a send writes but for its key; the message as the contract has it."""
    common = {"agency_id": claims["agency_id"], "conversation_id": conversation_id}
    conversation = connection.execute(LOCK_CONVERSATION, common).first()
    if conversation is None:
        raise ProblemException(403, "Forbidden", "There is no such conversation.")
    if conversation.opted_out or conversation.window_closed:
        raise ProblemException(422, "Unprocessable", "The message cannot be sent now.")
    common["sent_at"] = conversation.sent_at
    connection.execute(UPDATE_CONVERSATION, {**common, "preview": " ".join(content.split())[:160]})
    new = {**common, "id": uuid_utils.uuid7(), "content": content, "sent_by": claims["sub"]}
    message = shapes.message(connection.execute(INSERT_MESSAGE, new).mappings().one())
    common["message_id"] = message["id"]
    connection.execute(INSERT_OUTBOX, {**common, "channel_id": conversation.channel_id})
    connection.execute(NOTIFY)
    audit = {**common, "id": uuid_utils.uuid7(), "user_id": claims["sub"], "role": claims["role"]}
    connection.execute(INSERT_AUDIT_RECORD, {**audit, "request_id": str(uuid_utils.uuid4())})
    return message


def created(answer: dict[str, Any], *, replayed: bool) -> Any:
    headers = {**JSON, "Location": f"/api/v1/messages/{answer['id']}"}
    headers["Idempotent-Replayed"] = "true" if replayed else "false"
    return answer, 201, headers
