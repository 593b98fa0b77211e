"""Checks requests and answers against the contract: functions over an operation's schemas, of no framework.

A request is told every field and every rule that it breaks; of an answer that breaks the contract only the place and
the rule come out, because the value is a customer's.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson

from conversations_api.web import rule_words, strict_json
from conversations_api.web.contract import Operation, Schema
from conversations_api.web.rule_words import FieldError

MAX_FORM_FIELDS = 1000

_BEYOND = 10**strict_json.MAX_DIGITS

_INTEGER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,17})?", re.ASCII)


class ContractBroken(Exception):
    """An answer of ours does not fit the contract. `path` and `rule` may be logged; the value may not."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path}: {rule}")
        self.path = path
        self.rule = rule


def read_parameters(
    operation: Operation, *, path: Mapping[str, Any], query: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> tuple[dict[str, Any], list[FieldError]]:
    """The parameters by name, of the types and with the defaults that the contract gives them, and every rule that one
    of them breaks. `headers` by lower-case name, each once."""
    errors = [
        (rule_words.name_of(name), "is not a parameter of this operation")
        for name, _ in query
        if name not in operation.query_names
    ]
    values = {"query": dict(query), "path": path, "header": headers}
    read = {}
    for parameter in operation.parameters:
        text = values[parameter.location].get(parameter.key)
        if text is not None:
            value, messages = read_text(parameter.schema, text)
            read[parameter.name] = value
            errors += [(parameter.name, message) for message in messages]
        elif parameter.required:
            errors.append((parameter.name, "is required"))
        elif parameter.default is not None:
            read[parameter.name] = parameter.default
    return read, errors


def read_json(schema: Schema, raw: bytes, *, required: bool) -> tuple[Any, list[FieldError]]:
    """The value of a JSON body, and every rule that it breaks."""
    if not raw:
        return None, [("body", "is required")] if required else []
    try:
        value = strict_json.parse(raw)
    except strict_json.Malformed as malformed:
        return None, malformed.errors
    if schema.is_valid(value):
        return value, []
    return None, rule_words.describe(schema.iter_errors(value), schema.pattern_words)


def check_form(schema: Schema, raw: bytes) -> list[FieldError]:
    """Every rule that a URL-encoded form breaks. Values stay text, and bytes that are no text are no error: the handler
    must keep what a customer wrote, and replaces them."""
    text = raw.decode("utf-8", errors="replace")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        return [("body", f"must have at most {MAX_FORM_FIELDS} fields")]
    form = dict(pairs)
    errors = []
    if len(form) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        errors = [(rule_words.name_of(name), "must be given once") for name, count in counts.items() if count > 1]
    if not schema.is_valid(form):
        errors += rule_words.describe(schema.iter_errors(form), schema.pattern_words)
    return errors


def check_response(operation: Operation, *, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    """Raise ContractBroken unless the contract documents this answer; header names are lower case."""
    response = operation.responses.get(str(status)) or operation.responses.get("default")
    if response is None:
        raise ContractBroken("status", f"{status} is not documented")
    given = dict(headers)
    if not response.required_headers <= given.keys():
        missing = min(response.required_headers - given.keys()).decode("ascii")
        raise ContractBroken("headers", f"{missing} is required")
    if not response.bodies:
        if body:
            raise ContractBroken("body", "none is documented")
        return
    media_type = given.get(b"content-type", b"").partition(b";")[0].strip().decode("latin-1").lower()
    if media_type not in response.bodies:
        raise ContractBroken("content-type", "is not documented for this status")
    schema = response.bodies[media_type]
    if schema is None:
        return
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ContractBroken("body", "is not JSON") from None
    if not schema.is_valid(value):
        error = next(schema.iter_errors(value))
        raise ContractBroken(rule_words.field_at(error.instance_path), error.kind.name)


def read_text(schema: Schema, text: str) -> tuple[Any, list[str]]:
    """One parameter as the type that the schema declares, and every rule that it breaks."""
    value: Any = text
    if "string" not in schema.types:
        value = _read_scalar(schema.types, text)
        if value is None:
            return None, [f"must be {rule_words.types(schema.types)}"]
    if not schema.is_valid(value):
        return None, [message for _, message in rule_words.describe(schema.iter_errors(value), schema.pattern_words)]
    if isinstance(value, int) and abs(value) >= _BEYOND:
        return None, [f"must have at most {strict_json.MAX_DIGITS} digits"]
    return value, []


def _read_scalar(types: Collection[str], text: str) -> int | float | bool | None:
    if "integer" in types and _INTEGER.fullmatch(text):
        # Too long a number breaks the same rule as the largest that we read, if there is one.
        return int(text) if len(text) <= strict_json.MAX_DIGITS else (-_BEYOND if text[0] == "-" else _BEYOND)
    if "number" in types and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    return None
