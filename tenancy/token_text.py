"""The text of a token, read strictly: three segments, one spelling, flat and small JSON, a header that asks nothing.

All of it happens before any key is looked up and without python-jose, whose decoder takes junk in base64, and whose
parser lets hostile JSON out as RecursionError.
"""

import base64
import json
import re
from typing import Any

MAX_TOKEN = 8192  # characters
MAX_BRACKETS = 256  # opening brackets in a header or payload: bounds its nesting without parsing it
MAX_DIGITS = 20  # of an integer
MAX_KID = 256  # characters

ALGORITHMS = frozenset({"RS256", "ES256"})
TOKEN_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# Each of these lets a token bring its own key, change what is signed, or be something other than a plain signed token.
FORBIDDEN_HEADERS = frozenset({"crit", "b64", "jku", "x5u", "jwk", "x5c", "zip", "enc", "cty"})

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


class Refused(ValueError):
    """A rule that a token breaks, in words of ours that may be logged."""


def read_header(token: str) -> tuple[str, str | None]:
    """(algorithm, kid) of a compact JWS, after every check that needs no key. Raises ValueError, Refused among them."""
    if not isinstance(token, str) or len(token) > MAX_TOKEN:
        raise Refused("too long")
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise Refused("not three base64url segments")
    header_segment, *others = match.groups()
    header = read_object(_decode(header_segment))
    for segment in others:
        _decode(segment)
    if not FORBIDDEN_HEADERS.isdisjoint(header):
        raise Refused("a header parameter is not accepted")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TOKEN_TYPES:
        raise Refused("typ is not a JWT")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Refused("alg is not accepted")
    if "kid" in header and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise Refused("kid is not a short string")
    return algorithm, kid


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises ValueError, Refused among them."""
    # Brackets inside strings count too; no honest token comes near the limit.
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise Refused("nested too deeply")
    # Decoded here, because json would guess at UTF-16 and UTF-32 as well.
    found = json.loads(data.decode(), object_pairs_hook=_unique, parse_int=_short_int, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise Refused("not a JSON object")
    return found


def _decode(segment: str) -> bytes:
    """Base64url with one spelling per value, so that no changed token verifies like the original."""
    decoded = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode("ascii"):
        raise Refused("base64url is not canonical")
    return decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7519, section 4, leaves it to us: two parsers that choose differently would see two different tokens.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("a name occurs twice")
    return found


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Refused("a number is too long")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise Refused("not a JSON number")
