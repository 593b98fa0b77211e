"""The headers that every answer carries, whoever made it, and what another origin's script may read.

Answers are never stored and never guessed at. Cross-origin access is closed unless origins are listed; no cookie is
ever used, so credentials are never allowed.
"""

from collections.abc import Sequence

from starlette.types import Scope

from tenancy.rate_limits import WINDOW_SECONDS, Quota

Headers = list[tuple[bytes, bytes]]

_ALWAYS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"
# Swagger UI and Redoc draw with inline styles, and Redoc searches in a worker of its own; nothing comes from elsewhere.
_DOCUMENTATION_POLICY = (
    b"default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"worker-src 'self' blob:; frame-ancestors 'none'"
)
_OURS = frozenset(
    {
        b"cache-control",
        b"content-length",
        b"connection",
        b"content-security-policy",
        b"server",
        b"vary",
        b"x-request-id",
    }
)

_CORS_HEADERS = b"Authorization, Content-Type, Idempotency-Key, X-Request-Id, X-Tenant-ID"
_CORS_EXPOSED = (
    b"Idempotent-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
)


class ResponseHeaders:
    """Finishes the headers of an answer; `allowed_origins` are compared whole, as browsers send them."""

    def __init__(self, allowed_origins: Sequence[str]) -> None:
        self._allowed = frozenset(origin.encode("ascii") for origin in allowed_origins)
        self._vary = b"Authorization, X-Tenant-ID" + (b", Origin" if self._allowed else b"")

    @property
    def cross_origin(self) -> bool:
        return bool(self._allowed)

    def is_preflight(self, scope: Scope) -> bool:
        """Whether a script of an allowed origin asks what it may send."""
        return (
            scope["method"] == "OPTIONS"
            and self._origin(scope) is not None
            and any(name == b"access-control-request-method" for name, _ in scope["headers"])
        )

    def preflight(self, methods: Sequence[str]) -> Headers:
        return [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", _CORS_HEADERS),
            (b"access-control-max-age", b"600"),
        ]

    def finish(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        scope: Scope,
        *,
        length: int | None,
        documentation: bool,
        close: bool,
    ) -> Headers:
        """`length` of the body, None where there is none to speak of; `close`: the rest of the request is not read."""
        finished = [(name, value) for name, value in headers if name.lower() not in _OURS]
        finished += _ALWAYS
        finished.append((b"vary", self._vary))
        finished.append((b"x-request-id", scope["state"]["request_id"].encode("ascii")))
        finished += _rate_limits(scope["state"].get("rate_limits", ()))
        finished.append((b"content-security-policy", _DOCUMENTATION_POLICY if documentation else _DATA_POLICY))
        if length is not None:
            finished.append((b"content-length", str(length).encode("ascii")))
        if close:
            finished.append((b"connection", b"close"))
        origin = self._origin(scope)
        if origin is not None:
            finished.append((b"access-control-allow-origin", origin))
            finished.append((b"access-control-expose-headers", _CORS_EXPOSED))
        return finished

    def _origin(self, scope: Scope) -> bytes | None:
        if not self._allowed:
            return None
        origins: list[bytes] = [value for name, value in scope["headers"] if name == b"origin"]
        return origins[0] if len(origins) == 1 and origins[0] in self._allowed else None


def _rate_limits(quotas: Sequence[Quota]) -> Headers:
    """https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/, in an answer in an agency's name."""
    if not quotas:
        return []
    policy = ", ".join(f'"{quota.name}";q={quota.limit};w={WINDOW_SECONDS}' for quota in quotas)
    left = ", ".join(f'"{quota.name}";r={quota.remaining};t={quota.reset_seconds}' for quota in quotas)
    return [(b"ratelimit-policy", policy.encode("ascii")), (b"ratelimit", left.encode("ascii"))]
