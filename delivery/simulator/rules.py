"""What the simulator's create call accepts and refuses, with Twilio's own error codes.

Codes from https://www.twilio.com/docs/api/errors; field names and types from Twilio's OpenAPI document.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from delivery.simulator.messages import ERRORS, Media, Message, new_sid

_SENDER = re.compile(r"(?:\+[1-9]\d{6,14}|\d{3,8}|[A-Za-z0-9 ]{1,11})")
_RECIPIENT = re.compile(r"\+[1-9]\d{6,14}")
_MESSAGING_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_STOP_WORDS = {"stop", "stopall", "unsubscribe", "cancel", "end", "quit"}
_START_WORDS = {"start", "yes", "unstop"}


class Refused(Exception):
    """An error answer of Twilio's API."""

    def __init__(self, code: int, http_status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.http_status = http_status

    @property
    def message(self) -> str:
        return ERRORS.get(self.code, "Unknown error")


class OptOuts:
    """Who texted STOP to which sender. Twilio keeps this for SMS; on WhatsApp it does not."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str, str]] = set()

    def hear(self, account_sid: str, sender: str, contact: str, body: str) -> None:
        pair = (account_sid, sender, contact)
        if not contact.startswith("whatsapp:"):
            word = body.strip().lower()
            if word in _STOP_WORDS:
                self._pairs.add(pair)
            elif word in _START_WORDS:
                self._pairs.discard(pair)

    def include(self, account_sid: str, sender: str | None, contact: str) -> bool:
        return (account_sid, sender, contact) in self._pairs


def message_from(account_sid: str, form: Sequence[tuple[str, str]], opt_outs: OptOuts) -> Message:
    """The message that this create form asks for. Raises Refused."""
    fields = dict(form)
    media_urls = [value for name, value in form if name == "MediaUrl"]
    to, sender, service = fields.get("To", ""), fields.get("From"), fields.get("MessagingServiceSid")
    _check_addresses(to, sender, service)
    _check_content(fields, media_urls)
    _check_delivery(fields)
    if sender is None:
        sender = assigned_sender(str(service), to)
    if opt_outs.include(account_sid, sender, to):
        raise Refused(21610)
    return Message(
        account_sid=account_sid,
        sid=new_sid("MM" if media_urls else "SM"),
        direction="outbound-api",
        status="accepted" if service else "queued",
        to=to,
        from_=sender,
        body=fields.get("Body", ""),
        messaging_service_sid=service,
        media=[Media(new_sid("ME"), "application/octet-stream", url) for url in media_urls],
        status_callback=fields.get("StatusCallback"),
    )


def assigned_sender(service: str, to: str) -> str:
    """The number that a messaging service of the simulator always picks."""
    number = f"+1500555{int(service[-6:], 16) % 10_000:04d}"
    return f"whatsapp:{number}" if to.startswith("whatsapp:") else number


def _check_addresses(to: str, sender: str | None, service: str | None) -> None:
    if not to:
        raise Refused(21604)
    if not _RECIPIENT.fullmatch(to.removeprefix("whatsapp:")):
        raise Refused(21211)
    if service is not None and not _MESSAGING_SERVICE.fullmatch(service):
        raise Refused(21701, 404)
    if sender is None:
        if service is None:
            raise Refused(21603)
        return
    if not _SENDER.fullmatch(sender.removeprefix("whatsapp:")):
        raise Refused(21212)
    if sender.startswith("whatsapp:") != to.startswith("whatsapp:"):
        raise Refused(21910)


def _check_content(fields: dict[str, str], media_urls: Sequence[str]) -> None:
    if not fields.get("Body") and not media_urls and "ContentSid" not in fields:
        raise Refused(21602)
    if len(fields.get("Body", "")) > 1600:
        raise Refused(21617)
    if len(media_urls) > 10:
        raise Refused(21623)
    if not all(urlsplit(url).scheme in ("http", "https") for url in media_urls):
        raise Refused(21620)


def _check_delivery(fields: dict[str, str]) -> None:
    period = fields.get("ValidityPeriod", "36000")
    if not period.isdecimal() or not 1 <= int(period) <= 36_000:
        raise Refused(21624)
    callback = urlsplit(fields.get("StatusCallback", "https://unused.example"))
    # Twilio refuses a host with an underscore.
    if callback.scheme not in ("http", "https") or not callback.hostname or "_" in callback.hostname:
        raise Refused(21609)
