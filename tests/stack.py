"""A whole installation for tests: `serve` and `worker` as processes of their own, a simulated Twilio, a database.

    def test_something(stack: Stack) -> None:
        agency = stack.agencies[0]
        stack.get(agency, "/conversations")

The fixture `stack` is one for the whole run; whoever stops, kills or configures processes starts one of their own with
`running`.
"""

import http.client
import itertools
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uuid_utils.compat as uuid_utils

from conversations_api import addresses, child_processes
from conversations_api.child_processes import Child
from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, Channel, Location, TwilioAccount
from conversations_api.embedded_postgres import EmbeddedPostgres
from delivery import twilio_gateway
from delivery.simulator.server import TwilioSimulator
from delivery.simulator.webhooks import Inbound
from tenancy import authentication, twilio_credentials
from tenancy.transaction import Database
from tests.agencies import Urls, miscounted

ISSUER = "https://login.example.com"
AUDIENCE = "faro"
BASE_PATH = "/api/v1"
INBOUND = f"{BASE_PATH}/webhooks/twilio/inbound"
PRIVATE_KEY, PUBLIC_KEY = authentication.generate_key_pair()
START_SECONDS = 60.0
STOP_SECONDS = 20.0
CONNECTION_IDLE_SECONDS = 30.0  # less than the server's
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stack:
    """Everything that runs, and ways to talk to it. Safe to use from several threads.

    `agencies` are the demo's three, with new ids; the third one brings its own Twilio account.
    """

    urls: Urls
    folder: Path
    port: int
    simulator: TwilioSimulator
    agencies: list[Agency]
    accounts: Mapping[str, str]
    environment: dict[str, str]
    children: dict[str, Child] = field(default_factory=dict)
    _connections: threading.local = field(default_factory=threading.local)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return self.base_url + BASE_PATH

    def token(self, agency: Agency | uuid.UUID, role: str = "staff", user_id: str = "user_1") -> str:
        return authentication.sign_token(
            PRIVATE_KEY,
            issuer=ISSUER,
            audience=AUDIENCE,
            user_id=user_id,
            agency_id=agency if isinstance(agency, uuid.UUID) else agency.id,
            role=role,
            lifetime=timedelta(hours=12),
        )

    # --- Processes ----------------------------------------------------------------------------------------------------

    def start(self, *commands: str) -> None:
        """Start `serve`, `worker` or both, each once, under these names; return when they are at work."""
        for command in commands:
            self.children[command] = child_processes.start(
                command,
                [sys.executable, "-m", "conversations_api", command],
                environment=self.environment,
                log_path=self.folder / f"{command}.log",
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert time.monotonic() < deadline, self.log_tail()
            assert not any(child.has_ended for child in self.children.values()), self.log_tail()
            time.sleep(0.05)

    def stop(self, *commands: str, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM, and SIGKILL after the time."""
        child_processes.stop([self.children.pop(command) for command in commands], seconds=seconds)

    def log_tail(self) -> str:
        texts = [child.log_path.read_text(errors="replace")[-2000:] for child in self.children.values()]
        return "\n".join(["not running as it should", *texts])

    def _is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            answer = self.ask("GET", f"{BASE_PATH}/readyz")
            if answer.status == 200:
                seen = answer.json["checks"]["worker_heartbeat_age_seconds"] is not None
                return seen or "worker" not in self.children
        return "serve" not in self.children

    # --- As a client of the API ---------------------------------------------------------------------------------------

    def ask(
        self, method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
    ) -> Answer:
        """One request, on this thread's connection; `target` is the raw path and query."""
        connection = getattr(self._connections, "open", None)
        if connection is None or time.monotonic() - self._connections.used > CONNECTION_IDLE_SECONDS:
            # The server closes an idle connection in the end, and a request on its way just then is lost.
            connection = self._connections.open = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._connections.used = time.monotonic()
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        except BaseException:
            connection.close()
            self._connections.open = None
            raise

    def get(self, agency: Agency, path: str, *, role: str = "staff", **query: object) -> Answer:
        """`path` is given without /api/v1."""
        target = BASE_PATH + path + ("?" + urlencode(query) if query else "")
        return self.ask("GET", target, [("Authorization", f"Bearer {self._kept_token(agency, role)}")])

    def post(self, agency: Agency, path: str, body: Any, *, role: str = "staff", key: str | None = None) -> Answer:
        headers = [("Authorization", f"Bearer {self._kept_token(agency, role)}"), ("Content-Type", "application/json")]
        if key is not None:
            headers.append(("Idempotency-Key", key))
        return self.ask("POST", BASE_PATH + path, headers, json.dumps(body).encode())

    def conversations(self, agency: Agency, **query: object) -> Iterator[dict[str, Any]]:
        """The whole inbox, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(agency, "/conversations", limit=100, **query, **({"cursor": cursor} if cursor else {})).json
            yield from page["conversations"]
            cursor = page["next_cursor"]

    def messages(self, agency: Agency, conversation_id: str, *, limit: int = 100) -> Iterator[dict[str, Any]]:
        """A whole thread, newest first, page by page."""
        before: str | None = ""
        while before is not None:
            query = {"limit": limit, **({"before": before} if before else {})}
            page = self.get(agency, f"/conversations/{conversation_id}/messages", **query).json
            yield from page["messages"]
            assert page["has_more"] == (page["next_before"] is not None)
            before = page["next_before"]

    # --- As the operator ----------------------------------------------------------------------------------------------

    def new_agency(self) -> Agency:
        """An agency of a test's own, on numbers of its own: one location with a WhatsApp and an SMS channel."""
        number = 200 + 2 * next(_numbers)
        location = Location(uuid_utils.uuid7(), "Location", uuid_utils.uuid7(), "Client")
        account_sid = self.environment["TWILIO_ACCOUNT_SID"]
        channels = tuple(
            Channel(uuid_utils.uuid7(), kind, f"+1202555{number + offset:04d}", location.id, account_sid)
            for offset, kind in enumerate(("whatsapp", "sms"))
        )
        agency = Agency(uuid_utils.uuid7(), "Agency", (location,), channels, (("user_1", "staff"),))
        install_agencies(self.urls.owner, [agency], self.environment["SECRETS_KEY"])
        return agency

    # --- As Twilio and its contacts -----------------------------------------------------------------------------------

    def post_signed(self, path: str, form: Sequence[tuple[str, str]], account_sid: str) -> Answer:
        """A form post as Twilio makes it; `path` includes /api/v1."""
        signature = twilio_gateway.sign(self.base_url + path, form, self.accounts[account_sid])
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("X-Twilio-Signature", signature)]
        return self.ask("POST", path, headers, urlencode(form).encode())

    def write(self, channel: Channel, phone: str, content: str) -> tuple[str, int | None]:
        """A contact writes, by way of the simulator: the message's SID and the webhook's status."""
        prefix = "whatsapp:" if channel.kind == "whatsapp" else ""
        return self.simulator.receive(
            Inbound(channel.account_sid, from_=prefix + phone, to=channel.twilio_address, body=content)
        )

    def _kept_token(self, agency: Agency, role: str) -> str:
        kept: dict[tuple[uuid.UUID, str], str] | None = getattr(self._connections, "tokens", None)
        if kept is None:
            kept = self._connections.tokens = {}
        if (agency.id, role) not in kept:
            kept[agency.id, role] = self.token(agency, role)
        return kept[agency.id, role]


@contextmanager
def running(
    urls: Urls,
    folder: Path,
    *,
    commands: Sequence[str] = ("serve", "worker"),
    simulator_options: Mapping[str, Any] | None = None,
    **variables: str,
) -> Iterator[Stack]:
    """An installation over a migrated, empty database; `variables` are further settings of serve and worker."""
    secrets_key = twilio_credentials.generate_key()
    installation, own = (TwilioAccount(f"AC{uuid.uuid4().hex}", uuid.uuid4().hex) for _ in range(2))
    accounts = {account.account_sid: account.auth_token for account in (installation, own)}
    agencies = invented_agencies.invent(installation, own)
    install_agencies(urls.owner, agencies, secrets_key)
    port = addresses.free_port()
    inbound_url = f"http://127.0.0.1:{port}{INBOUND}"
    with TwilioSimulator(accounts, inbound_url=inbound_url, **(simulator_options or {})) as simulator:
        environment = {
            "DATABASE_URL": urls.app,
            "WORKER_DATABASE_URL": urls.worker,
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_PUBLIC_KEY": PUBLIC_KEY,
            "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
            "SECRETS_KEY": secrets_key,
            "TWILIO_ACCOUNT_SID": installation.account_sid,
            "TWILIO_AUTH_TOKEN": installation.auth_token,
            "TWILIO_BASE_URL": simulator.url,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "RATE_LIMIT_REQUESTS_PER_MINUTE": "0",
            "RATE_LIMIT_SENDS_PER_MINUTE": "0",
            **variables,
        }
        stack = Stack(urls, folder, port, simulator, agencies, accounts, environment)
        try:
            stack.start(*commands)
            yield stack
        finally:
            stack.stop(*stack.children)


def install_agencies(owner_url: str, agencies: Sequence[Agency], secrets_key: str) -> None:
    """What an operator does for new customers."""
    database = Database(owner_url, pool_size=1)
    try:
        for agency in agencies:
            invented_agencies.install(database, agency, twilio_credentials.TwilioCredentials(secrets_key))
    finally:
        database.close()


@contextmanager
def database_of_its_own(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[Urls]:
    """A migrated, empty database that goes with the context, for fixtures that outlive one test."""
    name = f"faro_stack_{next(_numbers)}"
    postgres.create_database(name, template=migrated_template)
    yield Urls(*(postgres.url(role, name) for role in ("faro_app", "faro_worker", "faro_owner", "postgres")))
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One installation for all tests that leave it as they found it, but for messages and conversations."""
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, tmp_path_factory.mktemp("stack")) as shared,
    ):
        yield shared
        assert miscounted(urls.superuser) == []
