"""An installation that can be killed piece by piece: PostgreSQL that keeps what it committed, API, workers, carrier."""

import http.client
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import text

from benchmarks.reliability import http_client
from benchmarks.reliability.fork_server import ForkServer
from conversations_api import addresses, migrating
from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, Channel, TwilioAccount
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy import authentication, twilio_credentials
from tenancy.transaction import Database, tenant_transaction

ISSUER, AUDIENCE = "https://login.example.com", "faro"
GRACE_SECONDS = 4.0
# Everything that an installation waits for, in a hurry; the relations between them are those of the defaults.
PATIENCE = {
    "SEND_CONNECT_TIMEOUT_SECONDS": "1",
    "SEND_DEADLINE_SECONDS": "2",
    "RECONCILE_GRACE_SECONDS": str(GRACE_SECONDS),
    "RECONCILE_INTERVAL_SECONDS": "1",
    "RECONCILE_HOLD_SECONDS": "45",
    "STATUS_POLL_SECONDS": "6",
    "INBOUND_CHECK_SECONDS": "5",
}


@dataclass
class Installation:
    """What runs, by process id. `record` is the carrier's own account of what it accepted."""

    folder: Path
    postgres: EmbeddedPostgres
    starter: ForkServer
    agencies: list[Agency]
    private_key: str
    environment: dict[str, str]
    port: int
    simulator_url: str
    record: Path
    api: int = 0
    workers: list[int] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_api(self) -> None:
        self.api = self.starter.start("serve", self.environment)

    def start_worker(self) -> int:
        self.workers.append(self.starter.start("worker", self.environment))
        return self.workers[-1]

    def api_processes(self) -> list[int]:
        """Those that answer: the master only watches them."""
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.api).children()]
        return []

    def token(self, agency: Agency) -> str:
        return authentication.sign_token(
            self.private_key,
            issuer=ISSUER,
            audience=AUDIENCE,
            user_id="user_1",
            agency_id=agency.id,
            role="staff",
            lifetime=timedelta(hours=12),
        )

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException, json.JSONDecodeError, httpx.HTTPError):
                if http_client.CLIENT.get(f"{self.base_url}/api/v1/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"the installation did not become ready; its logs are in {self.folder}")

    def set_faults(self, faults: Mapping[str, Any]) -> None:
        http_client.CLIENT.put(f"{self.simulator_url}/simulator/faults", json=faults, timeout=10).raise_for_status()

    def write(self, channel: Channel, phone: str, content: str) -> str:
        """A contact writes; the SID of the message, whether or not the webhook took it."""
        prefix = "whatsapp:" if channel.kind == "whatsapp" else ""
        order = {"account_sid": channel.account_sid, "from": prefix + phone, "to": channel.twilio_address}
        order["body"] = content
        answer = http_client.CLIENT.post(f"{self.simulator_url}/simulator/inbound", json=order, timeout=30)
        return str(answer.json()["message_sid"])


@contextmanager
def installed(
    folder: Path, *, workers: int, concurrency: int, patience: Mapping[str, str] = PATIENCE
) -> Iterator[Installation]:
    """A new installation in an empty folder, which stays for whoever wants to read the logs."""
    secrets_key = twilio_credentials.generate_key()
    installation, own = (TwilioAccount(f"AC{uuid.uuid4().hex}", uuid.uuid4().hex) for _ in range(2))
    agencies = invented_agencies.invent(installation, own)
    private_key, public_key = authentication.generate_key_pair()
    port, simulator_port = addresses.free_port(), addresses.free_port()
    with EmbeddedPostgres(folder / "postgres") as postgres:
        migrating.migrate(postgres.owner_url)
        _provision(postgres.owner_url, agencies, secrets_key)
        running = Installation(
            folder=folder,
            postgres=postgres,
            starter=ForkServer(folder),
            agencies=agencies,
            private_key=private_key,
            environment={
                "DATABASE_URL": postgres.app_url,
                "WORKER_DATABASE_URL": postgres.worker_url,
                "JWT_ISSUER": ISSUER,
                "JWT_AUDIENCE": AUDIENCE,
                "JWT_PUBLIC_KEY": public_key,
                "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
                "SECRETS_KEY": secrets_key,
                "TWILIO_ACCOUNT_SID": installation.account_sid,
                "TWILIO_AUTH_TOKEN": installation.auth_token,
                "TWILIO_BASE_URL": f"http://127.0.0.1:{simulator_port}",
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "RATE_LIMIT_REQUESTS_PER_MINUTE": "0",
                "RATE_LIMIT_SENDS_PER_MINUTE": "0",
                "WEB_CONCURRENCY": "2",
                "SEND_CONCURRENCY": str(concurrency),
                **patience,
            },
            port=port,
            simulator_url=f"http://127.0.0.1:{simulator_port}",
            record=folder / "record.jsonl",
        )
        simulator = start_simulator(
            {account.account_sid: account.auth_token for account in (installation, own)},
            port=simulator_port,
            record=running.record,
            inbound_url=f"{running.base_url}/api/v1/webhooks/twilio/inbound",
        )
        try:
            running.start_api()
            for _ in range(workers):
                running.start_worker()
            running.wait_until_ready()
            yield running
        finally:
            running.starter.stop()
            simulator.kill()
            simulator.wait()
            _wait_for_end([running.api, *running.workers])


def start_simulator(
    accounts: Mapping[str, str], *, port: int, record: Path, inbound_url: str | None = None
) -> "subprocess.Popen[bytes]":
    """A simulated carrier as a process of its own, which nothing kills: its record is the truth."""
    options = ["--port", str(port), "--record", str(record), "--status-delay", "0.2"]
    options += ["--inbound-url", inbound_url] if inbound_url else []
    for account_sid, token in accounts.items():
        options += ["--account", f"{account_sid}:{token}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "delivery.simulator.server", *options],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_simulator(port)
    return process


def wait_for_simulator(port: int) -> None:
    """Return when it answers. Raises TimeoutError after half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            http_client.CLIENT.get(f"http://127.0.0.1:{port}/simulator/faults", timeout=2)
            return
        time.sleep(0.05)
    raise TimeoutError("the simulator did not start")


def _provision(owner_url: str, agencies: list[Agency], secrets_key: str) -> None:
    """The first two agencies want an automatic resend after proof; the third has the default, which asks a person."""
    owner = Database(owner_url, pool_size=1)
    try:
        for agency in agencies:
            invented_agencies.install(owner, agency, twilio_credentials.TwilioCredentials(secrets_key))
        for agency in agencies[:2]:
            with tenant_transaction(owner, agency.id) as connection:
                connection.execute(text("update agencies set resend_unconfirmed = true where agency_id = :agency_id"))
    finally:
        owner.close()


def _wait_for_end(pids: list[int]) -> None:
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            processes += [process, *process.children()]
            process.kill()
    psutil.wait_procs(processes, timeout=20)
