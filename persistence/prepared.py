"""Statements that the server keeps by name, parsed and planned: half of what a short one costs it is to read it.

A connection to the server itself is a session, and a statement is prepared in it (https://www.postgresql.org/docs/18/
sql-prepare.html) when it is first needed; from then on it is asked for by its name. A plan is kept for values that are
not known yet, so whatever the plan hangs on is part of the statement (docs/decisions/0019-prepared-statements.md):

* An optional clause, `(cast(:x as uuid) is null or ...)`, is there or is not.
* A page has its length in it. The usual lengths are few; for any other one, and for a page that begins at an offset,
  nothing is prepared.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause

# Bounded: whoever asks for pages of every length and kind does not fill the server's memory with plans.
USUAL_LIMITS = frozenset({1, 10, 20, 25, 50, 100})

_PREPARABLE = re.compile(r"\s*(?:select|insert|update|delete|with)\b")
_OPTIONAL = re.compile(r"\(cast\(:(\w+) as \w+\) is null or ")
_LIMIT = re.compile(r"\blimit :limit\b")
_OFFSET = re.compile(r"\boffset :offset\b")
# As sqlalchemy.text finds them: neither a cast (`::`) nor the middle of a word.
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


@dataclass(frozen=True, slots=True)
class Prepared:
    """`prepare` makes it known to a session, `execute` asks for it; the latter as psycopg2 takes it, with `%(x)s`."""

    name: str
    prepare: str
    execute: str


def find(statement: TextClause, parameters: Mapping[str, Any]) -> Prepared | None:
    """The form of the statement for these values; None where it is to be sent as it stands."""
    shape = _shape(statement)
    if not shape.may_be_prepared:
        return None
    limit = None
    if shape.has_limit:
        limit = parameters["limit"]
        if limit not in USUAL_LIMITS or parameters.get("offset"):
            return None
    return _prepared(statement, frozenset(name for name in shape.optional if parameters[name] is None), limit)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the form of a statement hangs on."""

    may_be_prepared: bool
    has_limit: bool
    optional: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _shape(statement: TextClause) -> _Shape:
    return _Shape(
        _PREPARABLE.match(statement.text) is not None,
        ":limit" in statement.text,
        frozenset(_OPTIONAL.findall(statement.text)),
    )


@functools.lru_cache(maxsize=1024)
def _prepared(statement: TextClause, missing: frozenset[str], limit: int | None) -> Prepared:
    sql = _choose(statement.text, missing)
    if limit is not None:
        sql = _OFFSET.sub("", _LIMIT.sub(f"limit {limit}", sql))
    names: dict[str, int] = {}
    sql = _PARAMETER.sub(lambda found: f"${names.setdefault(found[1], len(names) + 1)}", sql)
    # By what it says: a name never stands for two statements, whatever release prepared it.
    name = f"faro_{hashlib.sha256(sql.encode()).hexdigest()[:24]}"
    values = ", ".join(f"%({each})s" for each in names)
    return Prepared(name, f"PREPARE {name} AS {sql}", f"EXECUTE {name}({values})" if values else f"EXECUTE {name}")


def _choose(sql: str, missing: frozenset[str]) -> str:
    """The statement with its optional clauses, without those of the `missing` values."""
    while found := _OPTIONAL.search(sql):
        end = _closing(sql, found.start())
        clause = "true" if found[1] in missing else f"({sql[found.end() : end]})"
        sql = sql[: found.start()] + clause + sql[end + 1 :]
    return sql


def _closing(sql: str, opening: int) -> int:
    """Where the parenthesis ends that begins at `opening`."""
    depth = 0
    for at in range(opening, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        if depth == 0:
            return at
    raise ValueError("a parenthesis is not closed")
