"""Reads a JSON text that means the same to every reader, or says which field does not.

Parsers differ on names that occur twice, on numbers that lose digits, on halves of surrogate pairs. The standard
library's lets us see all of them, with their place; what passes here is the same value to Flask, PostgreSQL and Twilio.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from conversations_api.web import rule_words
from conversations_api.web.rule_words import FieldError

MAX_DEPTH = 32
MAX_VALUES = 1000  # in one text: bounds what checking it can cost, far above what any operation takes
MAX_DIGITS = 18  # of an integer: what every client and PostgreSQL's bigint can hold

_TOO_DEEP = f"must not be nested more than {MAX_DEPTH} deep"
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Malformed(Exception):
    """What was sent cannot be read; `errors` says where."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("malformed")
        self.errors = list(errors)


def parse(raw: bytes) -> Any:
    """The value of a UTF-8 JSON text. Raises Malformed."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except UnicodeDecodeError:
        raise Malformed(("body", "must be UTF-8")) from None
    except json.JSONDecodeError as error:
        raise Malformed(("body", f"must be JSON; line {error.lineno}, column {error.colno} is not")) from None
    except RecursionError:
        raise Malformed(("body", _TOO_DEEP)) from None
    errors = list(itertools.islice(_unfit_places(value), rule_words.MAX_ERRORS))
    if errors:
        raise Malformed(*errors)
    return value


class _Unfit:
    """Stands in a parsed value for what cannot be taken, until its place is known."""

    def __init__(self, message: str) -> None:
        self.message = message


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found[name] = _Unfit("must be given once")
            seen.add(name)
    return found


def _integer(digits: str) -> int | _Unfit:
    return int(digits) if len(digits) <= MAX_DIGITS else _Unfit(f"must be a number of at most {MAX_DIGITS} digits")


def _constant(_name: str) -> _Unfit:
    return _Unfit("must be a finite number")


def _unfit_places(value: Any) -> Iterator[FieldError]:
    # Without recursion, so that the depth is bounded here and not by the interpreter.
    rest: list[tuple[tuple[str | int, ...], Any]] = [((), [value])]
    values = 0
    while rest:
        path, container = rest.pop()
        values += len(container)
        if values > MAX_VALUES:
            yield "body", f"must have at most {MAX_VALUES} values"
            return
        if len(path) > MAX_DEPTH:
            yield rule_words.field_at(path[1:2]), _TOO_DEEP
            continue
        if isinstance(container, dict):
            for name in container:
                if _unfit(name):
                    yield rule_words.field_at((*path[1:], name)), "is not a known field"
        for place, item in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(item, dict | list):
                rest.append(((*path, place), item))
            else:
                message = _unfit(item)
                if message:
                    yield rule_words.field_at((*path[1:], place) if path else ()), message


def _unfit(item: Any) -> str | None:
    if isinstance(item, str):
        if "\0" in item:
            return "must not contain the character U+0000"
        if _SURROGATE.search(item):
            return "must not contain half of a surrogate pair"
    elif isinstance(item, _Unfit):
        return item.message
    elif isinstance(item, float) and not math.isfinite(item):
        return "must be a finite number"
    return None
