"""Positions in a list, as opaque text that a client hands back.

A cursor is a place in an order, never a count: rows that arrive or leave elsewhere neither repeat nor hide others.
It names no agency and grants nothing; the page is read under the agency of the request that brings it.
"""

import base64
import binascii
from datetime import UTC, datetime
from uuid import UUID

from persistence.errors import InvalidFields

Position = tuple[datetime, UUID | str]


def encode_cursor(position: Position) -> str:
    """The position as URL-safe text."""
    at, row_id = position
    return base64.urlsafe_b64encode(f"{at.astimezone(UTC).isoformat()}|{row_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> Position:
    """The position that `encode_cursor` made.

    Raises InvalidFields for `cursor` when it is any other text.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        at_text, _, id_text = text.partition("|")
        position = datetime.fromisoformat(at_text), UUID(id_text)
        # One spelling only: Python knows time zones that PostgreSQL does not.
        if encode_cursor(position) != cursor:
            raise ValueError("not of our making")
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidFields(("cursor", "must be a next_cursor of this list")) from None
    return position
