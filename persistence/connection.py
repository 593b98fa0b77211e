"""The open transaction that persistence functions work in: bound to one agency, or to none.

Row-level security is what keeps agencies apart. That every statement also names `agency_id = :agency_id` is
the second wall, and what routes a query to one shard; the value comes from the connection, never from a caller.

Statements are constants that can be pasted into psql. psycopg2 puts the values in before it sends them, so several of
them can go out in one string: a round trip costs more than most statements do. Where the connection is a session of the
server, it knows them by name (see persistence.prepared).
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql import psycopg2

from persistence.prepared import Prepared, find

# In the `info` of a pooled connection that is a session: the names of what has been prepared in it.
PREPARED = "faro_prepared"
# The execution option under which the part of a string stands that holds no values.
SHOWN = "faro_shown"
_T = TypeVar("_T")
_DIALECT = psycopg2.dialect()  # type: ignore[no-untyped-call]


class Transaction:
    """What is done on one connection of the pool between taking it and giving it back. Made by `tenancy.transaction`.

    `opening` goes out with the first statement; with a `preamble` there is no transaction, but each statement is one of
    its own together with it. `together` is off where a string may hold one statement only.
    """

    def __init__(
        self, connection: sqlalchemy.Connection, *, opening: str = "", preamble: str = "", together: bool = True
    ) -> None:
        self._connection = connection
        self._opening = [opening] if opening else []
        self._pending = list(self._opening)
        self._preamble = preamble
        self._together = together
        self._following: list[str] = []
        self._asked_for: list[Prepared] = []
        self.has_begun = False

    def run(self, statement: TextClause, parameters: Mapping[str, Any]) -> sqlalchemy.CursorResult[Any]:
        """Send what is pending, then the statement; its result."""
        text = self._wording(statement, parameters)
        if self._pending:
            text = self._after_pending(text)
        return self._execute(self._preamble + text, parameters, shown=driver_text(statement))

    def run_later(self, statement: TextClause, parameters: Mapping[str, Any]) -> None:
        """Send the statement with the next one, or with the commit; what is wrong with it comes to light there."""
        text = self._wording(statement, parameters)
        with closing(self._connection.connection.cursor()) as cursor:
            filled_in: bytes = cursor.mogrify(text, parameters)
        self.run_text_later(filled_in.decode("utf-8").replace("%", "%%"))

    def run_after_commit(self, statement: TextClause) -> None:
        """Send the statement right behind the commit, once however often it is asked for; it has no parameters.

        A commit of which it is not known whether it or what follows failed is one whose outcome is unknown.
        """
        text = driver_text(statement)
        if text not in self._following:
            self._following.append(text)

    @property
    def has_following(self) -> bool:
        """Whether something is sent behind the commit."""
        return bool(self._following)

    def run_text_later(self, text: str) -> None:
        """The same for a text of ours without parameters."""
        self._pending.append(text)

    def flush(self) -> sqlalchemy.Connection:
        """Send what is pending; the connection, for what is not a statement of ours."""
        if self._pending:
            *earlier, last = self._pending
            self._pending = earlier
            self._execute(self._after_pending(last), {})
        return self._connection

    def commit(self) -> None:
        """Raises what SQLAlchemy raises; nothing is sent where nothing was done. A commit is never sent twice."""
        if self.has_begun or self._pending != self._opening:
            commit = self._after_pending("COMMIT")
            together = ["; ".join([commit, *self._following])] if self._together else [commit, *self._following]
            for text in together:
                self._execute(text, {}, shown="COMMIT", may_repeat=False)

    def _after_pending(self, text: str) -> str:
        pending, self._pending = self._pending, []
        if self._together:
            return "; ".join([*pending, text])
        for each in pending:
            self._execute(each, {})
        return text

    def _wording(self, statement: TextClause, parameters: Mapping[str, Any]) -> str:
        """The statement, or its name where the session knows it from now on."""
        known: set[str] | None = self._connection.info.get(PREPARED)
        prepared = None if known is None else find(statement, parameters)
        if prepared is None or known is None:
            return driver_text(statement)
        self._asked_for.append(prepared)
        if prepared.name not in known:
            self._reaching(self._prepare, may_repeat=self._may_repeat)
        return prepared.execute

    def _prepare(self) -> None:
        """Make known to the session what has been asked for: it stays, whatever becomes of the transaction."""
        known: set[str] | None = self._connection.info.get(PREPARED)
        for prepared in self._asked_for:
            if known is not None and prepared.name not in known:
                self._connection.exec_driver_sql(prepared.prepare.replace("%", "%%"))
                known.add(prepared.name)

    def _execute(
        self, text: str, parameters: Mapping[str, Any], *, shown: str = "", may_repeat: bool = True
    ) -> sqlalchemy.CursorResult[Any]:
        # What is pending has its values in it: only what is shown may be repeated to anybody, as to a trace.
        options = {SHOWN: shown}
        may_repeat = may_repeat and self._may_repeat
        self.has_begun = True
        return self._reaching(
            lambda: self._connection.exec_driver_sql(text, parameters, execution_options=options), may_repeat=may_repeat
        )

    @property
    def _may_repeat(self) -> bool:
        """Nothing was begun, or nothing is changed."""
        return bool(self._preamble) or not self.has_begun

    def _reaching(self, send: Callable[[], _T], *, may_repeat: bool) -> _T:
        """Send; once more, on a new connection, where this one had died in the pool."""
        try:
            return send()
        except sqlalchemy.exc.DBAPIError as error:
            if not may_repeat or not error.connection_invalidated:
                raise
        self._connection.rollback()
        self._prepare()
        return send()


@dataclass(frozen=True, slots=True)
class TenantConnection:
    """A transaction in which only the rows of `agency_id` exist. Only `tenancy.transaction` makes one."""

    agency_id: UUID
    transaction: Transaction

    def execute(self, statement: TextClause, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement with `agency_id` filled in from the binding."""
        return self.transaction.run(statement, {**parameters, "agency_id": self.agency_id})

    @property
    def connection(self) -> sqlalchemy.Connection:
        """For what is not a statement of ours (tests, benchmarks)."""
        return self.transaction.flush()

    def execute_later(self, statement: TextClause, **parameters: Any) -> None:
        """Run one statement whose result nobody needs, before the next one or before the commit."""
        self.transaction.run_later(statement, {**parameters, "agency_id": self.agency_id})

    def execute_after_commit(self, statement: TextClause) -> None:
        """Run one statement, without parameters, when all of this is committed."""
        self.transaction.run_after_commit(statement)


@dataclass(frozen=True, slots=True)
class UnboundConnection:
    """A transaction bound to no agency: it sees number_routing, workers and, as the worker, the outbox."""

    transaction: Transaction

    @property
    def connection(self) -> sqlalchemy.Connection:
        """For what is not a statement of ours (tests, benchmarks)."""
        return self.transaction.flush()

    def execute(self, statement: TextClause, **parameters: Any) -> sqlalchemy.CursorResult[Any]:
        """Run one statement."""
        return self.transaction.run(statement, parameters)


@functools.lru_cache(maxsize=1024)
def driver_text(statement: TextClause) -> str:
    """The statement as psycopg2 takes it, `:x` written as `%(x)s`. Kept, because statements are constants."""
    return str(statement.compile(dialect=_DIALECT))
