"""Our server as its users start it, and the peers: the same processes, threads, connections, rows and tokens."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx

from benchmarks.performance import data_set
from benchmarks.performance.data_set import ROOT
from conversations_api import addresses, child_processes
from conversations_api.child_processes import Child
from conversations_api.embedded_postgres.running_postgres import Server as Postgres
from tenancy import authentication, twilio_credentials

ISSUER, AUDIENCE = "https://login.example.com", "faro"
AUTH_TOKEN = "0123456789abcdef" * 2  # of an account that only the simulator knows
PROCESSES = 2
THREADS = 10
# For everything that is asked without being timed: a client is slow to make.
HTTP = httpx.Client(timeout=30, trust_env=False)
START_SECONDS = 60.0
STOP_SECONDS = 20.0

OURS = "ours"
FLASK = "bare Flask"
FASTAPI = "FastAPI"
CONNEXION = "Connexion as documented"
POSTGRAPHILE = "PostGraphile"
HTTP_PEERS = (FLASK, FASTAPI, CONNEXION, POSTGRAPHILE)
NODE_FOLDER = ROOT / "benchmarks/peers/postgraphile"


class ServerDidNotStart(Exception):
    """A server does not answer; the message names its log."""


@dataclass(frozen=True)
class Keys:
    """The issuer's key pair, made for one run."""

    private: str
    public: str

    def token(self, agency_id: UUID | str) -> str:
        return authentication.sign_token(
            self.private,
            issuer=ISSUER,
            audience=AUDIENCE,
            user_id="user_1",
            agency_id=UUID(str(agency_id)),
            role="staff",
            lifetime=timedelta(hours=12),
        )


@dataclass(frozen=True)
class Running:
    """A server that answers. `pid` is the root of its process tree."""

    name: str
    port: int
    child: Child

    @property
    def pid(self) -> int:
        return self.child.process.pid

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def make_keys() -> Keys:
    return Keys(*authentication.generate_key_pair())


def why_not(name: str) -> str | None:
    """What this machine lacks to run the peer, or None."""
    if name == POSTGRAPHILE and shutil.which("node") is None:
        return "Node 20 or newer is needed (Debian: nodejs)"
    if name == POSTGRAPHILE and not (NODE_FOLDER / "node_modules").is_dir():
        return f"npm ci --prefix {NODE_FOLDER.relative_to(ROOT)}"
    if name == FASTAPI:
        try:
            import asyncpg  # noqa: F401
            import fastapi  # noqa: F401
        except ImportError:
            return "pip install 'faro-conversations[bench]'"
    return None


@contextmanager
def running(
    names: Sequence[str], postgres: Postgres, database: str, keys: Keys, folder: Path, **variables: str
) -> Iterator[dict[str, Running]]:
    """All of them at once, ready; `variables` are further settings of ours. `folder` gets their logs."""
    with ExitStack() as stack:
        started = {}
        for name in names:
            started[name] = _start(name, postgres, database, keys, folder, variables)
            stack.callback(child_processes.stop, [started[name].child], seconds=STOP_SECONDS)
        for server in started.values():
            _wait(server)
        yield started


def our_environment(postgres: Postgres, database: str, keys: Keys, port: int) -> dict[str, str]:
    """The settings of an installation; every one that is not named here is its default."""
    return {
        "DATABASE_URL": postgres.url("faro_app", database),
        "WORKER_DATABASE_URL": postgres.url("faro_worker", database),
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_PUBLIC_KEY": keys.public,
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
        "SECRETS_KEY": twilio_credentials.generate_key(),
        "TWILIO_ACCOUNT_SID": data_set.ACCOUNT_SID,
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WEB_CONCURRENCY": str(PROCESSES),
        "HANDLER_THREADS": str(THREADS),
        # Whoever measures wants more than an agency is given.
        "RATE_LIMIT_REQUESTS_PER_MINUTE": "0",
        "RATE_LIMIT_SENDS_PER_MINUTE": "0",
    }


def _start(
    name: str, postgres: Postgres, database: str, keys: Keys, folder: Path, variables: Mapping[str, str]
) -> Running:
    port = addresses.free_port()
    if name == OURS:
        environment = our_environment(postgres, database, keys, port) | dict(variables)
        command = [sys.executable, "-m", "conversations_api", "serve"]
    else:
        environment = _peer_environment(postgres, database, keys, port)
        command = _peer_command(name, port)
    log_path = folder / f"{name.lower().replace(' ', '-')}.log"
    child = child_processes.start(name, command, environment=environment, log_path=log_path)
    return Running(name, port, child)


def _peer_environment(postgres: Postgres, database: str, keys: Keys, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "PEER_DSN": data_set.dsn(postgres, "faro_app", database),
        "PEER_POOL_SIZE": str(THREADS),
        "PEER_PROCESSES": str(PROCESSES),
        "PORT": str(port),
        "JWT_PUBLIC_KEY": keys.public,
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        # What Node's libraries look at to leave out checks that are for development.
        "NODE_ENV": "production",
        "GRAPHILE_ENV": "production",
    }


def _peer_command(name: str, port: int) -> list[str]:
    gunicorn = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(PROCESSES)]
    gunicorn += ["--keep-alive", "75", "--no-control-socket"]
    if name == FLASK:
        return [*gunicorn, "--worker-class", "gthread", "--threads", str(THREADS), "benchmarks.peers.bare_flask:app"]
    if name == CONNEXION:
        worker = ["--worker-class", "uvicorn.workers.UvicornWorker"]
        return [*gunicorn, *worker, "benchmarks.peers.connexion_documented:app"]
    if name == FASTAPI:
        uvicorn = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
        uvicorn += ["--workers", str(PROCESSES), "--no-access-log", "--loop", "uvloop", "--http", "httptools"]
        return [*uvicorn, "benchmarks.peers.fastapi_asyncpg:app"]
    return ["node", str(NODE_FOLDER / "server.mjs")]


def _wait(server: Running) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not server.child.has_ended:
        with suppress(httpx.HTTPError):
            # Any answer will do: without a token it is a refusal.
            HTTP.get(f"{server.base_url}/api/v1/conversations", timeout=5)
            return
        time.sleep(0.05)
    raise ServerDidNotStart(f"{server.name} did not start: {_tail(server.child.log_path)}")


def _tail(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[-1500:]
    return "it wrote nothing"
