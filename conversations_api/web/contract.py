"""The contract, read once: its operations, with a compiled validator for every schema that a request meets.

OpenAPI 3.0 schemas are not JSON Schema: `nullable` and boolean `exclusiveMinimum` are translated, annotations dropped.
Formats are enforced, and patterns run on an engine that is linear in the text: one that would need backtracking does
not compile, so the process does not start.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import yaml

METHODS = ("get", "put", "post", "delete", "patch")
JSON_TYPES = re.compile(r"application/(?:[a-z0-9.-]+\+)?json")

_ANNOTATIONS = frozenset({"title", "description", "example", "externalDocs", "deprecated", "discriminator", "xml"})
_SCALARS = frozenset({"string", "integer", "number", "boolean"})


class Schema:
    """One schema, compiled. `types` are the JSON types it admits at its root, when it says; `pattern_words` what the
    contract's patterns ask for, in words."""

    def __init__(
        self,
        schema: Mapping[str, Any],
        compiled: jsonschema_rs.Draft202012Validator,
        pattern_words: Mapping[str, str],
    ) -> None:
        self.pattern_words = pattern_words
        declared = schema.get("type", [])
        self.types = frozenset([declared] if isinstance(declared, str) else declared)
        self.default = schema.get("default")
        self.properties: Mapping[str, Any] = schema.get("properties", {})
        self.is_valid = compiled.is_valid
        self.iter_errors = compiled.iter_errors


@dataclass(frozen=True)
class Parameter:
    """A query, path or header parameter of scalar type. `key` is what it is looked up by: headers have no case."""

    name: str
    key: str
    location: str
    required: bool
    default: Any
    schema: Schema


@dataclass(frozen=True)
class Response:
    """A documented answer: its bodies by media type (None where a body has no JSON schema), its required headers."""

    bodies: Mapping[str, Schema | None]
    required_headers: frozenset[bytes]


@dataclass(frozen=True)
class Operation:
    """One operation, as the edge and the validators need it. `path` includes the base path."""

    operation_id: str
    method: str
    path: str
    tags: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    bodies: Mapping[str, Schema]
    body_required: bool
    responses: Mapping[str, Response]
    query_names: frozenset[str]


class Contract:
    """An OpenAPI 3.0 document and its operations by operationId."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        servers = document.get("servers") or [{"url": "/"}]
        self.base_path = urlsplit(servers[0]["url"]).path.rstrip("/")
        self._components = {
            name: _json_schema(schema) for name, schema in document.get("components", {}).get("schemas", {}).items()
        }
        self._compiled: dict[str, Schema] = {}
        self._pattern_words = dict(_pattern_words(document))
        self.operations = {operation.operation_id: operation for operation in self._read_operations()}

    @classmethod
    def load(cls, path: Path) -> "Contract":
        """Read a YAML file."""
        return cls(yaml.safe_load(path.read_text(encoding="utf-8")))

    def _read_operations(self) -> Iterator[Operation]:
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield self._operation(path, method, item[method], item.get("parameters", []))

    def _operation(self, path: str, method: str, node: Mapping[str, Any], shared: list[Any]) -> Operation:
        # An operation's own parameter replaces the path's of the same name and place.
        parameters = {}
        for parameter in map(self._parameter, [*shared, *node.get("parameters", [])]):
            parameters[parameter.name, parameter.location] = parameter
        body = self._resolve(node.get("requestBody", {}))
        return Operation(
            operation_id=node["operationId"],
            method=method.upper(),
            path=self.base_path + path,
            tags=tuple(node.get("tags", ())),
            parameters=tuple(parameters.values()),
            bodies={name.lower(): self._compile(media["schema"]) for name, media in body.get("content", {}).items()},
            body_required=body.get("required", False),
            responses={str(status): self._response(response) for status, response in node["responses"].items()},
            query_names=frozenset(name for name, location in parameters if location == "query"),
        )

    def _parameter(self, node: Mapping[str, Any]) -> Parameter:
        node = self._resolve(node)
        schema = self._compile(node["schema"])
        if not schema.types or not schema.types <= _SCALARS:
            raise ValueError(f"parameter {node['name']}: only scalar types are supported")
        if node["in"] not in ("query", "path", "header"):
            raise ValueError(f"parameter {node['name']}: cookies are not supported")
        name, location = node["name"], node["in"]
        key = name.lower() if location == "header" else name
        return Parameter(name, key, location, node.get("required", False), schema.default, schema)

    def _response(self, node: Mapping[str, Any]) -> Response:
        node = self._resolve(node)
        bodies = {
            name.lower(): self._compile(media["schema"]) if JSON_TYPES.fullmatch(name) and "schema" in media else None
            for name, media in node.get("content", {}).items()
        }
        headers = {name: self._resolve(header) for name, header in node.get("headers", {}).items()}
        required = frozenset(name.lower().encode() for name, header in headers.items() if header.get("required"))
        return Response(bodies, required)

    def _resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            found: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            node = found
        return node

    def _compile(self, schema: Mapping[str, Any]) -> Schema:
        key = json.dumps(schema, sort_keys=True, default=str)
        if key not in self._compiled:
            self._compiled[key] = Schema(
                _json_schema(self._resolve(schema)), self._validator(_json_schema(schema)), self._pattern_words
            )
        return self._compiled[key]

    def _validator(self, schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
        return jsonschema_rs.Draft202012Validator(
            {**schema, "components": {"schemas": self._components}},
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(),
            offline=True,
        )


def _pattern_words(node: Any) -> Iterator[tuple[str, str]]:
    """Each pattern with the words beside it, `x-pattern-message`."""
    if isinstance(node, dict):
        if isinstance(words := node.get("x-pattern-message"), str):
            yield node["pattern"], words
        for each in node.values():
            yield from _pattern_words(each)
    elif isinstance(node, list):
        for each in node:
            yield from _pattern_words(each)


def _json_schema(node: Any) -> dict[str, Any]:
    """Translate a schema object of OpenAPI 3.0 into JSON Schema 2020-12."""
    if "$ref" in node:  # OpenAPI 3.0 ignores whatever stands beside it
        return {"$ref": node["$ref"]}
    schema: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword in ("properties", "patternProperties"):
            schema[keyword] = {name: _json_schema(each) for name, each in value.items()}
        elif keyword in ("allOf", "anyOf", "oneOf"):
            schema[keyword] = [_json_schema(each) for each in value]
        elif keyword in ("items", "not") or (keyword == "additionalProperties" and isinstance(value, dict)):
            schema[keyword] = _json_schema(value)
        elif keyword not in _ANNOTATIONS and not keyword.startswith("x-"):
            schema[keyword] = value
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.pop(exclusive, False):
            schema[exclusive] = schema.pop(bound)
    return _admit_null(schema) if schema.pop("nullable", False) else schema


def _admit_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema or {"allOf", "anyOf", "oneOf", "not"} & schema.keys():
        return {"anyOf": [{"type": "null"}, schema]}
    schema = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema
