"""What a refused request is told: one body for every error (RFC 9457), decided by one table.

Only words of ours reach a client: a class's docstring, a field's name and the rule it broke. The text of an exception
that we did not write is neither sent nor logged, because drivers and libraries quote the values they choke on.
"""

import json
import logging
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc
from starlette.exceptions import HTTPException

from delivery import twilio_gateway
from persistence import errors as inbox
from tenancy import errors as access
from tenancy import transaction, twilio_credentials

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_BODY = 1000  # bytes; the promise is one kilobyte


@dataclass(frozen=True)
class Kind:
    """One row of the closed list of error codes. `retry_after` is in seconds."""

    status: int
    title: str
    detail: str
    retry_after: int | None = None


KINDS: Mapping[str, Kind] = {
    "invalid_request": Kind(400, "Invalid request", "The request breaks a rule of the contract."),
    "unauthenticated": Kind(401, "Not authenticated", "A valid bearer token is needed."),
    "tenant_forbidden": Kind(403, "Agency not yours", "You are not a member of the agency that the request names."),
    "role_forbidden": Kind(403, "Role not sufficient", "Your role in this agency does not permit this."),
    "agency_suspended": Kind(
        403, "Agency suspended", "The agency is suspended, or not set up here, and sends nothing."
    ),
    "conversation_forbidden": Kind(403, "Conversation not yours", "You may not send to this conversation."),
    "invalid_signature": Kind(403, "Invalid signature", "The request was not signed by Twilio for this account."),
    "conversation_not_found": Kind(404, "Conversation not found", "The agency has no such conversation."),
    "message_not_found": Kind(404, "Message not found", "The agency has no such message."),
    "route_not_found": Kind(404, "Address not found", "Nothing lies at this address."),
    "method_not_allowed": Kind(405, "Method not allowed", "This address does not take this method; see Allow."),
    "request_timeout": Kind(408, "Request too slow", "The body of the request did not arrive in time."),
    "idempotency_in_progress": Kind(409, "Still running", "A request with this Idempotency-Key is still running.", 1),
    "body_too_large": Kind(413, "Body too large", "The body of a request may have 64 kilobytes."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "The content type is missing or not accepted here."),
    "idempotency_key_reused": Kind(422, "Key used before", "This Idempotency-Key was used for another request."),
    "contact_opted_out": Kind(422, "Contact opted out", "The contact takes no messages from this channel."),
    "whatsapp_window_closed": Kind(422, "WhatsApp window closed", "WhatsApp now takes only an approved template."),
    "not_resendable": Kind(422, "Not resendable", "Only an unconfirmed message can be resent."),
    "rate_limited": Kind(429, "Too many requests", "The agency has used up a limit for the moment; see RateLimit.", 1),
    "headers_too_large": Kind(431, "Headers too large", "The headers of the request are too large or too many."),
    "internal_error": Kind(500, "Internal error", "Something went wrong on our side. It has been logged."),
    "database_unavailable": Kind(503, "Database unavailable", "Nothing was changed. Please repeat the request.", 2),
    "outcome_unknown": Kind(503, "Outcome unknown", "The change may or may not stand. Repeat it with the same key.", 2),
    "overloaded": Kind(503, "Overloaded", "Too many requests are under way. Please repeat the request.", 1),
    "keys_unavailable": Kind(503, "Keys unavailable", "The keys to check the request with cannot be had.", 5),
    "not_ready": Kind(503, "Not ready", "Requests should go to another process for the moment; see errors.", 2),
}

CODES: Mapping[type[Exception], str] = {
    inbox.ConversationNotFound: "conversation_not_found",
    inbox.MessageNotFound: "message_not_found",
    inbox.ConversationForbidden: "conversation_forbidden",
    inbox.AgencySuspended: "agency_suspended",
    inbox.IdempotencyInProgress: "idempotency_in_progress",
    inbox.IdempotencyKeyReused: "idempotency_key_reused",
    inbox.ContactOptedOut: "contact_opted_out",
    inbox.WhatsAppWindowClosed: "whatsapp_window_closed",
    inbox.NotResendable: "not_resendable",
    inbox.InvalidFields: "invalid_request",
    access.InvalidToken: "unauthenticated",
    access.KeysUnavailable: "keys_unavailable",
    access.TenantForbidden: "tenant_forbidden",
    access.RoleForbidden: "role_forbidden",
    access.RateLimited: "rate_limited",
    access.TenantMalformed: "invalid_request",
    twilio_gateway.InvalidSignature: "invalid_signature",
    # A webhook cannot be verified without the account's token; Twilio is to come again.
    twilio_credentials.CredentialsUnreadable: "keys_unavailable",
    transaction.DatabaseUnavailable: "database_unavailable",
    transaction.OutcomeUnknown: "outcome_unknown",
    # What escapes the door to the database is the server's or the connection's doing. A DataError, IntegrityError or
    # ProgrammingError is ours, and stays an internal error that someone looks at.
    sqlalchemy.exc.OperationalError: "database_unavailable",
    sqlalchemy.exc.InterfaceError: "database_unavailable",
    sqlalchemy.exc.InternalError: "database_unavailable",
    sqlalchemy.exc.TimeoutError: "database_unavailable",
}

# Connexion, Starlette and Flask say only a status; their own words stay inside.
CODES_BY_STATUS: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthenticated",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    431: "headers_too_large",
}


class Problem(Exception):
    """A refusal by its code, for code that knows HTTP. `errors` are (field, message) pairs, in our words."""

    def __init__(
        self, code: str, errors: Iterable[tuple[str, str]] = (), *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.kind = KINDS[code]
        self.errors = list(errors)
        self.headers = dict(headers or {})
        if self.kind.retry_after is not None:
            self.headers.setdefault("Retry-After", str(self.kind.retry_after))


@dataclass(frozen=True)
class Rendered:
    """A problem as it goes out, for whichever server layer answers."""

    code: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def of(error: Exception) -> Problem:
    """The refusal that an exception stands for; `internal_error` for whatever the table does not know."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        if kind in CODES:
            retry_after = getattr(error, "retry_after", None)
            headers = None if retry_after is None else {"Retry-After": str(retry_after)}
            return Problem(CODES[kind], getattr(error, "errors", ()), headers=headers)
    if isinstance(error, HTTPException):
        return Problem(CODES_BY_STATUS.get(error.status_code, "internal_error"))
    return Problem("internal_error")


def answer(error: Exception, state: MutableMapping[str, Any], *, authorization: str | None = None) -> Rendered:
    """Render and, where someone must look at it, log.

    `state` is the request's: `request_id`, `instance` and `template` (its path, and that of its route) are read, and
    `problem` (the code) is left there for the access log. `authorization` is that header, if there was one.
    """
    problem = of(error)
    if problem.kind.status >= 500 and error is not problem:
        _log(problem, error)  # whoever raises a Problem has logged what there is to say
    if problem.code == "unauthenticated":
        # RFC 6750, section 3.1: a request without a token is not told of an error in it.
        scheme, _, token = (authorization or "").partition(" ")
        has_token = scheme.lower() == "bearer" and bool(token.strip())
        problem.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if has_token else "Bearer"
    state["problem"] = problem.code
    # A path that breaks a rule holds the value that breaks it: the route stands for it.
    instance = state.get("template" if problem.code == "invalid_request" else "instance", "/")
    return Rendered(
        problem.code, problem.kind.status, problem.headers, body(problem, instance, state.get("request_id", ""))
    )


def body(problem: Problem, instance: str, request_id: str) -> bytes:
    """The JSON body, at most one kilobyte: as many of the errors as fit."""
    members = {
        "type": f"urn:faro:problem:{problem.code}",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.kind.detail,
        "instance": instance,
        "code": problem.code,
        "request_id": request_id,
    }
    listed = [{"field": field, "message": message} for field, message in problem.errors]
    rendered = _json(members, listed)
    while len(rendered) > MAX_BODY and listed:
        listed.pop()
        members["detail"] = f"The request breaks more rules than fit here; the first {len(listed)} are listed."
        rendered = _json(members, listed)
    return rendered


def _json(members: Mapping[str, Any], errors: list[dict[str, str]]) -> bytes:
    return json.dumps({**members, "errors": errors}, separators=(",", ":")).encode("ascii")


def _log(problem: Problem, error: Exception) -> None:
    sqlstate = getattr(getattr(error, "orig", None) or getattr(error.__cause__, "orig", None), "pgcode", None)
    extra = {"code": problem.code, "error": type(error).__name__, "sqlstate": sqlstate}
    if problem.code == "internal_error":
        logger.error("request failed", exc_info=error, extra=extra)
    else:
        logger.warning("request could not be served", extra=extra)
