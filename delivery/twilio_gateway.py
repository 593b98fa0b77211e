"""The boundary to Twilio: one call in, one outcome out, classed by what was observed on the wire.

The only module that imports `twilio`. The SDK builds every request and reads every good reply; the bytes travel over
`delivery.http_exchange`, because the SDK's own client cannot tell "never sent" from "reply lost", and Twilio's create
has no idempotency key. Each call gets SDK objects of its own (some 20 microseconds), so threads share no state.
"""

import base64
import hmac
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urldefrag, urlencode, urlsplit

from twilio import request_validator
from twilio.base.client_base import ClientBase
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.rest.api import Api
from twilio.rest.api.v2010.account import AccountContext
from twilio.rest.api.v2010.account.message import MessageInstance

from delivery import http_exchange, metrics
from delivery.carrier import (
    Channel,
    InvalidSignature,
    ListedMedia,
    ListedMessage,
    ListingUnavailable,
    OutboundMessage,
    TwilioAccount,
    address,
    create_arguments,
)
from delivery.outcomes import Accepted, NotProcessed, Outcome, Rejected, Unknown, outcome_of
from persistence import storable_text

# Callers need to know this module only.
__all__ = ["Accepted", "Channel", "InvalidSignature", "ListedMedia", "ListedMessage", "ListingUnavailable"]
__all__ += ["NotProcessed", "OutboundMessage", "Outcome", "Rejected", "TwilioAccount", "TwilioGateway", "Unknown"]
__all__ += ["address", "is_before", "sign", "verify_signature"]

logger = logging.getLogger(__name__)
# The SDK logs URLs at INFO, and a listing's URL holds phone numbers.
logging.getLogger("twilio").setLevel(logging.WARNING)

LARGEST_PAGE = 1000  # https://www.twilio.com/docs/usage/twilios-response#pagination
_MEDIA_ORIGIN = "https://api.twilio.com"  # as webhooks name it, whatever the base URL


class TwilioGateway:
    """Calls Twilio, at most `max_concurrency` calls at a time; safe to share between threads.

    `total_deadline_seconds` counts from the start of the method, waiting for a free place and for DNS included.
    """

    def __init__(
        self,
        *,
        base_url: str = "https://api.twilio.com",
        connect_timeout_seconds: float,
        total_deadline_seconds: float,
        max_concurrency: int,
        ca_file: str | None = None,
    ) -> None:
        self.exchange = http_exchange.HttpExchange(
            base_url, connect_timeout_seconds=connect_timeout_seconds, ca_file=ca_file
        )
        self.total_deadline_seconds = total_deadline_seconds
        self.places = threading.BoundedSemaphore(max_concurrency)

    def create_message(
        self,
        account: TwilioAccount,
        message: OutboundMessage,
        *,
        may_send: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Send one message. Never raises for what the network or Twilio does.

        `may_send` is asked once, between the open connection and the first byte written: a worker that was stopped
        for a while says there whether it still owns the attempt. False, or an exception, makes it NotProcessed.
        """
        call = _Call(self, may_send)
        outcome = self._create(account, message, call)
        seconds = self.total_deadline_seconds - call.left()
        metrics.sent(outcome, seconds)
        told = {name: getattr(outcome, name, None) for name in ("reason", "error_code")}
        extra = {"outcome": metrics.OUTCOMES[type(outcome)], **told, "duration_ms": round(seconds * 1000, 2)}
        logger.info("twilio_create", extra=extra)
        return outcome

    def _create(self, account: TwilioAccount, message: OutboundMessage, call: "_Call") -> Outcome:
        try:
            _resource(account, call).messages.create(**create_arguments(message))
        except http_exchange.NotSent as error:
            return NotProcessed(None, error.reason)
        except http_exchange.ReplyLost as error:
            return Unknown(error.reason)
        except Exception as error:  # mostly the SDK's opinion of an answer that we read ourselves
            if call.answer is None:
                reason = f"error_{type(error).__name__}"
                return Unknown(reason) if call.handed_over else NotProcessed(None, reason)
        return outcome_of(call.answer) if call.answer else Unknown("no_answer")

    def list_messages(
        self,
        account: TwilioAccount,
        *,
        to: str | None = None,
        from_: str | None = None,
        created_after: datetime | None = None,
        page_size: int = 100,
        limit: int = 20_000,
    ) -> list[ListedMessage]:
        """Every message between these Twilio addresses, newest first, back to `created_after` (aware).

        Pages are followed until one holds nothing newer than that; some older rows may be among the result. Rows that
        move between pages while we read appear once. Raises ListingUnavailable on any failure, and when more than
        `limit` rows would have to be read: a listing that stops early must not pass for proof of absence.
        """
        found: dict[str, ListedMessage] = {}
        filters = {name: value for name, value in (("to", to), ("from_", from_)) if value is not None}
        page_url: str | None = None
        for _ in range(max(1, limit // page_size)):
            rows, page_url = self._read_page(account, page_url, page_size=page_size, **filters)
            for row in rows:
                found.setdefault(row.sid, row)
            reached = rows and created_after is not None and all(is_before(row, created_after) for row in rows)
            if reached or page_url is None:
                return list(found.values())
        raise ListingUnavailable("more_rows_than_the_limit")

    def list_page(self, account: TwilioAccount, page_url: str | None = None) -> tuple[list[ListedMessage], str | None]:
        """The account's newest 1,000 messages, or those of `page_url`; and the URL of the page of older ones, if any.

        Raises ListingUnavailable.
        """
        return self._read_page(account, page_url, page_size=LARGEST_PAGE)

    def _read_page(
        self, account: TwilioAccount, page_url: str | None, **query: Any
    ) -> tuple[list[ListedMessage], str | None]:
        with self._reading() as call:
            resource = _resource(account, call).messages
            page = resource.page(**query) if page_url is None else resource.get_page(page_url)
            return [_listed(row) for row in page], page.next_page_url

    def fetch_message(self, account: TwilioAccount, twilio_sid: str) -> ListedMessage:
        """Raises ListingUnavailable; its `http_status` is 404 for a SID that is not this account's."""
        with self._reading() as call:
            return _listed(_resource(account, call).messages(twilio_sid).fetch())

    def list_media(self, account: TwilioAccount, twilio_sid: str) -> list[ListedMedia]:
        """The media of one message, as an inbound webhook would have named them. Raises ListingUnavailable."""
        with self._reading() as call:
            media = _resource(account, call).messages(twilio_sid).media.list(limit=20, page_size=20)
            return [ListedMedia(_MEDIA_ORIGIN + one.uri.removesuffix(".json"), one.content_type) for one in media]

    def redact_message(self, account: TwilioAccount, twilio_sid: str) -> bool:
        """Have Twilio delete text and media of one message; False when it has no such message. May be repeated.

        Raises ListingUnavailable unless all of it is confirmed.
        """
        try:
            with self._reading() as call:
                redacted = _resource(account, call).messages(twilio_sid).update(body="")
                if redacted.body != "":
                    raise ListingUnavailable("not_redacted")
        except ListingUnavailable as error:
            if error.http_status == 404:
                return False
            raise
        if int(redacted.num_media or 0) > 0:
            with self._reading() as call:
                media = _resource(account, call).messages(twilio_sid).media
                for one in media.list(limit=20, page_size=20):
                    media(one.sid).delete()
        return True

    @contextmanager
    def _reading(self) -> Iterator["_Call"]:
        call = _Call(self)
        try:
            yield call
        except ListingUnavailable:
            raise
        except (http_exchange.NotSent, http_exchange.ReplyLost) as error:
            raise ListingUnavailable(error.reason) from None
        except Exception as error:  # what the SDK raises quotes the URL, and with it phone numbers: drop it
            status = call.answer.status if call.answer else None
            reason = f"http_{status}" if status not in (None, 200) else f"not_understood_{type(error).__name__}"
            raise ListingUnavailable(reason, http_status=status) from None


class _Call(HttpClient):  # type: ignore[misc]  # the SDK ships no types
    """What the SDK believes to be its HTTP client: one call's deadline, leave to send, and raw answer."""

    def __init__(self, gateway: TwilioGateway, may_send: Callable[[], bool] | None = None) -> None:
        self.answer: http_exchange.Answer | None = None
        self.handed_over = False
        self._gateway, self._may_send = gateway, may_send
        self._deadline = http_exchange.now() + gateway.total_deadline_seconds

    def left(self) -> float:
        return self._deadline - http_exchange.now()

    def request(
        self,
        method: str,
        uri: str,
        params: dict[str, object] | None = None,
        data: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        self.answer = None
        _, _, path, query, _ = urlsplit(uri)
        query = urlencode(params, doseq=True) if params else query
        target = f"{path}?{query}" if query else path
        body = urlencode(data, doseq=True).encode("ascii") if data else b""
        credentials = base64.b64encode(":".join(auth or ()).encode()).decode()
        sent_headers = {**(headers or {}), "Authorization": f"Basic {credentials}"}
        if not self._gateway.places.acquire(timeout=max(0.0, self.left())):
            raise http_exchange.NotSent("no_free_place")
        try:
            self.handed_over = True
            self.answer = self._gateway.exchange.send(
                method, target, sent_headers, body, deadline=self._deadline, may_send=self._may_send
            )
        finally:
            self._gateway.places.release()
        return Response(self.answer.status, self.answer.body.decode("utf-8"), self.answer.headers)


def _resource(account: TwilioAccount, call: _Call) -> AccountContext:
    # With an empty mapping the SDK would read TWILIO_EDGE and TWILIO_REGION from the process environment.
    client = ClientBase(account.account_sid, account.auth_token, http_client=call, environment={"TWILIO_EDGE": ""})
    return Api(client).v2010.account


def _listed(row: MessageInstance) -> ListedMessage:
    if not isinstance(row.sid, str) or not isinstance(row.status, str) or not isinstance(row.to, str):
        raise ListingUnavailable("row_not_understood")
    return ListedMessage(
        sid=row.sid,
        status=row.status,
        body=row.body or "",
        direction=str(row.direction),
        to=row.to,
        from_=row.from_,
        messaging_service_sid=row.messaging_service_sid,
        date_created=row.date_created,
        error_code=row.error_code,
        error_message=None if row.error_message is None else storable_text.repair(row.error_message),
        num_media=int(row.num_media or 0),
    )


def is_before(row: ListedMessage, moment: datetime) -> bool:
    """Whether the carrier says that it made the message before the moment."""
    return row.date_created is not None and row.date_created < moment


def sign(url: str, form: Sequence[tuple[str, str]], token: str) -> str:
    """Twilio's X-Twilio-Signature (HMAC-SHA1) for a form post; a fragment takes no part in it.

    As the SDK's, but over the bytes as they came: what is no UTF-8 is in `form` as Python's `surrogateescape` has it.
    """
    signed = urldefrag(url).url + "".join(name + value for name, value in sorted(set(form)))
    mac = hmac.new(token.encode(), signed.encode("utf-8", "surrogateescape"), "sha1")
    return base64.b64encode(mac.digest()).decode("ascii")


def verify_signature(url: str, form: Sequence[tuple[str, str]], signature: str | None, tokens: Sequence[str]) -> bool:
    """Whether one of the account's tokens signed this form post to this URL.

    `form` holds the decoded pairs as they came, blank values included. As in the SDK, the URL also counts with its
    default port added or its port left out. An account without tokens takes as long as one with a wrong signature.
    """
    usable = [token for token in tokens if token]
    presented = signature.encode() if signature and signature.isascii() else b""
    valid = False
    try:
        parts: SplitResult = urlsplit(url)
        urls = {url, request_validator.add_port(parts), request_validator.remove_port(parts)}
        for token in usable or [""]:
            for candidate in urls:
                valid |= hmac.compare_digest(sign(candidate, form, token).encode(), presented)
    except ValueError:  # a port that is no number, or text that is no Unicode
        return False
    return valid and bool(usable)
