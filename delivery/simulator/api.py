"""The simulator's two faces over HTTP: Twilio's Messages resource under /2010-04-01, and its controls under /simulator.

A create is accepted halfway through its latency, and stands on record before the first byte of any reply. The controls
ask for no credentials: the simulator serves demo, tests and benchmarks on one machine, and holds nobody's messages.
"""

import asyncio
import base64
import hmac
import json
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from delivery.simulator.faults import FAULTS, Fault, Faults
from delivery.simulator.messages import API, Message, Messages
from delivery.simulator.rules import Refused, message_from
from delivery.simulator.webhooks import Inbound, Webhooks
from delivery.simulator.wire import Reply, Request

_HTML = b"<html><body><h1>Something went wrong</h1></body></html>"
_REQUESTS_KEPT = 1000


class SimulatorApi:
    """Answers requests; `requests` keeps the latest ones, as they came, for whoever wants to see what a client sent."""

    def __init__(self, accounts: Mapping[str, str], messages: Messages, webhooks: Webhooks) -> None:
        self.requests: deque[Request] = deque(maxlen=_REQUESTS_KEPT)
        self._accounts, self._messages, self._webhooks = accounts, messages, webhooks
        self._creating: Counter[str] = Counter()

    @property
    def _faults(self) -> Faults:
        return self._webhooks.faults

    async def handle(self, request: Request) -> Reply:
        try:
            if request.path.startswith("/simulator/"):
                return await self._control(request)
            self.requests.append(request)
            return await self._resource(request)
        except Refused as error:
            return _error(error.http_status, error.code, error.message)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return _json(400, {"error": f"{type(error).__name__}: {error}"})

    async def _resource(self, request: Request) -> Reply:
        account_sid = self._authenticate(request)
        prefix = f"{API}/Accounts/{account_sid}/Messages"
        if not request.path.startswith(prefix) or not request.path.endswith(".json"):
            raise Refused(20404, 404)
        rest = request.path.removeprefix(prefix).removesuffix(".json")
        if request.method == "POST" and not rest:
            return await self._create_in_turn(account_sid, request)
        await asyncio.sleep(self._faults.latency_ms / 1000)
        if request.method == "GET":
            return self._read(account_sid, rest, request)
        if request.method in ("POST", "DELETE") and (fault := self._faults.draw("redaction")):
            return _error(fault.http_status or 503, 20500)
        if request.method == "POST" and rest.count("/") == 1:
            return self._update(self._find(account_sid, rest), dict(request.form))
        if request.method == "DELETE" and rest.count("/") == 3:
            return self._delete_media(account_sid, rest)
        raise Refused(20404, 404)

    def _authenticate(self, request: Request) -> str:
        given = request.headers.get("authorization", "").removeprefix("Basic ")
        try:
            username, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            raise Refused(20003, 401) from None
        token = self._accounts.get(username)
        if token is None or not hmac.compare_digest(token.encode(), password.encode()):
            raise Refused(20003, 401)
        return username

    async def _create_in_turn(self, account_sid: str, request: Request) -> Reply:
        most = self._faults.most_creates
        if most and self._creating[account_sid] >= most:
            self._faults.struck["too_many_at_once"] += 1
            return _error(429, 20429)
        self._creating[account_sid] += 1
        try:
            return await self._create(account_sid, request)
        finally:
            self._creating[account_sid] -= 1

    async def _create(self, account_sid: str, request: Request) -> Reply:
        form = request.form
        fault = self._faults.draw("create", dict(form).get("To"))
        half = self._faults.latency_ms / 2000
        await asyncio.sleep(half)
        if fault and (refusal := _refusal(fault, request)):
            return refusal
        message = message_from(account_sid, form, self._webhooks.opt_outs)
        if fault and fault.kind == "accept_late":
            self._webhooks.start(self._accept_late(message, form, fault))
            return Reply(manner="none")
        self._accept(message, form, fault)
        reply = _json(201, message.as_json())
        await asyncio.sleep(half + (fault.seconds if fault and fault.kind == "slow" else 0))
        return _spoilt(reply, fault) if fault else reply

    def _accept(self, message: Message, form: list[tuple[str, str]], fault: Fault | None) -> None:
        self._messages.accept(message, form, fault.kind if fault else None)
        self._webhooks.start(self._webhooks.live(message, fault))

    async def _accept_late(self, message: Message, form: list[tuple[str, str]], fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        self._accept(message.dated_now(), form, fault)

    def _read(self, account_sid: str, rest: str, request: Request) -> Reply:
        if fault := self._faults.draw("listing"):
            status = fault.http_status or 503
            return _error(status, 20429 if status == 429 else 20500)
        if not rest:
            return _json(200, self._page(account_sid, request))
        if rest.endswith("/Media"):
            return _json(200, _media_page(self._find(account_sid, rest.removesuffix("/Media"))))
        return _json(200, self._find(account_sid, rest).as_json())

    def _find(self, account_sid: str, rest: str) -> Message:
        message = self._messages.find(account_sid, rest.removeprefix("/"))
        if message is None:
            raise Refused(20404, 404)
        return message

    def _update(self, message: Message, fields: Mapping[str, str]) -> Reply:
        """Redact the text, or cancel what has not gone out yet."""
        if "Body" in fields:
            if fields["Body"]:
                raise Refused(20001)
            message.body = ""
        if fields.get("Status") == "canceled" and message.status in ("accepted", "queued"):
            message.become("canceled")
        return _json(200, message.as_json())

    def _delete_media(self, account_sid: str, rest: str) -> Reply:
        sid, of, media_sid = rest.removeprefix("/").split("/")
        message = self._find(account_sid, sid)
        kept = [media for media in message.media if media.sid != media_sid]
        if of != "Media" or len(kept) == len(message.media):
            raise Refused(20404, 404)
        message.media = kept
        return Reply(204)

    def _page(self, account_sid: str, request: Request) -> dict[str, Any]:
        """A page after the message that PageToken names, so that new messages do not shift what follows."""
        query = dict(request.query)
        size = min(max(int(query.get("PageSize", "50")), 1), 1000)
        number = int(query.get("Page", "0"))
        rows = self._messages.newest_first(account_sid, query, lag_seconds=self._faults.listing_lag_seconds)
        sids = [row.sid for row in rows]
        last_seen = query.get("PageToken", "").removeprefix("PA")
        start = sids.index(last_seen) + 1 if last_seen in sids else 0
        shown = rows[start : start + size]
        filters = {name: value for name, value in query.items() if name not in ("PageSize", "Page", "PageToken")}
        path = request.path

        def page_uri(page: int, **token: str) -> str:
            return f"{path}?{urlencode({**filters, 'PageSize': size, 'Page': page, **token})}"

        more = start + size < len(rows)
        return {
            "first_page_uri": page_uri(0),
            "end": number * size + max(len(shown) - 1, 0),
            "previous_page_uri": page_uri(0) if number else None,
            "messages": [row.as_json() for row in shown],
            "uri": request.target,
            "page_size": size,
            "start": number * size,
            "next_page_uri": page_uri(number + 1, PageToken=f"PA{shown[-1].sid}") if more else None,
            "page": number,
        }

    async def _control(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", "/simulator/messages":
                since = int(dict(request.query).get("since", "0"))
                return _json(200, {"messages": self._messages.record[since:]})
            case "GET", "/simulator/faults":
                return _json(200, {**self._faults.as_json(), "kinds": FAULTS})
            case "PUT", "/simulator/faults":
                self._webhooks.faults = Faults.from_json(json.loads(request.body))
                return _json(200, self._faults.as_json())
            case "POST", "/simulator/inbound":
                sid, status = await self._webhooks.receive(_inbound(json.loads(request.body), self._accounts))
                return _json(200, {"message_sid": sid, "webhook_status": status})
            case _:
                return _json(404, {"error": "no such control"})


def _refusal(fault: Fault, request: Request) -> Reply | None:
    """The reply of a fault that accepts nothing."""
    match fault.kind:
        case "too_many_requests":
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return _error(429, 20429, headers=wait)
        case "error_before_accepting":
            return _error(fault.http_status or 500, 20500)
        case "reject" if fault.code is None:
            return Reply(fault.http_status or 400, _HTML, "text/html")
        case "reject" if fault.code is not None:
            return _error(fault.http_status or 400, fault.code)
        case "redirect":
            return Reply(307, headers={"Location": request.target})
        case "close_before_reading":
            return Reply(manner="reset")
    return None


def _spoilt(reply: Reply, fault: Fault) -> Reply:
    """What becomes of the reply to a create that was accepted."""
    match fault.kind:
        case "error_after_accepting":
            return _error(fault.http_status or 500, 20500)
        case "close_after_accepting":
            return Reply(manner="none")
        case "silence_after_accepting":
            return Reply(manner="none", seconds=fault.seconds)
        case "half_reply":
            return Reply(reply.status, reply.body, manner="half")
        case "dripped_reply":
            return Reply(reply.status, reply.body, manner="dripped", seconds=fault.seconds)
        case "created_without_sid":
            return _json(201, {**json.loads(reply.body), "sid": None})
        case "nonsense_reply":
            return Reply(201, _HTML, "text/html")
    return reply


def _inbound(content: dict[str, Any], accounts: Mapping[str, str]) -> Inbound:
    """From the control's JSON: account_sid, from, to, body; perhaps media, profile_name, message_sid and so on."""
    if content["account_sid"] not in accounts:
        raise ValueError("no such account")
    media = tuple((one.get("url"), one["content_type"]) for one in content.pop("media", []))
    extra = tuple((str(name), str(value)) for name, value in content.pop("extra", {}).items())
    return Inbound(from_=content.pop("from"), media=media, extra=extra, **{"body": "", **content})


def _media_page(message: Message) -> dict[str, Any]:
    uri = f"{message.uri}/Media.json"
    return {
        "first_page_uri": f"{uri}?PageSize=50&Page=0",
        "end": max(len(message.media) - 1, 0),
        "previous_page_uri": None,
        "media_list": [message.media_json(media) for media in message.media],
        "uri": uri,
        "page_size": 50,
        "start": 0,
        "next_page_uri": None,
        "page": 0,
    }


def _json(status: int, content: dict[str, Any], headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(content).encode(), headers=headers or {})


def _error(status: int, code: int, message: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    text = message or Refused(code).message
    more = f"https://www.twilio.com/docs/errors/{code}"
    return _json(status, {"code": code, "message": text, "more_info": more, "status": status}, headers)
