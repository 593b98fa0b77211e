"""What the simulator posts to us: signed status callbacks, and what contacts write.

A message's statuses are posted in order, each when the one before is done with, unless a fault says otherwise.
Retries follow the overrides in the URL's fragment, which is neither sent nor signed
(https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides); without any, once when it cannot connect.
"""

import asyncio
import contextlib
import random
import uuid
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urldefrag, urlencode

from delivery import twilio_gateway
from delivery.simulator import wire
from delivery.simulator.faults import Fault, Faults
from delivery.simulator.messages import API, ERRORS, Media, Message, Messages, new_sid
from delivery.simulator.rules import OptOuts

_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
    "User-Agent": "TwilioProxy/1.1",
    "Accept": "*/*",
}
Form = list[tuple[str, str]]
_POSTS_KEPT = 20_000


@dataclass(frozen=True)
class Posted:
    """One attempt to reach a webhook; `http_status` is None when nobody answered."""

    url: str
    form: Form
    http_status: int | None


@dataclass(frozen=True)
class Inbound:
    """What a contact sends: addresses as Twilio writes them, media as (url or None, content type)."""

    account_sid: str
    from_: str
    to: str
    body: str
    media: tuple[tuple[str | None, str], ...] = ()
    profile_name: str | None = None
    message_sid: str | None = None
    messaging_service_sid: str | None = None
    webhook_url: str | None = None
    extra: tuple[tuple[str, str], ...] = ()


class Webhooks:
    """Posts to webhooks; lives on the simulator's loop. `answers` are the lines that contacts reply with, if any."""

    def __init__(
        self,
        accounts: Mapping[str, str],
        messages: Messages,
        *,
        inbound_url: str | None,
        status_delay_seconds: float,
        answers: Sequence[str],
        answer_delay_seconds: tuple[float, float],
    ) -> None:
        self.faults = Faults()
        self.inbound_url = inbound_url
        self.opt_outs = OptOuts()
        self.posted: deque[Posted] = deque(maxlen=_POSTS_KEPT)
        self._accounts, self._messages = accounts, messages
        self._status_delay = status_delay_seconds
        self._answers, self._answer_delay = answers, answer_delay_seconds
        self._random = random.Random(1)  # noqa: S311 - which line a contact answers with
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def live(self, message: Message, fault: Fault | None) -> None:
        """Walk an accepted message through its statuses; let the contact answer in the end.

        The statuses come in their own time, however slow the receiver of their callbacks is.
        """
        held_back: Form | None = None
        last_post: asyncio.Task[Any] | None = None
        for status, code in _life(message, fault):
            await asyncio.sleep(self._status_delay)
            message.become(status, code)
            form = status_form(message)
            strike = self.faults.draw("callback", message.to)
            kind = strike.kind if strike else None
            if kind == "callback_reordered" and held_back is None:
                held_back = form
            elif kind == "callback_late" and strike:
                self.start(self._post_status(message, [form], delay=strike.seconds))
            elif kind != "callback_lost":
                forms = [form, form] if kind == "callback_duplicated" else [form]
                forms += [held_back] if held_back else []
                held_back = None
                last_post = self.start(self._post_status(message, forms, after=last_post))
        if held_back is not None:
            self.start(self._post_status(message, [held_back], after=last_post))
        if self._answers and message.status in ("delivered", "read"):
            await asyncio.sleep(self._random.uniform(*self._answer_delay))
            await self.receive(self._answer_to(message))

    async def receive(self, inbound: Inbound) -> tuple[str, int | None]:
        """A contact's message arrives: keep it, post it; its SID and the webhook's status (None: nobody answered).

        A known SID is posted again and kept once, as when Twilio repeats itself.
        """
        message = self._messages.find(inbound.account_sid, inbound.message_sid or "")
        if message is None:
            message = _message_from(inbound)
            self._messages.add(message)
        self.opt_outs.hear(message.account_sid, message.to, str(message.from_), message.body)
        url = inbound.webhook_url or self.inbound_url
        if url is None:
            return message.sid, None
        return message.sid, await self._post(url, inbound_form(message, inbound), message.account_sid)

    def _answer_to(self, message: Message) -> Inbound:
        return Inbound(
            account_sid=message.account_sid,
            from_=message.to,
            to=str(message.from_),
            body=self._random.choice(self._answers),
            messaging_service_sid=message.messaging_service_sid,
        )

    async def _post_status(
        self, message: Message, forms: Sequence[Form], *, after: asyncio.Task[Any] | None = None, delay: float = 0.0
    ) -> None:
        if after is not None:
            await asyncio.wait([after])
        await asyncio.sleep(delay)
        for form in forms if message.status_callback else ():
            await self._post(str(message.status_callback), form, message.account_sid)

    async def _post(self, url: str, form: Form, account_sid: str) -> int | None:
        """Post until it is taken or the policy ends; the last HTTP status, or None."""
        target, fragment = urldefrag(url)
        overrides = dict(parse_qsl(fragment))
        policies = set(overrides.get("rp", "ct").split(","))
        headers = {
            **_HEADERS,
            "X-Twilio-Signature": twilio_gateway.sign(target, form, self._accounts[account_sid]),
            "I-Twilio-Idempotency-Token": str(uuid.uuid4()),
        }
        status: int | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(int(overrides.get("tt", "15000")) / 1000):
                for attempt in range(1 + int(overrides.get("rc", "1"))):
                    await asyncio.sleep(0.1 * (2**attempt - 1))
                    status, failure = await _try(target, headers, urlencode(form).encode(), overrides)
                    self.posted.append(Posted(target, form, status))
                    if failure is None or not policies & {failure, "all"}:
                        break
        return status


async def _try(
    url: str, headers: Mapping[str, str], body: bytes, overrides: Mapping[str, str]
) -> tuple[int | None, str | None]:
    """The status, and Twilio's word for the failure if it is one: ct, rt, 4xx, 5xx."""
    try:
        status = await wire.post(
            url,
            headers,
            body,
            connect_timeout=int(overrides.get("ct", "5000")) / 1000,
            read_timeout=int(overrides.get("rt", "15000")) / 1000,
        )
    except wire.PostFailed as error:
        return None, error.kind
    return status, f"{status // 100}xx" if status >= 400 else None


def _life(message: Message, fault: Fault | None) -> list[tuple[str, int | None]]:
    if fault and fault.kind == "failed_later":
        return [("failed", fault.code or 63016)]
    if fault and fault.kind == "undelivered_later":
        return [("sent", None), ("undelivered", fault.code or 30003)]
    happy: list[tuple[str, int | None]] = [("sent", None), ("delivered", None)]
    return [*happy, ("read", None)] if message.is_whatsapp else happy


def status_form(message: Message) -> Form:
    """A status callback's fields (https://www.twilio.com/docs/messaging/guides/track-outbound-message-status)."""
    form = [
        ("SmsSid", message.sid),
        ("SmsStatus", message.status),
        ("MessageStatus", message.status),
        ("To", message.to),
        ("MessageSid", message.sid),
        ("AccountSid", message.account_sid),
        ("From", message.from_ or ""),
        ("ApiVersion", API.strip("/")),
    ]
    if message.messaging_service_sid:
        form.append(("MessagingServiceSid", message.messaging_service_sid))
    if message.error_code:
        form += [("ErrorCode", str(message.error_code)), ("ErrorMessage", ERRORS.get(message.error_code, ""))]
    if message.is_whatsapp:
        form += [("ChannelPrefix", "whatsapp"), ("ChannelToAddress", message.to.removeprefix("whatsapp:"))]
        form += [("StructuredMessage", "false"), ("EventType", message.status.upper())]
    elif message.status == "delivered":
        form.append(("RawDlrDoneDate", message.date_updated.strftime("%y%m%d%H%M")))
    return form


def inbound_form(message: Message, inbound: Inbound) -> Form:
    """An incoming message's fields (https://www.twilio.com/docs/messaging/guides/webhook-request)."""
    contact = str(message.from_)
    form = [("ToCountry", "US"), ("ToState", ""), ("ToCity", ""), ("ToZip", "")]
    form += [("FromCountry", "US"), ("FromState", ""), ("FromCity", ""), ("FromZip", "")]
    if message.is_whatsapp:
        form = [
            ("ProfileName", inbound.profile_name or ""),
            ("WaId", contact.removeprefix("whatsapp:+")),
            ("MessageType", "text" if not message.media else message.media[0].content_type.partition("/")[0]),
            ("ReferralNumMedia", "0"),
        ]
    form += [(name, message.sid) for name in ("SmsMessageSid", "SmsSid", "MessageSid")]
    form += [("SmsStatus", "received"), ("Body", message.body), ("To", message.to), ("From", contact)]
    form += [("NumSegments", message.as_json()["num_segments"]), ("NumMedia", str(len(message.media)))]
    form += [("AccountSid", message.account_sid), ("ApiVersion", API.strip("/"))]
    if message.messaging_service_sid:
        form.append(("MessagingServiceSid", message.messaging_service_sid))
    for index, media in enumerate(message.media):
        form += [(f"MediaUrl{index}", media.url), (f"MediaContentType{index}", media.content_type)]
    return [*form, *inbound.extra]


def _message_from(inbound: Inbound) -> Message:
    message = Message(
        account_sid=inbound.account_sid,
        sid=inbound.message_sid or new_sid("MM" if inbound.media else "SM"),
        direction="inbound",
        status="received",
        to=inbound.to,
        from_=inbound.from_,
        body=inbound.body,
        messaging_service_sid=inbound.messaging_service_sid,
    )
    message.date_sent = message.date_created
    for url, content_type in inbound.media:
        sid = new_sid("ME")
        message.media.append(Media(sid, content_type, url or f"https://api.twilio.com{message.uri}/Media/{sid}"))
    return message
