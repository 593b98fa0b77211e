"""What a handler returns: a finished Flask response with an explicit content type.

Connexion cannot guess the type of a bare body where an operation documents both `application/json` and
`application/problem+json`. A finished response also passes it without another serialisation.
"""

import decimal
from collections.abc import Mapping
from typing import Any

import flask
import orjson


def ok(body: Any, *, headers: Mapping[str, str] | None = None) -> flask.Response:
    """200 with a JSON body."""
    return _json(200, body, headers)


def created(body: Any, *, location: str, headers: Mapping[str, str] | None = None) -> flask.Response:
    """201 with a JSON body; `location` is where what was created can be read again."""
    return _json(201, body, {"Location": location, **(headers or {})})


def xml(text: str) -> flask.Response:
    """200 with an XML body (TwiML)."""
    return flask.Response(text.encode("utf-8"), content_type="text/xml")


def dumps(body: Any) -> bytes:
    """Compact JSON. Times are RFC 3339 with `Z` (give them in UTC), UUIDs strings, decimals numbers."""
    return orjson.dumps(body, default=_default, option=orjson.OPT_UTC_Z)


def _json(status: int, body: Any, headers: Mapping[str, str] | None) -> flask.Response:
    """`body` may be JSON already: an answer that is repeated goes out as it was."""
    text = body if isinstance(body, bytes) else dumps(body)
    return flask.Response(text, status=status, headers=headers, content_type="application/json")


def _default(value: object) -> float:
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
