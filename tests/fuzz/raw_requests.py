"""Good requests with their bytes damaged, over plain sockets: what no client library would ever send.

Whatever comes, the answer is one of ours (a problem of a documented status) or none at all, where the request has no
end; never a server error, and never the words of a library.
"""

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlencode

from handlers import problems
from tests.api_client import BASE_PATH, FORM, INBOUND
from tests.fuzz.campaign import Target

STATUSES = frozenset({100, 200, 201, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 431, 503})
AT_ONCE = 16
SPICES = [
    b"\0",
    b"\r\n",
    b"\n",
    b"\x7f",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"%00",
    b"%0d%0a",
    b"%ED%A0%80",
    b"\\u0000",
    b"\\ud800",
    b'"',
    b"'",
    b"&",
    b"=",
    b";",
    b" ",
    b"\t",
    b"/../",
    b"//",
    b"?",
    b"#",
    b"*",
    b"{}[]",
    b"[" * 200,
    b"9" * 400,
    b"1e999",
    b"-0",
    b"null",
    b"A" * 9000,
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"X-Tenant-ID: x\r\n",
    b"X_Tenant_ID: x\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
]


def good_requests(on: Target) -> list[bytes]:
    """One of each operation, whole and valid."""
    agency_id = on.world["agency_id"]
    conversations = on.world["conversations"]
    assert isinstance(conversations, dict)
    conversation_id, messages = next(iter(conversations.items()))
    thread = f"{BASE_PATH}/conversations/{conversation_id}"
    form = urlencode({"AccountSid": str(on.world["account_sid"]), "To": "+12025550001", "Body": "Hi"}).encode()
    signed = [("Content-Type", FORM), ("X-Twilio-Signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")]
    token = [("Authorization", f"Bearer {on.token}"), ("X-Tenant-ID", str(agency_id))]
    sending = [*token, ("Content-Type", "application/json"), ("Idempotency-Key", "raw")]
    text = json.dumps({"content": "Hello", "media_url": "https://files.example.com/x"}).encode()
    return [
        _request("GET", f"{BASE_PATH}/conversations?limit=5&status=open&tenant_id={agency_id}", token),
        _request("GET", thread, token),
        _request("GET", f"{thread}/messages?limit=3&before={messages[0]}", token),
        _request("POST", f"{thread}/messages", sending, text),
        _request("GET", f"{BASE_PATH}/messages/{messages[0]}", token),
        _request("POST", f"{BASE_PATH}/messages/{messages[0]}/resend", token, b""),
        _request("POST", INBOUND, signed, form),
        _request("POST", f"{BASE_PATH}/webhooks/twilio/status/{agency_id}/{messages[0]}/1", signed, form),
        _request("GET", f"{BASE_PATH}/healthz", []),
        _request("GET", f"{BASE_PATH}/readyz", []),
    ]


def damage(request: bytes, dice: random.Random) -> bytes:
    """The request with one to four things done to its bytes."""
    damaged = bytearray(request)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(damaged) + 1)
        length = dice.choice([1, 1, 2, 8, 40])
        deed = dice.randrange(5)
        if deed == 0:
            damaged[at : at + length] = dice.randbytes(length)
        elif deed == 1:
            damaged[at:at] = dice.choice(SPICES)
        elif deed == 2:
            del damaged[at : at + length]
        elif deed == 3:
            lines = bytes(damaged).split(b"\r\n")
            lines.insert(dice.randrange(len(lines)), dice.choice(lines))
            damaged = bytearray(b"\r\n".join(lines))
        else:
            damaged[at : at + 1] = damaged[at : at + 1].swapcase()
    return bytes(damaged)


def fire(on: Target, number: int, seed: int, progress: Callable[[int], None] = lambda done: None) -> Counter[str]:
    """Send so many damaged requests; how often which status came back. Raises AssertionError with the seed."""
    templates = good_requests(on)
    outcomes: Counter[str] = Counter()

    def one(turn: int) -> str:
        dice = random.Random(f"{seed} {turn}")
        sent = damage(dice.choice(templates), dice)
        heard = _exchange(on.api.port, sent)
        try:
            return _judge(heard)
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"seed {seed}, turn {turn}: {sent!r} got {heard[:600]!r}") from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, outcome in enumerate(pool.map(one, range(number)), 1):
            outcomes[outcome] += 1
            progress(done)
    return outcomes


def _request(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None = None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: api.example.com", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _exchange(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes, or has nothing more to say for a moment."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(OSError):
        connection.sendall(sent)
        connection.settimeout(1.0)
        while received := connection.recv(65536):
            heard += received
    return heard


def _judge(heard: bytes) -> str:
    """The status of the first answer. Raises AssertionError when it is not one of ours."""
    if not heard:
        return "no answer"
    head, _, body = heard.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status in STATUSES
    headers = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
    if status >= 400:
        assert headers[b"content-type"] == problems.MEDIA_TYPE.encode()
        length = int(headers[b"content-length"])
        assert length <= 1024
        if body:  # HEAD has none
            assert json.loads(body[:length])["status"] == status
    return str(status)
