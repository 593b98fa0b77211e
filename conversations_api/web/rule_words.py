"""The words for a broken rule: which field, and what it must be, never what it was.

The rule is the contract's; only its wording is decided here. Names that a client chose are shown, because a client
cannot correct what is not named, but made harmless and short.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jsonschema_rs

FieldError = tuple[str, str]  # (field, message)

MAX_ERRORS = 50  # that are put into words; many more than fit an answer
MAX_NAME = 64  # characters of a name that the client chose
MAX_MESSAGE = 160

_UUID = "must be a UUID"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.\[\]-]")

_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}

_TEMPLATES = {
    "minimum": "must be at least {limit}",
    "maximum": "must be at most {limit}",
    "exclusiveMinimum": "must be greater than {limit}",
    "exclusiveMaximum": "must be less than {limit}",
    "minLength": "must have at least {limit} characters",
    "maxLength": "must have at most {limit} characters",
    "minItems": "must have at least {limit} items",
    "maxItems": "must have at most {limit} items",
    "uniqueItems": "must not have an item twice",
    "minProperties": "must have at least {limit} of its fields",
    "maxProperties": "must have at most {limit} fields",
    "oneOf": "must have only one of the documented forms",
    "not": "is not allowed",
}


def name_of(name: str) -> str:
    """A name that the client chose, made fit to be shown and logged."""
    return _NOT_PLAIN.sub("?", name[:MAX_NAME]) or "?"


def field_at(path: Iterable[str | int]) -> str:
    """The dotted name of a place in a body; `body` for the whole."""
    return name_of(".".join(map(str, path))) if path else "body"


def types(names: Iterable[str]) -> str:
    """The words for JSON types, null left out: one that may be empty is simply not sent."""
    return " or ".join(_TYPES[name] for name in sorted(names) if name != "null")


def describe(errors: Iterable[jsonschema_rs.ValidationError], pattern_words: Mapping[str, str]) -> list[FieldError]:
    """Every field and rule, each once; of a malformed id only what it must be. `pattern_words`: what patterns mean."""
    told: dict[str, list[str]] = {}
    for error in itertools.islice(errors, MAX_ERRORS):
        for field, message in itertools.islice(_describe(error, pattern_words), MAX_ERRORS):
            messages = told.setdefault(field, [])
            if message not in messages:
                messages.append(message[:MAX_MESSAGE])
    return [(field, message) for field, messages in told.items() for message in _best(messages)]


def _best(messages: list[str]) -> list[str]:
    """All of them; but a malformed id breaks a format, a pattern and a length at once, and the fullest words do."""
    ids = [message for message in messages if message.startswith(_UUID)]
    return [max(ids, key=len)] if ids else messages


def _describe(error: jsonschema_rs.ValidationError, pattern_words: Mapping[str, str]) -> Iterator[FieldError]:
    rule, values, path = error.kind.name, error.kind.as_dict(), list(error.instance_path)
    if rule == "required":
        yield field_at([*path, values["property"]]), "is required"
    elif rule == "additionalProperties":
        yield from ((field_at([*path, name]), "is not a known field") for name in values["unexpected"])
    elif rule in ("anyOf", "oneOf") and any(values["context"]):
        yield from _describe_choice(path, values["context"], pattern_words)
    elif rule == "pattern":
        yield field_at(path), pattern_words.get(values["pattern"], f"must match {values['pattern']}")
    else:
        yield field_at(path), _message(rule, values)


def _describe_choice(
    path: list[str | int], context: list[list[jsonschema_rs.ValidationError]], pattern_words: Mapping[str, str]
) -> Iterator[FieldError]:
    broken = [error for branch in context for error in branch]
    # A nullable object is a choice between null and the object: what is wrong with the object is meant.
    branches = [branch for branch in context if not any(error.kind.name == "type" for error in branch)]
    if all(error.kind.name == "required" for error in broken):
        names = dict.fromkeys(error.kind.as_dict()["property"] for error in broken)
        yield field_at(path), f"must have one of: {', '.join(names)}"
    elif len(branches) == 1:
        for error in branches[0]:
            yield from _describe(error, pattern_words)
    else:
        yield field_at(path), "must have one of the documented forms"


def _message(rule: str, values: Mapping[str, Any]) -> str:
    limit = values.get("limit")
    if rule == "type":
        return f"must be {types(values['types'])}"
    if rule == "enum":
        return f"must be one of: {', '.join(str(each) for each in values['options'] if each is not None)}"
    if rule == "format":
        return _UUID if values["format"] == "uuid" else f"must be a {values['format']}"
    if rule in ("minLength", "minProperties") and limit == 1:
        return "must not be empty"
    return _TEMPLATES.get(rule, f"breaks the rule {rule}").format(limit=limit)
