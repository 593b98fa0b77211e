"""What a handler returns: a finished answer, with its content type and its bytes."""

import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_XML = (b"content-type", b"text/xml")


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; header names are lower case."""

    status: int
    headers: Headers
    body: bytes


def ok(body: Any) -> Response:
    """200 with a JSON body. Bytes are JSON already."""
    return Response(200, [_JSON], body if isinstance(body, bytes) else dumps(body))


def page(rest: Mapping[str, Any], **rows: str) -> Response:
    """200 with a JSON body: `rest`, and before it one array whose text PostgreSQL has written."""
    ((name, array),) = rows.items()
    return Response(200, [_JSON], b'{"%s":%s,%s' % (name.encode("ascii"), array.encode("utf-8"), dumps(rest)[1:]))


def created(body: bytes, *, location: str, replayed: bool) -> Response:
    """201 with a JSON body; `location` is where what was created can be read again."""
    headers = [
        _JSON,
        (b"location", location.encode("ascii")),
        (b"idempotent-replayed", b"true" if replayed else b"false"),
    ]
    return Response(201, headers, body)


def xml(text: str) -> Response:
    """200 with an XML body (TwiML)."""
    return Response(200, [_XML], text.encode("utf-8"))


def dumps(body: Any) -> bytes:
    """Compact JSON. Times are RFC 3339 with `Z` (give them in UTC), UUIDs strings, decimals numbers."""
    return orjson.dumps(body, default=_default, option=orjson.OPT_UTC_Z)


def _default(value: object) -> float:
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
