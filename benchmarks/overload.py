"""Ask the real `serve` for twice of what it can do, and look what becomes of everybody.

    python -m benchmarks.overload --seconds 300

PostgreSQL, `serve` and this client share the machine. First clients that wait for their answers find out how much there
is to be had; then requests come at a multiple of that rate, whether or not they are answered, while Twilio posts what
contacts write. What is printed was measured by this client, but for the line that names the server's own clock.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
import psutil

from benchmarks.open_loop import NO_ANSWER, NOT_SENT, Client, Reply, Request
from conversations_api import addresses, child_processes, migrating
from conversations_api.child_processes import Child
from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, TwilioAccount
from conversations_api.embedded_postgres import EmbeddedPostgres
from delivery import twilio_gateway
from tenancy import authentication, twilio_credentials
from tenancy.transaction import Database

ISSUER, AUDIENCE = "https://login.example.com", "faro"
INBOUND = "/api/v1/webhooks/twilio/inbound"
CONTACTS = 60  # of each agency
SHED_SECONDS = 0.05  # within which what is shed should be told
RECOVERY_SECONDS = 30.0
WAITING_CLIENTS = 24


@dataclass(frozen=True)
class Plan:
    """One run. `factor` times of what the API can do is asked of it, and `webhooks` are posted each second besides."""

    seconds: float = 300.0
    factor: float = 2.0
    webhooks: float = 20.0
    processes: int = 2
    threads: int = 10
    connections: int = 1000


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

    def shed_by_its_own_clock(self) -> tuple[float, float]:
        """How many answers were 503, and how many of those within SHED_SECONDS of the request's head."""
        page = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text
        counted: defaultdict[str, float] = defaultdict(float)
        for line in page.splitlines():
            if line.startswith("faro_http_request_duration_seconds_bucket") and 'status="503"' in line:
                labels, _, number = line.rpartition(" ")
                counted[labels.partition('le="')[2].partition('"')[0]] += float(number)
        return counted["+Inf"], counted[str(SHED_SECONDS)]

    def api_request(self, number: int) -> Request:
        """Of ten requests six look into the inbox, three into a thread, and one sends."""
        agency, conversation_id = self.conversations[number % len(self.conversations)]
        thread = f"/api/v1/conversations/{conversation_id}/messages"
        authorization = f"Authorization: Bearer {self.tokens[agency.id]}"
        turn = number % 10
        if turn < 6:
            return Request("api", _wire("GET", "/api/v1/conversations?limit=20", authorization))
        if turn < 9:
            return Request("api", _wire("GET", f"{thread}?limit=20", authorization))
        body = b'{"content": "We are open until six. See you then!"}'
        return Request("api", _wire("POST", thread, authorization, "Content-Type: application/json", body=body))

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
        return Request("webhook", _wire("POST", INBOUND, *headers, body=urlencode(form).encode()))


@dataclass
class Findings:
    """What the phases of a run came to."""

    plan: Plan
    capacity: float
    idle: list[Reply]
    api: list[Reply]
    webhooks: list[Reply]
    memory: list[float]
    recovery: float | None
    latest: float
    shed: float
    shed_in_time: float

    @property
    def refused(self) -> list[Reply]:
        return [reply for reply in self.api if reply.status == 503]

    @property
    def accepted(self) -> list[Reply]:
        return [reply for reply in self.api if 200 <= reply.status < 300]

    def wrong(self) -> list[str]:
        """What may not happen however slow the machine is."""
        statuses = Counter(reply.status for reply in self.api)
        odd = {status: number for status, number in statuses.items() if status not in (200, 201, 503, NOT_SENT)}
        told = sum(reply.retry_after for reply in self.refused)
        lost = Counter(reply.status for reply in self.webhooks if reply.status != 200)
        findings = [f"answers of the API that are neither good nor 503: {odd}"] if odd else []
        findings += [f"503 without Retry-After: {len(self.refused) - told}"] if told < len(self.refused) else []
        findings += [f"webhooks that were not taken: {dict(lost)}"] if lost else []
        findings += [] if self.recovery is not None else [f"not itself again after {RECOVERY_SECONDS:.0f} s"]
        return findings


def run(plan: Plan, folder: Path, progress: Callable[[str], None] = lambda line: None) -> Findings:
    """One installation, all phases; `folder` keeps the log."""
    with serving(plan, folder) as service:
        return asyncio.run(_phases(plan, service, progress))


async def _phases(plan: Plan, service: Service, progress: Callable[[str], None]) -> Findings:
    client = Client(service.port, plan.connections)
    await _fill(service, client)
    progress("warming up")
    await client.back_to_back(8, plan.seconds * 0.03, service.api_request)
    progress("a client by itself")
    idle = await _after(client, client.at_rate(10, plan.seconds * 0.07, service.api_request))
    progress(f"{WAITING_CLIENTS} clients that wait for their answers")
    capacity = await client.back_to_back(WAITING_CLIENTS, plan.seconds * 0.1, service.api_request)
    memory: list[float] = []
    before = service.shed_by_its_own_clock()
    client.latest = 0.0
    watching = asyncio.create_task(_watch(plan, service, client, memory, progress))
    loaded = await _after(client, _overload(plan, service, client, capacity))
    watching.cancel()
    progress("recovering")
    recovery = await _recover(service, client, idle)
    after = service.shed_by_its_own_clock()
    client.close()
    return Findings(
        plan,
        capacity,
        idle,
        [reply for reply in loaded if reply.kind == "api"],
        [reply for reply in loaded if reply.kind == "webhook"],
        memory,
        recovery,
        client.latest,
        after[0] - before[0],
        after[1] - before[1],
    )


async def _after(client: Client, phase: Awaitable[None]) -> list[Reply]:
    """The replies of a phase."""
    before = len(client.replies)
    await phase
    return client.replies[before:]


async def _overload(plan: Plan, service: Service, client: Client, capacity: float) -> None:
    seconds = plan.seconds * 0.7
    await asyncio.gather(
        client.at_rate(capacity * plan.factor, seconds, service.api_request),
        client.at_rate(plan.webhooks, seconds, service.webhook),
    )


async def _recover(service: Service, client: Client, idle: Sequence[Reply]) -> float | None:
    """The seconds until ten requests in a row are answered as if nothing had been."""
    usual = max(0.1, 3 * percentile(idle, 0.99))
    begin, in_a_row = time.perf_counter(), 0
    while time.perf_counter() - begin < RECOVERY_SECONDS:
        reply = await client.ask(service.api_request(in_a_row), time.perf_counter())
        in_a_row = in_a_row + 1 if reply.status in (200, 201) and reply.seconds <= usual else 0
        if in_a_row == 1:
            first = time.perf_counter() - begin
        if in_a_row == 10:
            return first
        await asyncio.sleep(0.02)
    return None


async def _fill(service: Service, client: Client) -> None:
    """Let contacts write, and look which conversations there are."""
    for number in range(CONTACTS * len(service.agencies)):
        await client.ask(service.webhook(number), time.perf_counter())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", trust_env=False) as reader:
        for agency in service.agencies:
            headers = {"Authorization": f"Bearer {service.tokens[agency.id]}"}
            page = await reader.get("/api/v1/conversations", params={"limit": 100}, headers=headers)
            service.conversations += [(agency, each["id"]) for each in page.json()["conversations"]]
    assert service.conversations  # noqa: S101  # or there is nothing to ask for


async def _watch(
    plan: Plan, service: Service, client: Client, memory: list[float], progress: Callable[[str], None]
) -> None:
    """Once a second: how much memory the service takes, and how far it is."""
    begin, before = time.perf_counter(), len(client.replies)
    while True:
        memory.append(service.megabytes())
        done = (time.perf_counter() - begin) / (plan.seconds * 0.7)
        seen = Counter(reply.status for reply in client.replies[before:])
        bar = "#" * int(min(done, 1) * 30)
        counts = f"{seen[200] + seen[201]:,} served, {seen[503]:,} shed, {memory[-1]:.0f} MB"
        progress(f"overload [{bar:<30}] {counts}")
        await asyncio.sleep(1)


@contextmanager
def serving(plan: Plan, folder: Path) -> Iterator[Service]:
    """PostgreSQL as it is run for customers, and `serve` over it."""
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
            "RATE_LIMIT_REQUESTS_PER_MINUTE": "0",
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


def _wire(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def percentile(replies: Sequence[Reply], share: float) -> float:
    """In seconds; 0 where there are none."""
    seconds = sorted(reply.seconds for reply in replies)
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))] if seconds else 0.0


def table(found: Findings) -> str:
    """The figures, as rows of Markdown."""

    def times(replies: Sequence[Reply], *, most: bool = False) -> str:
        figures = [f"{percentile(replies, share) * 1000:,.0f}" for share in (0.5, 0.99)]
        figures += [f"{max((reply.seconds for reply in replies), default=0) * 1000:,.0f}"] if most else []
        return " / ".join(figures) + " ms"

    plan, sent = found.plan, [reply for reply in found.api if reply.status != NOT_SENT]
    answered = [reply for reply in [*sent, *found.webhooks] if reply.status > NO_ANSWER]
    shed_share = len(found.refused) / max(1, len(sent))
    quarter = max(1, len(found.memory) // 4)
    first, last = (sum(part) / len(part) for part in (found.memory[:quarter], found.memory[-quarter:]))
    taken = Counter(reply.status == 200 for reply in found.webhooks)
    rows = {
        "a client by itself, p50 / p99": times(found.idle),
        f"answered to {WAITING_CLIENTS} clients that wait": f"{found.capacity:,.0f} requests a second",
        "asked for": f"{len(sent):,} requests, {found.capacity * plan.factor:,.0f} a second",
        "accepted, p50 / p99 / longest": f"{len(found.accepted):,}: {times(found.accepted, most=True)}",
        "shed with 503 and Retry-After": f"{len(found.refused):,} ({shed_share:.0%})",
        "shed, p50 / p99 / longest": times(found.refused, most=True),
        f"shed within {SHED_SECONDS * 1000:.0f} ms by the server's clock": (
            f"{found.shed_in_time:,.0f} of {found.shed:,.0f} ({found.shed_in_time / max(1, found.shed):.2%})"
        ),
        "longest answer of all": f"{max((reply.seconds for reply in answered), default=0):.2f} s",
        "webhooks taken": f"{taken[True]:,} of {taken.total():,}, at {plan.webhooks:g} a second",
        "webhooks, p50 / p99 / longest": times(found.webhooks, most=True),
        "memory, first and last quarter": f"{first:.0f} MB, {last:.0f} MB",
        "itself again after": "never" if found.recovery is None else f"{found.recovery:.2f} s",
        "the client itself was late by at most": f"{found.latest * 1000:,.0f} ms",
        "requests that the client could not send": f"{len(found.api) - len(sent):,}",
    }
    return "\n".join(f"| {name} | {figure} |" for name, figure in rows.items())


def main() -> int:
    """Print the figures; 1 when something was lost, or refused without a word."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=(__doc__ or "").splitlines()[0])
    defaults = Plan()
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="for all phases (default 300)")
    parser.add_argument("--factor", type=float, default=defaults.factor, help="times of what it can do (default 2)")
    parser.add_argument("--webhooks", type=float, default=defaults.webhooks, help="a second, besides (default 20)")
    parser.add_argument("--processes", type=int, default=defaults.processes, help="WEB_CONCURRENCY (default 2)")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="HANDLER_THREADS (default 10)")
    options = parser.parse_args()

    def show(line: str) -> None:
        sys.stderr.write(f"\r{line}".ljust(110)[:110])
        sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="faro-overload-") as folder:
        found = run(Plan(**vars(options)), Path(folder), show)
    sys.stderr.write("\n")
    wrong = found.wrong()
    sys.stdout.write("\n".join([table(found), *wrong, ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
