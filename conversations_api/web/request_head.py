"""Decides, from the head of a request alone, what everything behind the edge then sees identically.

Connexion (Starlette), Flask (Werkzeug) and a proxy in front read ambiguous heads differently: which of two headers
counts, whether `X_Tenant_ID` is `X-Tenant-ID`, which of two query values. Such heads are refused, naming what is
ambiguous; what is left has one reading. Pure functions over the bytes of an ASGI scope.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from conversations_api.web import rule_words
from conversations_api.web.contract import Contract, Operation
from conversations_api.web.rule_words import FieldError
from handlers.problems import Problem

Headers = Sequence[tuple[bytes, bytes]]

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16_384  # names and values together; a token may have 8 KB
MAX_TARGET_BYTES = 8_192
MAX_QUERY_FIELDS = 50
MAX_SHOWN_PARTS = 10  # of a path

FORM = "application/x-www-form-urlencoded"

# Each of these decides something. Given twice, two readers may decide differently.
_SINGLE = {
    name.lower().encode(): name
    for name in (
        "Authorization",
        "Content-Encoding",
        "Content-Length",
        "Content-Type",
        "Host",
        "Idempotency-Key",
        "Origin",
        "Transfer-Encoding",
        "X-Tenant-ID",
        "X-Twilio-Signature",
    )
}
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^\x21-\x7e]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A UUID, or a number that is too short to be somebody's.
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{1,4}", re.ASCII)
_CONTENT_TYPE = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*((?:;[^;]*)*)", re.ASCII)


@dataclass(frozen=True)
class Route:
    """A path of the contract (or of the documentation, without operations), with its operations by method."""

    template: str
    segments: tuple[str, ...]
    operations: Mapping[str, Operation]
    pattern: re.Pattern[str]

    @property
    def methods(self) -> list[str]:
        return sorted({*self.operations, *(["HEAD"] if "GET" in self.operations else [])})


class Routes:
    """Which route a path is; one that is none goes no further."""

    def __init__(self, contract: Contract) -> None:
        found: dict[str, dict[str, Operation]] = {}
        for operation in contract.operations.values():
            found.setdefault(operation.path, {})[operation.method] = operation
        self._words = {part for template in found for part in template.split("/")}
        self._plain: dict[str, Route] = {}
        self._templates: list[Route] = []
        for template, operations in found.items():
            # Every second part is the name of a parameter.
            parts = re.split(r"\{([^}]*)\}", template)
            pattern = "".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
            route = Route(template, tuple(template.split("/")), operations, re.compile(pattern))
            if len(parts) == 1:
                self._plain[template] = route
            else:
                self._templates.append(route)

    def shown(self, path: str) -> str:
        """The path as an error may show it: whole if it is made of words of the contract and of ids, else `/`.

        Anything else may be what somebody typed: a phone number, a name, a token.
        """
        parts = path.split("/")
        harmless = len(parts) <= MAX_SHOWN_PARTS and all(part in self._words or _ID.fullmatch(part) for part in parts)
        return path if harmless else "/"

    def find(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route, and the values of its parameters by name."""
        plain = self._plain.get(path)
        if plain is not None:
            return plain, {}
        matches = ((route, route.pattern.fullmatch(path)) for route in self._templates)
        return next(((route, match.groupdict()) for route, match in matches if match), None)


def check_size(headers: Headers) -> None:
    """Raise Problem when there is too much of them."""
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise Problem("headers_too_large")


def single_headers(headers: Headers, operation: Operation | None) -> dict[bytes, bytes]:
    """The headers that decide something, by lower-case name. Raises Problem when one is given twice, or in disguise."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name.replace(b"_", b"-") in _SINGLE:
            if name in found or b"_" in name:
                raise _ambiguous(_SINGLE[name.replace(b"_", b"-")], operation)
            found[name] = value
    if b"content-length" in found and b"transfer-encoding" in found:
        # RFC 9112, section 6.1: the mark of request smuggling. A proxy may have believed the other one.
        raise Problem("invalid_request", [("Content-Length", "must not be given with Transfer-Encoding")])
    return found


def _ambiguous(name: str, operation: Operation | None) -> Problem:
    # Two credentials are no valid credential; where the operation knows none, they are merely malformed.
    documented = operation.responses if operation else {}
    if name == "Authorization" and "401" in documented:
        return Problem("unauthenticated")
    if name == "X-Twilio-Signature" and operation and "webhooks" in operation.tags:
        return Problem("invalid_signature")
    return Problem("invalid_request", [(name, "must be given once, under this name")])


def hides_a_slash(raw_path: bytes) -> bool:
    """Whether a slash is written so that one reader takes it for the end of a part, and another for a part of it (RFC
    3986, section 2.2): no path here has one."""
    return b"%2f" in raw_path.lower()


def check_path(raw_path: bytes, route: Route) -> None:
    """Raise Problem when a part of the path has more than one reading."""
    if len(raw_path) > MAX_TARGET_BYTES:
        raise Problem("invalid_request", [("path", f"must have at most {MAX_TARGET_BYTES} bytes")])
    segments = raw_path.split(b"/")
    names = route.segments if len(route.segments) == len(segments) else ("path",) * len(segments)
    errors = []
    for name, segment in zip(names, segments, strict=True):
        field = name.strip("{}") if name.startswith("{") else "path"
        if not _decodes(segment):
            errors.append((field, "must be percent-encoded UTF-8"))
        elif _CONTROL.search(unquote_to_bytes(segment)):
            # Two routers differ on a line end in a path; whoever reads a log differs on every one of them.
            errors.append((field, "must not contain control characters"))
    if errors:
        raise Problem("invalid_request", errors)


def check_query(query: bytes, operation: Operation) -> None:
    """Raise Problem when the query has more than one reading."""
    if not query:
        return
    if not operation.query_names and "webhooks" in operation.tags:
        # The signature covers address and form together: text moved from one to the other would still validate.
        raise Problem("invalid_signature")
    fields = query.split(b"&")
    if len(query) > MAX_TARGET_BYTES or len(fields) > MAX_QUERY_FIELDS:
        raise Problem("invalid_request", [("query", f"must have at most {MAX_QUERY_FIELDS} parameters")])
    errors: dict[FieldError, None] = {}
    seen = set()
    for field in filter(None, fields):
        raw_name = field.partition(b"=")[0].replace(b"+", b" ")
        name = unquote_to_bytes(raw_name).decode("utf-8", errors="replace")
        if not _decodes(field):
            errors[rule_words.name_of(name), "must be percent-encoded UTF-8"] = None
        if name in seen:
            errors[rule_words.name_of(name), "must be given once"] = None
        seen.add(name)
    if errors:
        raise Problem("invalid_request", errors)


def body_type(headers: Mapping[bytes, bytes], operation: Operation) -> str:
    """The media type of the body, as the contract writes it. Raises Problem for one that is not documented."""
    match = _CONTENT_TYPE.fullmatch(headers.get(b"content-type", b"").decode("latin-1"))
    if match is None:
        raise Problem("unsupported_media_type")
    media_type = match[1].lower()
    charsets = [
        value.strip().strip('"').lower()
        for name, _, value in (parameter.partition("=") for parameter in match[2].split(";"))
        if name.strip().lower() == "charset"
    ]
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if media_type not in operation.bodies or charsets not in ([], ["utf-8"], ["utf8"]) or encoding != b"identity":
        raise Problem("unsupported_media_type")
    return media_type


def forwarded(headers: Headers, *, media_type: str | None) -> list[tuple[bytes, bytes]]:
    """The headers that Connexion and Flask see: none with an underscore, and of those of the body only its type."""
    kept = [(name.lower(), value) for name, value in headers if b"_" not in name and name.lower() not in _OF_THE_BODY]
    if media_type is not None:
        kept.append((b"content-type", media_type.encode()))
    return kept


_OF_THE_BODY = frozenset({b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"expect"})


def _decodes(part: bytes) -> bool:
    if _BAD_ESCAPE.search(part):
        return False
    try:
        unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
