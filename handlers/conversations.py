"""The inbox: which conversations there are, and where each stands."""

from uuid import UUID

from handlers import responses
from handlers.requests import Request
from handlers.responses import Response
from persistence import conversations, paging
from persistence.errors import InvalidFields


def list_conversations(
    request: Request,
    limit: int,
    offset: int | None = None,
    cursor: str | None = None,
    location_id: str | None = None,
    status: str | None = None,
) -> Response:
    if cursor is not None and offset is not None:
        raise InvalidFields(("offset", "cannot be combined with cursor"))
    before = None if cursor is None else paging.decode_cursor(cursor)
    with request.open_inbox() as inbox:
        page = conversations.list_page(
            inbox.connection,
            location_id=None if location_id is None else UUID(location_id),
            status=status,
            limit=limit,
            offset=offset or 0,
            before=before,
        )
    return responses.page(
        {
            "total": page.total,
            "limit": limit,
            "offset": offset or 0,
            "next_cursor": page.next_cursor,
        },
        conversations=page.conversations,
    )


def get_conversation(request: Request, conversation_id: str) -> Response:
    with request.open_inbox() as inbox:
        conversation = conversations.get(inbox.connection, conversation_id=UUID(conversation_id))
    return responses.ok(conversation.encode())
