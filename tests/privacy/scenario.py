"""What is done with the canaries: they go into every input, over every fault, and what comes out is kept."""

import json
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url

from conversations_api.demo.invented_agencies import Agency
from delivery.simulator.webhooks import Inbound
from tests.stack import BASE_PATH, INBOUND, Answer, Stack

FORM = "application/x-www-form-urlencoded"


@dataclass
class Exposure:
    """The installation, what must not be found, and what came out."""

    stack: Stack
    metrics_ports: tuple[int, int]
    database_logs: list[Path]
    text: str = field(default_factory=lambda: f"canary{secrets.token_hex(8)}")
    digits: str = field(default_factory=lambda: f"1404555{secrets.randbelow(9000) + 1000}")
    token: str = field(default_factory=lambda: f"eyJcanary{secrets.token_hex(12)}")
    refusals: list[Answer] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def phone(self) -> str:
        return "+" + self.digits

    @property
    def canaries(self) -> dict[str, str]:
        """What nobody may find, by what it is."""
        environment, agency = self.stack.environment, self.stack.agencies[0]
        _, payload, _ = self.stack.token(agency).split(".")
        return {
            "what was written": self.text,
            "a phone number": self.digits,
            "a bad token": self.token,
            # The header of a token is the same for all and no secret.
            "the claims of a token": payload[:60],
            "a secrets key": environment["SECRETS_KEY"],
            "a Twilio token": environment["TWILIO_AUTH_TOKEN"],
            "another Twilio token": next(
                token for sid, token in self.stack.accounts.items() if sid != environment["TWILIO_ACCOUNT_SID"]
            ),
            "a password of the database": make_url(environment["DATABASE_URL"]).password or "",
            "a password of the worker": make_url(environment["WORKER_DATABASE_URL"]).password or "",
        }

    def sources(self) -> Iterator[tuple[str, str]]:
        """Every place where something could be found: (name, text)."""
        for path in [*self.stack.folder.rglob("*"), *self.database_logs]:
            if path.is_file():
                yield path.name, path.read_bytes().decode("utf-8", errors="replace")
        for port in self.metrics_ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                yield f"metrics on {port}", answer.read().decode()
        for number, refusal in enumerate(self.refusals):
            headers = "\n".join(f"{name}: {value}" for name, value in refusal.headers.items())
            yield f"refusal {number} ({refusal.status})", headers + "\n" + refusal.body.decode()

    def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
        agency = self.stack.agencies[0]
        sent = {"Authorization": f"Bearer {self.stack.token(agency)}"} | (headers or {})
        answer = self.stack.ask(method, BASE_PATH + target, list(sent.items()), body)
        self.statuses.append(answer.status)
        if answer.status >= 400:
            self.refusals.append(answer)
        return answer

    def send(self, conversation_id: str, body: Any, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", f"/conversations/{conversation_id}/messages", sent, raw)


def expose(exposure: Exposure) -> None:
    """Everything, in the order in which things would happen."""
    stack, agency = exposure.stack, exposure.stack.agencies[0]
    sms, whatsapp = _channel(agency, "sms"), _channel(agency, "whatsapp")
    prefixed = Inbound(
        whatsapp.account_sid,
        from_="whatsapp:" + exposure.phone,
        to=whatsapp.twilio_address,
        body=exposure.text,
        profile_name=exposure.text,
    )
    assert stack.simulator.receive(prefixed)[1] == 200
    assert stack.write(sms, exposure.phone, exposure.text + "\0" + exposure.text)[1] == 200
    conversation_id = next(each["id"] for each in stack.conversations(agency) if each["channel"] == "sms")
    _good_sends(exposure, conversation_id)
    _bad_requests(exposure, conversation_id)
    _bad_bytes(exposure)
    _bad_webhooks(exposure, sms.account_sid, sms.twilio_address)
    _carrier_faults(exposure, conversation_id)
    _database_faults(exposure, conversation_id, sms)


def _good_sends(exposure: Exposure, conversation_id: str) -> None:
    text = exposure.text
    bodies = [
        {"content": text},
        {"content": text, "media_url": f"https://files.example.com/{text}", "media_type": f"image/{text}"},
        {"template": {"content_sid": "HX" + "0" * 32, "variables": {"name": text, "phone": exposure.phone}}},
    ]
    for body in bodies:
        assert exposure.send(conversation_id, body, Idempotency_Key=text).status in (201, 422)
        assert exposure.send(conversation_id, body).status == 201


def _bad_requests(exposure: Exposure, conversation_id: str) -> None:
    text, phone = exposure.text, exposure.phone
    for body in (
        {"content": text * 100},
        {"content": [text]},
        {"content": "x", "media_url": f"http://user:{text}@{phone}/"},
        {"content": "x", "media_type": text},
        {"content": text, "template": {"content_sid": text}},
        {"content": text, "status": text},
        f'{{"content": "{text}'.encode(),
        f'{{"content": "{text}\\u0000"}}'.encode(),
        f'{{"content": "{text}\\ud800"}}'.encode(),
        f"{text}\xff".encode("latin-1"),
        text.encode() * 5000,
    ):
        exposure.send(conversation_id, body)
    for target in (
        f"/conversations?location_id={text}",
        f"/conversations?cursor={text}&limit={text}&status={text}",
        f"/conversations?tenant_id={exposure.digits}",
        f"/conversations/{text}",
        f"/conversations/{conversation_id}/messages?before={text}",
        f"/messages/{text}/resend",
        f"/{text}/{exposure.digits}",
        f"/messages/{text}%00",
    ):
        exposure.ask("GET", target)
    exposure.ask("BREW", f"/conversations/{conversation_id}")
    for name in ("X-Tenant-ID", "Idempotency-Key", "User-Agent", "Referer", "Cookie", "X-Forwarded-For", "Accept"):
        exposure.ask("GET", "/conversations", {name: f"{text} {phone} \xe9"})
    exposure.ask("GET", "/conversations", {"X-Long": text * 1000})
    exposure.send(conversation_id, b"{}", Content_Type=f"text/{text}")
    for token in (
        exposure.token,
        f"{exposure.token}.{text}.{phone}",
        exposure.stack.token(exposure.stack.agencies[0]) + "x",
    ):
        exposure.ask("GET", "/conversations", {"Authorization": f"Bearer {token}"})
    exposure.ask("GET", "/conversations", {"Authorization": f"Basic {exposure.token}"})


def _bad_bytes(exposure: Exposure) -> None:
    """What is no HTTP."""
    for raw in (
        f"{exposure.text}\r\n\r\n",
        f"GET /{exposure.text} HTTP/9.9\r\n\r\n",
        f"GET / HTTP/1.1\r\n{exposure.text}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {exposure.token}\r\n\r\n",
        f"POST {INBOUND} HTTP/1.1\r\nHost: x\r\nContent-Length: {exposure.digits}\r\n\r\n{exposure.text}",
    ):
        with socket.create_connection(("127.0.0.1", exposure.stack.port), timeout=5) as connection, suppress(OSError):
            connection.sendall(raw.encode())
            connection.settimeout(1)
            heard = connection.recv(65536)
            exposure.refusals.append(Answer(0, {}, heard))


def _bad_webhooks(exposure: Exposure, account_sid: str, to: str) -> None:
    text, stack = exposure.text, exposure.stack
    form = {"AccountSid": account_sid, "To": to, "From": exposure.phone, "Body": text, "MessageSid": f"SM{text}"}
    status = f"{BASE_PATH}/webhooks/twilio/status/{stack.agencies[0].id}/{stack.agencies[1].id}/1"
    report = {"AccountSid": account_sid, "MessageSid": f"SM{text}", "MessageStatus": text, "ErrorCode": text}
    for path, fields in ((INBOUND, form), (INBOUND, {**form, "To": exposure.phone}), (status, report)):
        for extra in ({}, {"MessageSid": ""}, {"Secret": text + exposure.phone}):
            changed = {**fields, **extra}
            exposure.statuses.append(stack.post_signed(path, list(changed.items()), account_sid).status)
            answer = stack.ask(
                "POST", path, [("Content-Type", FORM), ("X-Twilio-Signature", exposure.token)], b"a=" + text.encode()
            )
            exposure.refusals.append(answer)


def _carrier_faults(exposure: Exposure, conversation_id: str) -> None:
    faults: list[dict[str, Any]] = [
        {"kind": "reject", "code": 21211},
        {"kind": "reject"},
        {"kind": "error_after_accepting"},
        {"kind": "too_many_requests"},
        {"kind": "close_after_accepting"},
        {"kind": "half_reply"},
        {"kind": "nonsense_reply"},
        {"kind": "redirect"},
        {"kind": "undelivered_later"},
        {"kind": "listing_error"},
    ]
    exposure.stack.simulator.set_faults({"script": faults})
    ids = [exposure.send(conversation_id, {"content": f"{exposure.text} {number}"}).json["id"] for number in range(4)]
    _until(lambda: exposure.stack.simulator.faults_struck.keys() >= {"reject"})
    _until(lambda: _status(exposure, ids[0]) in ("failed", "sent", "delivered", "unconfirmed"))


def _database_faults(exposure: Exposure, conversation_id: str, sms: Any) -> None:
    text, stack = exposure.text, exposure.stack
    with _owner(stack) as cursor:
        # An error whose text quotes the whole row, and one that names a value.
        cursor.execute("alter table messages add constraint odd check (content not like 'canary%odd') not valid")
        cursor.execute("alter table contacts add constraint odd check (phone not like '%odd') not valid")
    assert exposure.send(conversation_id, {"content": f"{text} odd"}).status == 500
    stack.write(sms, exposure.phone, f"{text} odd")
    stack.write(sms, exposure.phone + "odd", text)
    with _owner(stack) as cursor:
        # Whoever waits for this lock is told so in the log after a second, and gives up after two.
        cursor.execute("lock table messages in access exclusive mode")
        assert exposure.send(conversation_id, {"content": text}).status == 503
        waiting = threading.Thread(target=exposure.send, args=(conversation_id, {"content": text}))
        waiting.start()
        time.sleep(0.7)
        with _superuser(stack) as superuser:
            # Of this database only: other tests have sessions on the same server.
            superuser.execute(
                """select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and usename = 'faro_app'"""
            )
        waiting.join()
    assert exposure.send(conversation_id, {"content": text}).status in (201, 503)


def _status(exposure: Exposure, message_id: str) -> str:
    return str(exposure.ask("GET", f"/messages/{message_id}").json["status"])


def _channel(agency: Agency, kind: str) -> Any:
    return next(channel for channel in agency.channels if channel.kind == kind)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


@contextmanager
def _cursor(url: str) -> Iterator[Any]:
    connection = psycopg2.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def _owner(stack: Stack) -> Any:
    return _cursor(stack.urls.owner)


def _superuser(stack: Stack) -> Any:
    return _cursor(stack.urls.superuser)
