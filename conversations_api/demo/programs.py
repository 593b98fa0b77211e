"""The programs of the demo: `serve` and `worker` as every installation starts them, and a simulated Twilio.

They get their configuration by environment variables, and their output goes to log files of the data folder.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

from conversations_api import addresses, child_processes, settings
from conversations_api.child_processes import Child
from conversations_api.demo import memory
from conversations_api.demo.memory import DemoError, DemoFolder, Installation

START_SECONDS = 60.0
# What serve and worker take at most, and a little.
STOP_SECONDS = 20.0

# Of the user's own environment these would contradict the demo's.
_LEFT_OUT = (
    "JWT_JWKS_URL",
    "JWT_AUTHORIZED_PARTIES",
    "TWILIO_PREVIOUS_AUTH_TOKEN",
    "MIGRATION_DATABASE_URL",
    "METRICS_PORT",  # one port, and two programs
)
# Some messages do not arrive, so that the inbox has something to show for it.
_FAULTS = [{"kind": "undelivered_later", "probability": 0.03}, {"kind": "failed_later", "probability": 0.02}]


@dataclass(frozen=True)
class Urls:
    """The database, by role."""

    app: str
    worker: str
    owner: str


class Programs:
    """Starts them, waits until they serve, and stops them in order."""

    def __init__(self, folder: DemoFolder, installation: Installation, urls: Urls, *, host: str, port: int) -> None:
        self._folder, self._installation, self._urls = folder, installation, urls
        self._host, self._port = host, port
        # Whoever listens everywhere listens here too.
        reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
        self.base_url = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
        self.api_url = f"{self.base_url}/api/v1"
        self._simulator_port = addresses.free_port()
        self.simulator_url = f"http://127.0.0.1:{self._simulator_port}"
        self._service: list[Child] = []
        self._simulator: list[Child] = []

    def start(self, *, contacts_answer: bool, check: Callable[[], None]) -> None:
        """Return when the API is ready, the worker at work and the simulator there. Raises DemoError."""
        program = [sys.executable, "-m", "conversations_api"]
        for name, command in (("api", "serve"), ("worker", "worker")):
            log_path = self._folder.log(name)
            self._service.append(
                child_processes.start(name, [*program, command], environment=self._environment(), log_path=log_path)
            )
        self.start_simulator(contacts_answer=contacts_answer, check=check)
        self._wait(f"{self.api_url}/readyz", _worker_is_seen, check)

    def start_simulator(self, *, contacts_answer: bool, check: Callable[[], None]) -> None:
        """Contacts either answer in their own time, or not at all while the demo is filled; then some do not get it."""
        options = ["--port", str(self._simulator_port), "--inbound-url", f"{self.api_url}/webhooks/twilio/inbound"]
        options += ["--record", str(self._folder.path / "simulator.jsonl")]
        for account_sid, auth_token in self._installation.accounts.items():
            options += ["--account", f"{account_sid}:{auth_token}"]
        if contacts_answer:
            options += ["--contacts-answer", str(self._folder.answers), "--answer-delay", "3", "8"]
        else:
            options += ["--status-delay", "0.02"]
        command = [sys.executable, "-m", "delivery.simulator.server", *options]
        log_path = self._folder.log("simulator")
        self._simulator = [
            child_processes.start("simulator", command, environment=settings.inherited_environment(), log_path=log_path)
        ]
        self._wait(f"{self.simulator_url}/simulator/faults", lambda _: True, check)
        if not contacts_answer:
            httpx.put(f"{self.simulator_url}/simulator/faults", json={"dice": _FAULTS}, trust_env=False)

    def stop_simulator(self) -> None:
        child_processes.stop(self._simulator, seconds=5.0)
        self._simulator = []

    def stop(self) -> None:
        """The API and the worker first: what they are doing, they still end."""
        child_processes.stop(self._service, seconds=STOP_SECONDS)
        self._service = []
        self.stop_simulator()

    def require_running(self) -> None:
        """Raise DemoError when one of them has ended by itself."""
        for child in [*self._service, *self._simulator]:
            if child.has_ended:
                raise DemoError(f"the {child.name} has ended, {_last_word(child)}")

    def _environment(self) -> dict[str, str]:
        installation = self._installation
        inherited = settings.inherited_environment()
        return {
            **{name: value for name, value in inherited.items() if name not in _LEFT_OUT},
            "DATABASE_URL": self._urls.app,
            "WORKER_DATABASE_URL": self._urls.worker,
            "JWT_ISSUER": memory.ISSUER,
            "JWT_AUDIENCE": memory.AUDIENCE,
            "JWT_PUBLIC_KEY": installation.public_key,
            "PUBLIC_BASE_URL": self.base_url,
            "SECRETS_KEY": installation.secrets_key,
            "TWILIO_ACCOUNT_SID": installation.twilio.account_sid,
            "TWILIO_AUTH_TOKEN": installation.twilio.auth_token,
            "TWILIO_BASE_URL": self.simulator_url,
            "HOST": self._host,
            "PORT": str(self._port),
            "SERVE_DOCS": "true",
            # Of a size to be seen in the headers, and not to be met by trying things out.
            "RATE_LIMIT_REQUESTS_PER_MINUTE": "600000",
            "RATE_LIMIT_SENDS_PER_MINUTE": "60000",
        }

    def _wait(self, url: str, is_ready: Callable[[httpx.Response], bool], check: Callable[[], None]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            check()
            self.require_running()
            with suppress(httpx.TransportError, json.JSONDecodeError, KeyError):
                answer = httpx.get(url, timeout=5.0, trust_env=False)
                if answer.status_code == 200 and is_ready(answer):
                    return
            time.sleep(0.1)
        raise DemoError(f"the demo was not ready in {START_SECONDS:.0f} seconds; {self._folder.path} holds the logs")


def _worker_is_seen(answer: httpx.Response) -> bool:
    return answer.json()["checks"]["worker_heartbeat_age_seconds"] is not None


def _last_word(child: Child) -> str:
    lines = child.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"its last word in {child.log_path} was: {lines[-1][:300] if lines else 'nothing'}"
