"""The open transaction that persistence functions work in: bound to one agency, or to none.

Row-level security is what keeps agencies apart. That every statement also names `agency_id = :agency_id` is
the second wall, and what routes a query to one shard; the value comes from the connection, never from a caller.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy
from sqlalchemy import Executable, bindparam

AGENCY_ID = bindparam("agency_id", type_=sqlalchemy.UUID())


@dataclass(frozen=True)
class TenantConnection:
    """A transaction in which only the rows of `agency_id` exist. Only `tenancy.transaction` makes one."""

    agency_id: UUID
    connection: sqlalchemy.Connection

    def execute(self, statement: Executable, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement with `agency_id` filled in from the binding."""
        return self.connection.execute(statement, {"agency_id": self.agency_id, **parameters})


@dataclass(frozen=True)
class UnboundConnection:
    """A transaction bound to no agency: it sees number_routing, workers and, as the worker, the outbox."""

    connection: sqlalchemy.Connection

    def execute(self, statement: Executable, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement."""
        return self.connection.execute(statement, parameters)
