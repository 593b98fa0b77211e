"""Why a request may not act: the reasons of authentication and of the choice of the agency.

The docstring of each class is the message that a person reads; none of them knows of HTTP.
"""


class AccessError(Exception):
    """Access is refused."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class InvalidToken(AccessError):
    """A valid bearer token is needed."""


class KeysUnavailable(AccessError):
    """The keys that verify tokens cannot be had at the moment."""


class TenantForbidden(AccessError):
    """You are not a member of the agency that the request names."""


class RoleForbidden(AccessError):
    """Your role in this agency does not permit this."""


class RateLimited(AccessError):
    """The agency has used up a limit for the moment."""

    def __init__(self, retry_after: int = 1) -> None:
        """`retry_after`: in how many seconds there are more."""
        super().__init__()
        self.retry_after = retry_after


class TenantMalformed(AccessError):
    """The request does not name one agency."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        """`errors` are (field, message) pairs."""
        super().__init__()
        self.errors = errors
