"""FastAPI, asyncpg and pydantic 2, as FastAPI's own documentation puts them together.

`response_model` is on, as ours validates its answers. Started as `uvicorn --workers 2`, with uvloop and httptools, as
`uvicorn[standard]` installs them, and without an access log.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import orjson
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from jose import JWTError, jwk, jwt
from pydantic import BaseModel

from benchmarks.peers import environment, shapes, statements

LIST_FIRST = statements.for_asyncpg(statements.LIST_FIRST, ["agency_id", "limit"])
LIST_AFTER = statements.for_asyncpg(statements.LIST_AFTER, ["agency_id", "limit", "before_at", "before_id"])
COUNT = statements.for_asyncpg(statements.COUNT, ["agency_id"])
FIND_PLACE = statements.for_asyncpg(statements.FIND_PLACE, ["agency_id", "conversation_id", "before"])
MESSAGES_FIRST = statements.for_asyncpg(statements.MESSAGES_FIRST, ["agency_id", "conversation_id", "limit"])
MESSAGES_BEFORE = statements.for_asyncpg(
    statements.MESSAGES_BEFORE, ["agency_id", "conversation_id", "limit", "before_at", "before"]
)
BIND = statements.for_asyncpg(statements.BIND, ["agency_id"])


class Messaging(BaseModel):
    can_send_freeform: bool
    window_expires_at: datetime | None
    blocked_reason: str | None


class Conversation(BaseModel):
    id: UUID
    location_id: UUID
    channel: str
    channel_address: str
    contact_id: UUID
    contact_name: str | None
    contact_phone: str
    status: str
    lead_status: str | None
    lead_value: float | None
    assigned_to: str | None
    last_message_at: datetime
    last_message_preview: str
    last_message_direction: str
    messaging: Messaging
    created_at: datetime
    updated_at: datetime


class ConversationPage(BaseModel):
    conversations: list[Conversation]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class Media(BaseModel):
    url: str
    content_type: str | None


class Template(BaseModel):
    content_sid: str
    variables: dict[str, str]


class MessageError(BaseModel):
    code: str
    message: str | None


class Message(BaseModel):
    id: UUID
    conversation_id: UUID
    direction: str
    content: str
    media_url: str | None
    media_type: str | None
    media: list[Media]
    template: Template | None
    transcript: str | None
    status: str
    error: MessageError | None
    duplicate_detected: bool
    twilio_sid: str | None
    sent_by: str | None
    sent_at: datetime
    delivered_at: datetime | None
    read_at: datetime | None
    created_at: datetime
    redacted_at: datetime | None


class MessagePage(BaseModel):
    messages: list[Message]
    has_more: bool
    next_before: UUID | None


settings = environment.read()
# A finished key: python-jose would parse the PEM again for every request.
key = jwk.construct(settings.public_key, "RS256")
bearer = HTTPBearer()


async def read_json_with_orjson(connection: "asyncpg.Connection[Any]") -> None:
    await connection.set_type_codec("jsonb", encoder=orjson.dumps, decoder=orjson.loads, schema="pg_catalog")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # As many connections as each process of ours keeps. asyncpg prepares and caches statements by itself, and cleans a
    # connection that comes back by a statement of its own; both are left as they are.
    async with asyncpg.create_pool(
        settings.dsn, min_size=settings.pool_size, max_size=settings.pool_size, init=read_json_with_orjson
    ) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def agency_of_token(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    try:
        claims = jwt.decode(credentials.credentials, key, ["RS256"], audience=settings.audience, issuer=settings.issuer)
    except JWTError:
        raise HTTPException(401) from None
    return str(claims["agency_id"])


AgencyId = Annotated[str, Depends(agency_of_token)]


@asynccontextmanager
async def transaction(request: Request, agency_id: str) -> AsyncIterator[Any]:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        await connection.execute(BIND, agency_id)
        yield connection


@app.get("/api/v1/conversations", response_model=ConversationPage)
async def list_conversations(
    request: Request,
    agency_id: AgencyId,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Any:
    async with transaction(request, agency_id) as connection:
        if cursor is None:
            rows = await connection.fetch(LIST_FIRST, agency_id, limit + 1)
        else:
            rows = await connection.fetch(LIST_AFTER, agency_id, limit + 1, *shapes.decode_cursor(cursor))
        total = await connection.fetchval(COUNT, agency_id)
    return shapes.conversation_page(rows, total=total, limit=limit)


@app.get("/api/v1/conversations/{conversation_id}/messages", response_model=MessagePage)
async def list_messages(
    request: Request,
    agency_id: AgencyId,
    conversation_id: UUID,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    before: UUID | None = None,
) -> Any:
    async with transaction(request, agency_id) as connection:
        place = await connection.fetchrow(FIND_PLACE, agency_id, conversation_id, before)
        if place is None:
            raise HTTPException(404)
        if before is None:
            rows = await connection.fetch(MESSAGES_FIRST, agency_id, conversation_id, limit + 1)
        else:
            rows = await connection.fetch(
                MESSAGES_BEFORE, agency_id, conversation_id, limit + 1, place["sent_at"], before
            )
    return shapes.message_page(rows, limit=limit)
