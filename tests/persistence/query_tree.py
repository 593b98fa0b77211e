"""What PostgreSQL understands of a statement: its own query tree, as functions with a standard SQL body keep it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy import text

_TOKENS = re.compile(r"[{}()]|(?:\\.|[^\s{}()\\])+")
# pg_node_tree's numbers for what a query does.
COMMANDS = {"1": "select", "2": "update", "3": "insert", "4": "delete"}


@dataclass
class Node:
    """One node of the tree; a field holds what stands behind its name, mostly one thing."""

    kind: str
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        values = self.fields.get(name, [])
        return values[0] if values else None

    def children(self, *names: str) -> Iterator["Node"]:
        for name, values in self.fields.items():
            if not names or name in names:
                yield from _nodes(values)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, subqueries too."""
        yield self
        for child in self.children():
            yield from child.walk()


def _nodes(values: list[Any]) -> Iterator[Node]:
    for value in values:
        if isinstance(value, Node):
            yield value
        elif isinstance(value, list):
            yield from _nodes(value)


def parse(tree: str) -> list[Any]:
    """The tree's text as nested lists of Nodes and words."""
    tokens = iter(_TOKENS.findall(tree))
    return _sequence(tokens, end=None)


def _sequence(tokens: Iterator[str], end: str | None) -> list[Any]:
    found: list[Any] = []
    for token in tokens:
        if token == end:
            return found
        if token == "{":
            found.append(_node(tokens))
        elif token == "(":
            found.append(_sequence(tokens, ")"))
        else:
            found.append(token)
    return found


def _node(tokens: Iterator[str]) -> Node:
    node = Node(next(tokens))
    name = ""
    for item in _sequence(tokens, "}"):
        if isinstance(item, str) and item.startswith(":"):
            name = item[1:]
            node.fields[name] = []
        else:
            node.fields[name].append(item)
    return node


def query_of(connection: sqlalchemy.Connection, clause: str, values: dict[str, Any]) -> Node:
    """The query that the statement is understood as, with these values in it."""
    savepoint = connection.begin_nested()
    try:
        body = f"create function understood() returns void begin atomic {clause}; end"
        connection.execute(text(body), values)
        tree = connection.execute(text("select prosqlbody::text from pg_proc where proname = 'understood'")).scalar()
    finally:
        savepoint.rollback()
    assert isinstance(tree, str)
    (query,) = _nodes(parse(tree))
    return query
