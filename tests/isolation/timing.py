"""Can a stopwatch tell another agency's row from one that does not exist?

Each pair asks for both, in an order that a coin decides, over one connection. Of all pairs the Mann-Whitney statistic
says how often the one takes longer than the other: 0.5 is a coin's toss, and |z| above 4 would be more than chance.
"""

import http.client
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import uuid4

from delivery import twilio_gateway
from tests.agencies import ACCOUNT_SID, Agency
from tests.api_client import BASE_PATH, FORM, INBOUND, PUBLIC_BASE_URL, Api, inbound_form, new_sid
from tests.handlers.test_webhook_signatures import own_account

LIMIT = 4.0


@dataclass(frozen=True)
class Request:
    """One request, ready to be sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None = None


@dataclass(frozen=True)
class Comparison:
    """The times of one kind of request, in microseconds."""

    name: str
    foreign: list[float]
    missing: list[float]

    @property
    def superiority(self) -> float:
        """How often the foreign one takes longer; half of it where they tie."""
        return _rank_sum(self.foreign, self.missing) / (len(self.foreign) * len(self.missing))

    @property
    def z(self) -> float:
        first, second = len(self.foreign), len(self.missing)
        return (self.superiority - 0.5) * math.sqrt(12 * first * second / (first + second + 1))

    def __str__(self) -> str:
        medians = f"{statistics.median(self.foreign):8.0f} {statistics.median(self.missing):8.0f}"
        verdict = "told apart" if abs(self.z) > LIMIT else "alike"
        return f"{self.name:24} {len(self.foreign):6} {medians} {self.superiority:8.4f} {self.z:7.2f}  {verdict}"


HEADING = f"{'pairs of':24} {'n':>6} {'foreign':>8} {'missing':>8} {'P(f>m)':>8} {'z':>7}  (medians in microseconds)"


def compare(api: Api, pairs: int) -> Iterator[Comparison]:
    """Each kind of request that could be an oracle, `pairs` times."""
    mine, other = api.new_agency(), api.new_agency()
    api.converse(mine)
    foreign_conversation = api.converse(other)
    foreign_message = api.of(other).send(foreign_conversation).json["id"]
    authorization = {"Authorization": f"Bearer {api.token(mine.id)}"}
    sending = authorization | {"Content-Type": "application/json"}
    text = json.dumps({"content": "Hello"}).encode()

    def get(path: str, found: str) -> Callable[[bool], Request]:
        return lambda foreign: Request("GET", BASE_PATH + path.format(found if foreign else uuid4()), authorization)

    def send(foreign: bool) -> Request:
        conversation_id = foreign_conversation if foreign else uuid4()
        return Request("POST", f"{BASE_PATH}/conversations/{conversation_id}/messages", sending, text)

    def name_agency(foreign: bool) -> Request:
        named = str(other.id if foreign else uuid4())
        return Request("GET", f"{BASE_PATH}/conversations", authorization | {"X-Tenant-ID": named})

    # What is known and what is nobody's, neither signed by who may.
    owns = api.new_agency()
    own = own_account(api, owns)
    number, account, service = "+19995550000", "AC" + "f" * 32, "MG" + "9" * 32

    def inbound(agency: Agency, missing: dict[str, str], **fields: str) -> Callable[[bool], Request]:
        return lambda foreign: _webhook(INBOUND, inbound_form(agency, **fields) | ({} if foreign else missing))

    def status(agency: Agency, account_sid: str) -> Callable[[bool], Request]:
        form = {"AccountSid": account_sid, "MessageSid": new_sid(), "MessageStatus": "sent"}
        path = f"{BASE_PATH}/webhooks/twilio/status"
        return lambda foreign: _webhook(f"{path}/{agency.id if foreign else uuid4()}/{uuid4()}/1", form)

    kinds = {
        "getConversation": get("/conversations/{}", foreign_conversation),
        "listMessages": get("/conversations/{}/messages", foreign_conversation),
        "getMessage": get("/messages/{}", foreign_message),
        "sendMessage": send,
        "X-Tenant-ID": name_agency,
        "inbound, number": inbound(other, {"To": number}),
        "inbound, account": inbound(other, {"AccountSid": account}),
        "inbound, with a service": inbound(other, {"To": number}, MessagingServiceSid=service),
        "inbound, own number": inbound(owns, {"To": number}, AccountSid=own),
        "inbound, own account": inbound(owns, {"AccountSid": account}, AccountSid=own),
        "status, agency": status(other, ACCOUNT_SID),
        "status, own account": status(owns, own),
    }
    for name, make in kinds.items():
        yield _measure(api, name, make, pairs)


def _webhook(target: str, form: dict[str, str]) -> Request:
    signature = twilio_gateway.sign(PUBLIC_BASE_URL + target, list(form.items()), "0" * 32)
    headers = {"Content-Type": FORM, "X-Twilio-Signature": signature}
    return Request("POST", target, headers, urlencode(form).encode())


def _measure(api: Api, name: str, make: Callable[[bool], Request], pairs: int) -> Comparison:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
    times: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(-20, pairs):
        statuses = set()
        for foreign in random.sample([True, False], 2):
            request = make(foreign)
            started = time.perf_counter()
            connection.request(request.method, request.target, request.body, request.headers)
            response = connection.getresponse()
            response.read()
            if pair >= 0:  # what comes before has warmed everything up
                times[foreign].append((time.perf_counter() - started) * 1e6)
            statuses.add(response.status)
        assert len(statuses) == 1, f"{name}: {statuses}"
    connection.close()
    return Comparison(name, times[True], times[False])


def _rank_sum(first: list[float], second: list[float]) -> float:
    """Over all pairs, how often the first is the larger; a tie counts half."""
    ranked = sorted([(value, True) for value in first] + [(value, False) for value in second])
    below, wins = 0.0, 0.0
    index = 0
    while index < len(ranked):
        end = index
        while end < len(ranked) and ranked[end][0] == ranked[index][0]:
            end += 1
        tied_first = sum(is_first for _, is_first in ranked[index:end])
        tied_second = end - index - tied_first
        wins += tied_first * (below + tied_second / 2)
        below += tied_second
        index = end
    return wins
