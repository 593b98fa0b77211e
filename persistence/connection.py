"""The open transaction that persistence functions work in: bound to one agency, or to none.

Row-level security is what keeps agencies apart. That every statement also names `agency_id = :agency_id` is
the second wall, and what routes a query to one shard; the value comes from the connection, never from a caller.

Statements are constants that can be pasted into psql. psycopg2 puts the values in before it sends them, so
`cast(:x as uuid) is null or ...` costs nothing: the planner sees a constant and drops the clause.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy
from sqlalchemy import TextClause


@dataclass(frozen=True)
class TenantConnection:
    """A transaction in which only the rows of `agency_id` exist. Only `tenancy.transaction` makes one."""

    agency_id: UUID
    connection: sqlalchemy.Connection

    def execute(self, statement: TextClause, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement with `agency_id` filled in from the binding."""
        return self.connection.execute(statement, {**parameters, "agency_id": self.agency_id})


@dataclass(frozen=True)
class UnboundConnection:
    """A transaction bound to no agency: it sees number_routing, workers and, as the worker, the outbox."""

    connection: sqlalchemy.Connection

    def execute(self, statement: TextClause, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement."""
        return self.connection.execute(statement, parameters)
