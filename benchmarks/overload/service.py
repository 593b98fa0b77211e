"""The real `serve` over a PostgreSQL of its own, and what its users and Twilio ask it."""

import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
import psutil

from benchmarks.open_loop import Client, Request
from benchmarks.overload.plan import Plan
from conversations_api import addresses, child_processes, migrating
from conversations_api.child_processes import Child
from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, TwilioAccount
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.web.lanes import Limits
from delivery import twilio_gateway
from tenancy import authentication, twilio_credentials
from tenancy.transaction import Database

ISSUER, AUDIENCE = "https://login.example.com", "faro"
INBOUND = "/api/v1/webhooks/twilio/inbound"
CONTACTS = 60  # of each agency
SHED_SECONDS = 0.05  # within which what is shed should be told


@dataclass(frozen=True)
class Shed:
    """How many answers were 503, and how many of those came within SHED_SECONDS of the request's head; how many of all
    had waited in a queue for as long as one may, and how many of those were told within SHED_SECONDS of its end."""

    all: float
    at_once: float
    waited: float
    waited_and_told: float

    def since(self, before: "Shed") -> "Shed":
        """What has come to it."""
        mine, theirs = astuple(self), astuple(before)
        return Shed(*(now - then for now, then in zip(mine, theirs, strict=True)))


@dataclass
class Service:
    """`serve`, and what is needed to ask it something."""

    port: int
    metrics_port: int
    master: psutil.Process
    agencies: list[Agency]
    tokens: dict[uuid.UUID, str]
    accounts: dict[str, str]
    conversations: list[tuple[Agency, str]] = field(default_factory=list)

    def megabytes(self) -> float:
        processes = [self.master, *self.master.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes) / 1e6

    def shed_by_its_own_clock(self) -> Shed:
        """What the server's histograms say of its 503s."""
        page = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text
        all_of_them = _buckets(page, "faro_http_request_duration_seconds", 'status="503"')
        waited = dict(_buckets(page, "faro_http_queue_seconds", 'outcome="shed"'))  # a bound that it lacks is an error
        return Shed(
            all_of_them["+Inf"],
            all_of_them[str(SHED_SECONDS)],
            waited["+Inf"],
            waited[str(Limits().queue_seconds + SHED_SECONDS)],
        )

    def asking(self, agency: Agency | None = None) -> Callable[[int], Request]:
        """What users of this agency, or of all of them, ask for: the request of each number."""
        theirs = [one for one in self.conversations if agency in (None, one[0])]
        return lambda number: self._api_request(number, *theirs[number % len(theirs)])

    def _api_request(self, number: int, agency: Agency, conversation_id: str) -> Request:
        """Of ten requests six look into the inbox, three into a thread, and one sends."""
        thread = f"/api/v1/conversations/{conversation_id}/messages"
        authorization = f"Authorization: Bearer {self.tokens[agency.id]}"
        turn = number % 10
        if turn < 6:
            return Request("api", wire("GET", "/api/v1/conversations?limit=20", authorization))
        if turn < 9:
            return Request("api", wire("GET", f"{thread}?limit=20", authorization))
        body = b'{"content": "We are open until six. See you then!"}'
        return Request("api", wire("POST", thread, authorization, "Content-Type: application/json", body=body))

    def webhook(self, number: int) -> Request:
        """A contact writes; the message is a new one each time."""
        agency = self.agencies[number % len(self.agencies)]
        channel = agency.channels[1]
        form = [
            ("MessageSid", f"SM{uuid.uuid4().hex}"),
            ("AccountSid", channel.account_sid),
            ("From", f"+1404555{number % CONTACTS:04d}"),
            ("To", channel.twilio_address),
            ("Body", "Do you have time on Friday?"),
            ("NumMedia", "0"),
        ]
        url = f"http://127.0.0.1:{self.port}{INBOUND}"
        signature = twilio_gateway.sign(url, form, self.accounts[channel.account_sid])
        headers = ("Content-Type: application/x-www-form-urlencoded", f"X-Twilio-Signature: {signature}")
        return Request("webhook", wire("POST", INBOUND, *headers, body=urlencode(form).encode()))


async def fill(service: Service, client: Client) -> None:
    """Let contacts write, and look which conversations there are."""
    for number in range(CONTACTS * len(service.agencies)):
        await client.ask(service.webhook(number), time.perf_counter())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", trust_env=False) as reader:
        for agency in service.agencies:
            headers = {"Authorization": f"Bearer {service.tokens[agency.id]}"}
            page = await reader.get("/api/v1/conversations", params={"limit": 100}, headers=headers)
            service.conversations += [(agency, each["id"]) for each in page.json()["conversations"]]
    assert service.conversations  # noqa: S101  # or there is nothing to ask for


@contextmanager
def serving(plan: Plan, folder: Path, *, limit: int = 0) -> Iterator[Service]:
    """PostgreSQL as it is run for customers, and `serve` over it; `limit` is of each agency's requests in a minute."""
    secrets_key = twilio_credentials.generate_key()
    installation, own = (TwilioAccount(f"AC{uuid.uuid4().hex}", uuid.uuid4().hex) for _ in range(2))
    agencies = invented_agencies.invent(installation, own)
    private_key, public_key = authentication.generate_key_pair()
    port, metrics_port = addresses.free_port(), addresses.free_port()
    with EmbeddedPostgres.ephemeral() as postgres:
        migrating.migrate(postgres.owner_url)
        owner = Database(postgres.owner_url, pool_size=1)
        for agency in agencies:
            invented_agencies.install(owner, agency, twilio_credentials.TwilioCredentials(secrets_key))
        owner.close()
        environment = {
            "DATABASE_URL": postgres.app_url,
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_PUBLIC_KEY": public_key,
            "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
            "SECRETS_KEY": secrets_key,
            "TWILIO_ACCOUNT_SID": installation.account_sid,
            "TWILIO_AUTH_TOKEN": installation.auth_token,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "WEB_CONCURRENCY": str(plan.processes),
            "HANDLER_THREADS": str(plan.threads),
            "RATE_LIMIT_REQUESTS_PER_MINUTE": str(limit),
            "RATE_LIMIT_SENDS_PER_MINUTE": "0",
        }
        command = [sys.executable, "-m", "conversations_api", "serve"]
        child = child_processes.start("serve", command, environment=environment, log_path=folder / "serve.log")
        try:
            _wait_until_ready(port, child)
            tokens = {agency.id: _token(private_key, agency) for agency in agencies}
            accounts = {account.account_sid: account.auth_token for account in (installation, own)}
            yield Service(port, metrics_port, psutil.Process(child.process.pid), agencies, tokens, accounts)
        finally:
            child_processes.stop([child], seconds=20)


def _wait_until_ready(port: int, child: Child) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/v1/readyz", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if child.has_ended or time.monotonic() > deadline:
            said = child.log_path.read_text(errors="replace")[-1000:]
            raise RuntimeError(f"serve did not become ready: {said}")
        time.sleep(0.05)


def _token(private_key: str, agency: Agency) -> str:
    return authentication.sign_token(
        private_key,
        issuer=ISSUER,
        audience=AUDIENCE,
        user_id="user_1",
        agency_id=agency.id,
        role="staff",
        lifetime=timedelta(hours=12),
    )


def wire(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def _buckets(page: str, histogram: str, label: str) -> defaultdict[str, float]:
    """How many were observed up to each bound, of all series of a histogram that have this label."""
    counted: defaultdict[str, float] = defaultdict(float)
    for line in page.splitlines():
        if line.startswith(f"{histogram}_bucket") and label in line:
            labels, _, number = line.rpartition(" ")
            counted[labels.partition('le="')[2].partition('"')[0]] += float(number)
    return counted
