"""The oldest PostgreSQL that this release supports, 15, from Debian's packages, for as long as the tests need it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

BINARIES = Path("/usr/lib/postgresql/15/bin")
ROLES_FILE = Path(__file__).parents[2] / "persistence/roles.sql"
_PASSWORD = "nobody-else-reaches-this-port"
_START_SECONDS = 30


class DebianPostgres:
    """Serves what the tests need of the embedded server: databases with the roles of persistence/roles.sql."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="faro-postgres-15-"))
        self._folder.chmod(0o755)
        self._cluster = self._folder / "cluster"
        self._cluster.mkdir(mode=0o700)
        password = self._folder / "password"
        password.write_text(_PASSWORD)
        # PostgreSQL refuses to run as root.
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._identity = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for path in (self._folder, self._cluster, password):
                shutil.chown(path, "nobody")
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username=postgres", "--no-sync"]
        self._run("initdb", "-D", str(self._cluster), f"--pwfile={password}", *options)
        self._port = _free_port()
        settings = {
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "log_min_messages": "panic",
        }
        self._process = subprocess.Popen(
            [BINARIES / "postgres", "-D", self._cluster, *(f"--{name}={value}" for name, value in settings.items())],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            **self._identity,
        )
        self._wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, role: str, database: str) -> str:
        return f"postgresql+psycopg2://{role}:{_PASSWORD}@127.0.0.1:{self._port}/{database}"

    def create_database(self, name: str) -> None:
        roles = ("faro_owner", "faro_app", "faro_worker")
        passwords = "".join(f"alter role {role} password '{_PASSWORD}';\n" for role in roles)
        self._psql(ROLES_FILE.read_text() + passwords, f"--set=database={name}")

    def drop_database(self, name: str) -> None:
        self._psql(f"drop database {name} with (force)")

    def _psql(self, script: str, *options: str) -> None:
        environment = {"PGPASSWORD": _PASSWORD, "PGHOST": "127.0.0.1", "PGPORT": str(self._port), "PGUSER": "postgres"}
        self._run("psql", "-Xqw", "--set=ON_ERROR_STOP=1", *options, input=script.encode(), env=environment)

    def _run(self, program: str, *arguments: str, **options: Any) -> None:
        subprocess.run(
            [BINARIES / program, *arguments], check=True, capture_output=True, cwd="/", **self._identity, **options
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            check = [BINARIES / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
            if subprocess.run(check, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL 15 did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
