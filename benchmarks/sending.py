"""How fast one worker empties a queue, beside a bare client that keeps the same number of calls under way.

    python -m benchmarks.sending --messages 4000 --latency-ms 150

The carrier is the simulator, a process of its own that answers after the latency. The bare client is an event loop
that writes one ready-made request to fresh connections: no database, no SDK, no threads. Both are measured by the
carrier's own record, between the first and the last message that it accepted. Every message is to another contact. The
CPU is that of the worker's whole life, its start included; carrier and PostgreSQL share the machine with it.
"""

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from sqlalchemy import text

from benchmarks.reliability.installation import wait_for_simulator
from conversations_api import addresses, migrating
from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, TwilioAccount
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy import twilio_credentials
from tenancy.transaction import Database, tenant_transaction

# Each agency gets its share; the messages are as many as the conversations.
FILL = (
    """
    with made as (
        insert into contacts (agency_id, id, phone)
        select :agency_id, gen_random_uuid(), '+1303' || lpad(number::text, 7, '0')
        from generate_series(1, :count) as number
        returning id
    ),
    opened as (
        insert into conversations (agency_id, id, location_id, channel_id, contact_id, last_message_at,
            last_message_direction)
        select :agency_id, gen_random_uuid(), :location_id, :channel_id, id, clock_timestamp(), 'inbound'
        from made
        returning id
    )
    insert into messages (agency_id, id, conversation_id, direction, content, status, sent_at)
    select :agency_id, gen_random_uuid(), id, 'outbound', 'Your table is ready.', 'queued', clock_timestamp()
    from opened""",
    """
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
    select agency_id, id, conversation_id, :channel_id, sent_at, 'queued'
    from messages
    where agency_id = :agency_id
    and status = 'queued'""",
    "analyze",
)


@dataclass(frozen=True)
class Measured:
    """`cpu_seconds` is what the sending process used, None for the bare client."""

    name: str
    messages: int
    seconds: float
    cpu_seconds: float | None = None

    @property
    def per_second(self) -> float:
        return (self.messages - 1) / self.seconds


class Carrier:
    """The simulator and its record."""

    def __init__(self, account: TwilioAccount, folder: Path, latency_ms: float) -> None:
        self.account, self.record, self.port = account, folder / "record.jsonl", addresses.free_port()
        options = ["--port", str(self.port), "--record", str(self.record), "--latency-ms", str(latency_ms)]
        # Reports would be the work of `serve`, and the same for both.
        options += ["--status-delay", "3600", "--account", f"{account.account_sid}:{account.auth_token}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "delivery.simulator.server", *options], stdout=subprocess.DEVNULL
        )
        wait_for_simulator(self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accepted_at(self) -> list[datetime]:
        lines = self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []
        return [datetime.fromisoformat(json.loads(line)["accepted_at"]) for line in lines]

    def measure(self, name: str, messages: int, send: Callable[[], float | None]) -> Measured:
        before = len(self.accepted_at())
        cpu_seconds = send()
        times = sorted(self.accepted_at()[before:])
        if len(times) != messages:
            raise RuntimeError(f"the carrier accepted {len(times)} of {messages} messages")
        return Measured(name, messages, (times[-1] - times[0]).total_seconds(), cpu_seconds)


def send_barely(carrier: Carrier, messages: int, concurrency: int) -> None:
    """`concurrency` calls at a time, each on a fresh connection, until there are enough."""
    form = {"To": "+13035550100", "From": "+12025550100", "Body": "Your table is ready.", "ValidityPeriod": 3600}
    form["StatusCallback"] = "http://127.0.0.1:9/status"
    body = urlencode(form).encode()
    credentials = base64.b64encode(f"{carrier.account.account_sid}:{carrier.account.auth_token}".encode()).decode()
    head = (
        f"POST /2010-04-01/Accounts/{carrier.account.account_sid}/Messages.json HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Connection: close\r\nAuthorization: Basic {credentials}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request, left = head.encode() + body, iter(range(messages))

    async def send_some() -> None:
        for _ in left:
            reader, writer = await asyncio.open_connection("127.0.0.1", carrier.port)
            writer.write(request)
            reply = await reader.read()
            writer.close()
            if not reply.startswith(b"HTTP/1.1 201"):
                raise RuntimeError(reply[:80])

    async def send_all() -> None:
        await asyncio.gather(*(send_some() for _ in range(concurrency)))

    asyncio.run(send_all())


def work_off(environment: dict[str, str], postgres: EmbeddedPostgres, folder: Path) -> float:
    """Run one worker until nothing is queued any more; the CPU seconds that it used."""
    count = text("select count(*) from outbox where state in ('waiting', 'queued', 'calling')")
    superuser = Database(postgres.url("postgres"), pool_size=1)
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "conversations_api", "worker"], env={**os.environ, **environment}, stderr=log
        )
    try:
        deadline = time.monotonic() + 600
        with superuser.engine.connect() as connection:
            while connection.execute(count).scalar_one() > 0:
                connection.rollback()
                if time.monotonic() > deadline or worker.poll() is not None:
                    raise TimeoutError(f"the worker did not empty the queue; its log is {folder / 'worker.log'}")
                time.sleep(0.5)
        worker.terminate()
        _, _, usage = os.wait4(worker.pid, 0)
        return usage.ru_utime + usage.ru_stime
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, 9)
        superuser.close()


def fill(postgres: EmbeddedPostgres, agencies: list[Agency], messages: int, secrets_key: str) -> None:
    owner = Database(postgres.owner_url, pool_size=1)
    for number, agency in enumerate(agencies):
        invented_agencies.install(owner, agency, twilio_credentials.TwilioCredentials(secrets_key))
        share = messages // len(agencies) + (number < messages % len(agencies))
        channel = agency.channels[1]
        with tenant_transaction(owner, agency.id) as connection:
            for statement in FILL:
                connection.execute(text(statement), count=share, channel_id=channel.id, location_id=channel.location_id)
    owner.close()


@contextmanager
def filled(folder: Path, account: TwilioAccount, messages: int) -> Iterator[tuple[EmbeddedPostgres, dict[str, str]]]:
    secrets_key = twilio_credentials.generate_key()
    with EmbeddedPostgres(folder / "postgres") as postgres:
        migrating.migrate(postgres.owner_url)
        fill(postgres, invented_agencies.invent(account, account), messages, secrets_key)
        yield (
            postgres,
            {
                "WORKER_DATABASE_URL": postgres.worker_url,
                "PUBLIC_BASE_URL": "http://127.0.0.1:9",
                "SECRETS_KEY": secrets_key,
                "TWILIO_ACCOUNT_SID": account.account_sid,
                "TWILIO_AUTH_TOKEN": account.auth_token,
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sending", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency-ms", type=float, default=150.0)
    options = parser.parse_args()
    account = TwilioAccount(f"AC{uuid.uuid4().hex}", uuid.uuid4().hex)
    with TemporaryDirectory() as name, filled(Path(name), account, options.messages) as (postgres, environment):
        folder = Path(name)
        carrier = Carrier(account, folder, options.latency_ms)
        environment |= {"TWILIO_BASE_URL": carrier.url, "SEND_CONCURRENCY": str(options.concurrency)}
        bare = carrier.measure(
            "bare client", options.messages, lambda: send_barely(carrier, options.messages, options.concurrency)
        )
        worker = carrier.measure("worker", options.messages, lambda: work_off(environment, postgres, folder))
        carrier.process.kill()
    for one in (bare, worker):
        cpu = (
            ""
            if one.cpu_seconds is None
            else f", {1000 * one.cpu_seconds / one.messages:.2f} ms of CPU each, start included"
        )
        sys.stdout.write(f"{one.name}: {one.messages} messages in {one.seconds:.1f} s, {one.per_second:.0f}/s{cpu}\n")
    limit = 1000 * options.concurrency / options.latency_ms
    sys.stdout.write(f"worker / bare client: {worker.per_second / bare.per_second:.2f} (at most {limit:.0f}/s)\n")


if __name__ == "__main__":
    main()
