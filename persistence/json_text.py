"""Pages leave PostgreSQL as JSON text, one text for each row, and nothing reads them again on their way out.

Made into Python objects and back, a page of fifty messages costs ten times as much as PostgreSQL takes to write it
(docs/decisions/0018-pages-are-written-by-postgresql.md). Times are in UTC, with `Z`, like those that Python writes.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row


def array(rows: Sequence[Row[Any]]) -> str:
    """The `record` of each row, as a JSON array."""
    return "[" + ",".join([row.record for row in rows]) + "]"
