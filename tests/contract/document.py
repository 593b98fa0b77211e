"""Walks the contract for the tests: operations, responses, schemas, with every `$ref` followed.

Everything here takes the document as an argument, so that a rule can be shown to fail on a copy that breaks it.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

import api

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
PROBLEM = "application/problem+json"

Node = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One operation. `where` names it in a finding."""

    path: str
    method: str
    node: Node

    @property
    def where(self) -> str:
        return f"{self.method.upper()} {self.path}"


@functools.cache
def _text() -> str:
    return json.dumps(yaml.safe_load(api.CONTRACT.read_text(encoding="utf-8")))


def load() -> Node:
    """A fresh copy of the contract, in which nothing is shared (YAML aliases are), so that a test may change it."""
    document: Node = json.loads(_text())
    return document


def resolve(document: Node, node: Node) -> Node:
    """The node itself, or what its `$ref` leads to."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        node = found
    return node


def inline(document: Node, node: Any) -> Any:
    """A copy with every `$ref` replaced by what it leads to. The schemas of the contract are not recursive."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            return inline(document, resolve(document, node))
        return {key: inline(document, value) for key, value in node.items()}
    return [inline(document, item) for item in node] if isinstance(node, list) else node


def operations(document: Node) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield Operation(path, method, item[method])


def needs_token(document: Node, operation: Operation) -> bool:
    return bool(operation.node.get("security", document["security"]))


def is_webhook(operation: Operation) -> bool:
    return operation.path.startswith("/webhooks/")


def parameters(document: Node, operation: Operation) -> list[Node]:
    return [resolve(document, parameter) for parameter in operation.node.get("parameters", [])]


def responses(document: Node, operation: Operation) -> Iterator[tuple[str, Node]]:
    """Status and response, resolved."""
    for status, response in operation.node["responses"].items():
        yield status, resolve(document, response)


def media(document: Node) -> Iterator[tuple[str, str, Node]]:
    """Where it stands, `request` or `response`, and the media type object: for each body of each operation."""
    for operation in operations(document):
        if "requestBody" in operation.node:
            body = resolve(document, operation.node["requestBody"])
            for name, each in body["content"].items():
                yield f"{operation.where} {name}", "request", each
        for status, response in responses(document, operation):
            for name, each in response.get("content", {}).items():
                yield f"{operation.where} {status} {name}", "response", each


def examples(document: Node, node: Node) -> Iterator[tuple[str, Any]]:
    """Name and value of each example of a media type, parameter or header."""
    for name, example in node.get("examples", {}).items():
        yield name, resolve(document, example)["value"]
    if "example" in node:
        yield "example", node["example"]


def subschemas(node: Node, where: str) -> Iterator[tuple[str, Node]]:
    """A schema and every schema that stands inside it, `$ref` not followed."""
    yield where, node
    for name, each in node.get("properties", {}).items():
        yield from subschemas(each, f"{where}.{name}")
    if isinstance(node.get("additionalProperties"), dict):
        yield from subschemas(node["additionalProperties"], f"{where}.*")
    if "items" in node:
        yield from subschemas(node["items"], f"{where}[]")
    for keyword in ("allOf", "anyOf", "oneOf"):
        for number, each in enumerate(node.get(keyword, [])):
            yield from subschemas(each, f"{where}/{keyword}/{number}")


def all_schemas(document: Node) -> Iterator[tuple[str, Node]]:
    """Every schema of the document, named after the place where it stands, each place once."""
    components = document["components"]
    for name, schema in components["schemas"].items():
        yield from subschemas(schema, name)
    for kind in ("parameters", "headers"):
        for name, each in components[kind].items():
            yield from subschemas(each["schema"], f"{kind}/{name}")
    for where, _, each in media(document):
        yield from subschemas(each["schema"], where)


def schemas_of(document: Node, direction: str) -> dict[str, Node]:
    """The named schemas that a `request` or a `response` can hold, and unnamed ones under the place they stand in."""
    found: dict[str, Node] = {}
    rest = [(where, each["schema"]) for where, side, each in media(document) if side == direction]
    while rest:
        where, node = rest.pop()
        if "$ref" in node:
            where = node["$ref"].rsplit("/", 1)[-1]
            if where in found:
                continue
            node = resolve(document, node)
        for place, each in subschemas(node, where):
            if "$ref" in each:
                rest.append((place, each))
            else:
                found[place] = each
    return found
