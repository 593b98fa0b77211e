"""What Twilio calls: messages that contacts wrote, and reports of what became of ours.

The signature is checked first, over the public address and the raw form: a parsed one has lost blanks and repeats.
Everything that is refused here is refused alike, so that a caller learns neither which numbers nor which accounts there
are.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

from delivery import evidence, inbound, metrics, twilio_gateway
from delivery.twilio_gateway import InvalidSignature
from handlers import responses
from handlers.requests import Request
from handlers.responses import Response
from handlers.services import Services
from persistence import (
    agencies,
    attempts,
    conversations,
    message_status,
    messages,
    outbox,
    provider_events,
    storable_text,
)
from persistence.connection import TenantConnection
from persistence.errors import InvalidFields
from tenancy import number_routing
from tenancy.transaction import tenant_transaction, unbound_transaction

logger = logging.getLogger(__name__)

EMPTY_TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response/>'
MAX_MEDIA = 10
MAX_KEY = 100  # characters of what a message or an event is found by
MAX_WORDS = 1000  # of what Twilio says of an error
# What Twilio calls its fields. Signed are the address and then the fields in the order of their names, without anything
# between: a digit that came first could as well be the end of the address of a report.
_FIELD_NAME = re.compile("[A-Za-z]")
# An https address without user name or password, in characters that every client reads alike.
_MEDIA_URL = re.compile(
    r"https://(?P<host>(?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+)(?::[0-9]{1,5})?(?:[/?#][A-Za-z0-9._~:/?#@!$&()*+,;=%'\[\]-]*)?"
)


@dataclass(frozen=True)
class SignedForm:
    """The form as it came, and what is needed to check who sent it."""

    url: str
    pairs: list[tuple[str, str]]
    signature: str

    def get(self, name: str) -> str:
        """The field's value as it can be stored and looked up, empty when it is not there."""
        return storable_text.repair(self.raw(name))

    def raw(self, name: str) -> str:
        """The field's value as it came, which PostgreSQL may not be able to hold."""
        return next((value for field, value in self.pairs if field == name), "")

    def require(self, *names: str) -> None:
        """Raise InvalidFields for what Twilio always sends, where it is missing or longer than any key of ours."""
        errors = [(name, "is required") for name in names if not self.raw(name)]
        errors += [(name, f"must have at most {MAX_KEY} characters") for name in names if len(self.raw(name)) > MAX_KEY]
        if errors:
            raise InvalidFields(*errors)


def receive_inbound_message(request: Request) -> Response:
    services, form = request.services, _read_form(request)
    account_sid = form.get("AccountSid")
    addresses = [address for address in (form.get("To"), form.get("MessagingServiceSid")) if address]
    with unbound_transaction(services.database, read_only=True) as connection:
        route = number_routing.find(connection, account_sid=account_sid, addresses=addresses)
    # A number that is nobody's is looked for as long as one that is somebody's: time must not tell which there are.
    agency_id = uuid4() if route is None else route.agency_id
    stored = False
    with suppress(inbound.AlreadyHere), tenant_transaction(services.database, agency_id) as tenant:
        _verify(tenant, services, form, account_sid)
        if route is None:
            raise InvalidSignature
        form.require("MessageSid", "From")
        inbound.store(tenant, channel_id=route.channel_id, message=_inbound_message(services, form))
        stored = True
    metrics.inbound_message("webhook", stored=stored)
    logger.info("inbound_message", extra={"agency_id": str(agency_id), "stored": stored})
    return responses.xml(EMPTY_TWIML)


def receive_message_status(request: Request, agency_id: str, message_id: str, attempt: int) -> Response:
    services, form = request.services, _read_form(request)
    account_sid = form.get("AccountSid")
    with tenant_transaction(services.database, UUID(agency_id)) as tenant:
        _verify(tenant, services, form, account_sid)
        provider_status = form.get("MessageStatus") or form.get("SmsStatus")
        form.require("MessageSid", *(() if provider_status else ("MessageStatus",)))
        if agencies.find_status(tenant) is None:
            metrics.report_not_applied("unknown_agency")
            logger.warning("status_for_unknown_agency", extra={"agency_id": agency_id})
            return responses.xml(EMPTY_TWIML)
        message = messages.find_outbound(tenant, message_id=UUID(message_id))
        if message is not None and message.account_sid != account_sid:
            raise InvalidSignature
        _apply_status(tenant, form, provider_status[:MAX_KEY], UUID(message_id), attempt, message)
    return responses.xml(EMPTY_TWIML)


def _apply_status(
    tenant: TenantConnection,
    form: SignedForm,
    provider_status: str,
    message_id: UUID,
    attempt: int,
    message: messages.Outbound | None,
) -> None:
    error_code = form.get("ErrorCode")[:MAX_KEY]
    status = message_status.FROM_TWILIO.get(provider_status)
    twilio_sid = form.get("MessageSid")
    if message is not None:  # before the event, like everybody who keeps one: nobody deadlocks
        conversations.lock(tenant, conversation_id=message.conversation_id)
    is_new = provider_events.insert(
        tenant,
        message_id=message_id,
        attempt=attempt,
        twilio_sid=twilio_sid,
        provider_status=provider_status,
        error_code=error_code,
        status=status,
        # It names the contact, who has asked to be forgotten.
        payload={}
        if message is not None and message.redacted
        else {storable_text.repair(name): storable_text.repair(value) for name, value in form.pairs},
    )
    if message is None or status is None:
        _say_not_applied(tenant, message_id, "unknown_message" if message is None else "unknown_status")
        if message is not None and is_new:  # whatever it says, Twilio has the message
            evidence.prove(
                tenant,
                message_id=message_id,
                conversation_id=message.conversation_id,
                attempt=attempt,
                twilio_sid=twilio_sid,
            )
    elif is_new:
        has_error = error_code not in ("", "0")
        metrics.reported(status, attempts.find_age_seconds(tenant, message_id=message_id, number=attempt))
        evidence.accept(
            tenant,
            message_id=message_id,
            conversation_id=message.conversation_id,
            attempt=attempt,
            twilio_sid=twilio_sid,
            provider_status=provider_status,
            error_code=error_code if has_error else None,
            error_message=(form.get("ErrorMessage")[:MAX_WORDS] or None) if has_error else None,
        )
        outbox.follow(tenant, message_id=message_id)


def _say_not_applied(tenant: TenantConnection, message_id: UUID, reason: str) -> None:
    metrics.report_not_applied(reason)
    extra = {"agency_id": str(tenant.agency_id), "message_id": str(message_id), "reason": reason}
    logger.warning("status_not_applied", extra=extra)


def _read_form(request: Request) -> SignedForm:
    """Raises InvalidSignature for what no signature could make good; it costs the database nothing."""
    signature = request.headers.get("x-twilio-signature")
    if not signature:
        raise InvalidSignature
    # A form is ASCII by its own grammar; what is not UTF-8 inside is kept as it is until it is stored.
    raw = request.body.decode("utf-8", "surrogateescape")
    pairs = parse_qsl(raw, keep_blank_values=True, errors="surrogateescape")
    if not all(_FIELD_NAME.match(name) for name, _ in pairs):
        raise InvalidSignature
    return SignedForm(request.services.public_base_url + request.target, pairs, signature)


def _verify(tenant: TenantConnection, services: Services, form: SignedForm, account_sid: str) -> None:
    # An unknown account costs the same work as a known one, and is refused the same way.
    tokens = services.twilio_credentials.find_signing_tokens(tenant, account_sid=account_sid)
    if not twilio_gateway.verify_signature(form.url, form.pairs, form.signature, tokens):
        raise InvalidSignature


def _inbound_message(services: Services, form: SignedForm) -> inbound.InboundMessage:
    return inbound.InboundMessage(
        twilio_sid=form.get("MessageSid"),
        sender=form.get("From"),
        content=form.raw("Body"),
        media=_media(services, form),
        profile_name=form.get("ProfileName") or None,
        opt_out_type=form.get("OptOutType") or None,
    )


def _media(services: Services, form: SignedForm) -> list[dict[str, str | None]]:
    """The media that lie at Twilio; an address anywhere else is not one that Twilio made, and is left out."""
    announced = form.get("NumMedia")
    count = min(int(announced), MAX_MEDIA) if re.fullmatch("[0-9]{1,9}", announced) else 0
    media = []
    for number in range(count):
        url = form.get(f"MediaUrl{number}")
        if _is_at_twilio(url, services.twilio_base_url):
            media.append({"url": url, "content_type": form.get(f"MediaContentType{number}") or None})
        else:
            logger.warning("inbound_media_not_at_twilio", extra={"number": number})
    return media


def _is_at_twilio(url: str, base_url: str) -> bool:
    found = _MEDIA_URL.fullmatch(url)
    host = found["host"].lower() if found else ""
    return host.endswith(".twilio.com") or host == urlsplit(base_url).hostname
