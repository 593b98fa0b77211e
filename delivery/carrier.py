"""The values that pass between us and a carrier; none of them shows a token, a phone number or a text when printed.

Read them through `delivery.twilio_gateway`, which names them all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urldefrag

Channel = Literal["whatsapp", "sms"]

# Twilio retries a callback five times on any failure; without this, once and only when it cannot connect.
# https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
_CALLBACK_OVERRIDES = "#rc=5&rp=all"


class InvalidSignature(Exception):
    """The request was not signed by Twilio with a token of the account it names."""


class ListingUnavailable(Exception):
    """Twilio could not be asked, or its answer was not whole: it proves neither presence nor absence."""

    def __init__(self, reason: str, *, http_status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.http_status = http_status


@dataclass(frozen=True)
class TwilioAccount:
    """An account and its tokens; the previous one verifies signatures during a rotation, and sends nothing."""

    account_sid: str
    auth_token: str = field(repr=False)
    previous_auth_token: str | None = field(default=None, repr=False)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(token for token in (self.auth_token, self.previous_auth_token) if token)


@dataclass(frozen=True, kw_only=True)
class OutboundMessage:
    """What one create call asks for. `sender` is an E.164 number or the SID of a messaging service (MG...);
    with `content_sid`, an approved template is sent and `content` and `media_urls` are not."""

    sender: str = field(repr=False)
    recipient: str = field(repr=False)
    channel: Channel
    content: str = field(repr=False)
    media_urls: tuple[str, ...] = field(default=(), repr=False)
    content_sid: str | None = None
    content_variables: Mapping[str, str] | None = field(default=None, repr=False)
    status_callback_url: str
    validity_period_seconds: int


@dataclass(frozen=True)
class ListedMessage:
    """A message as Twilio lists it; `to` and `from_` are Twilio addresses (`whatsapp:+...` or E.164)."""

    sid: str
    status: str
    body: str = field(repr=False)
    direction: str
    to: str = field(repr=False)
    from_: str | None = field(repr=False)
    messaging_service_sid: str | None
    date_created: datetime | None
    error_code: int | None
    error_message: str | None = field(repr=False)
    num_media: int


@dataclass(frozen=True)
class ListedMedia:
    """One medium of a message; `url` needs the account's HTTP Basic credentials."""

    url: str
    content_type: str


def address(channel: Channel, phone_number: str) -> str:
    """The form in which Twilio writes a phone number on a channel."""
    return f"whatsapp:{phone_number}" if channel == "whatsapp" else phone_number


def create_arguments(message: OutboundMessage) -> dict[str, Any]:
    """What the SDK's create call is given for the message."""
    arguments: dict[str, Any] = {
        "to": address(message.channel, message.recipient),
        "validity_period": message.validity_period_seconds,
        "status_callback": urldefrag(message.status_callback_url).url + _CALLBACK_OVERRIDES,
    }
    if message.sender.startswith("MG"):
        arguments["messaging_service_sid"] = message.sender
    else:
        arguments["from_"] = address(message.channel, message.sender)
    if message.content_sid:
        arguments["content_sid"] = message.content_sid
        if message.content_variables:
            arguments["content_variables"] = json.dumps(dict(message.content_variables))
        return arguments
    if message.content:
        arguments["body"] = message.content
    if message.media_urls:
        arguments["media_url"] = list(message.media_urls)
    return arguments
