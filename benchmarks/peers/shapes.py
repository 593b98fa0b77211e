"""Rows as the contract's JSON, and cursors: what bare Flask and documented Connexion would both write by hand."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

Record = dict[str, Any]
# A row by column name, as the three drivers give it: RealDictRow, RowMapping, asyncpg's Record.
Row = Any


def conversation(row: Row) -> Record:
    record = dict(row)
    blocked_reason = record.pop("blocked_reason")
    record["messaging"] = {
        "can_send_freeform": blocked_reason is None,
        "window_expires_at": record.pop("window_expires_at"),
        "blocked_reason": blocked_reason,
    }
    return record


def message(row: Row) -> Record:
    record = dict(row)
    error_code, error_message = record.pop("error_code"), record.pop("error_message")
    record["error"] = None if error_code is None else {"code": error_code, "message": error_message}
    first = record["media"][0] if record["media"] else {"url": None, "content_type": None}
    record["media_url"], record["media_type"] = first["url"], first["content_type"]
    return record


def conversation_page(rows: Sequence[Row], *, total: int, limit: int) -> Record:
    """`rows` holds one more than the page when there is a next one."""
    page = [conversation(row) for row in rows[:limit]]
    more = len(rows) > limit
    return {
        "conversations": page,
        "total": total,
        "limit": limit,
        "offset": 0,
        "next_cursor": encode_cursor(page[-1]["last_message_at"], page[-1]["id"]) if more else None,
    }


def message_page(rows: Sequence[Row], *, limit: int) -> Record:
    """`rows` holds one more than the page when there is an older one."""
    page = [message(row) for row in rows[:limit]]
    more = len(rows) > limit
    return {"messages": page, "has_more": more, "next_before": page[-1]["id"] if more else None}


def encode_cursor(at: datetime, row_id: UUID | str) -> str:
    return base64.urlsafe_b64encode(f"{at.astimezone(UTC).isoformat()}|{row_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    at, _, row_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
    return datetime.fromisoformat(at), UUID(row_id)
