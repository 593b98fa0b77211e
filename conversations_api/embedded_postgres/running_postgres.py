"""A running embedded PostgreSQL, as every process sees it that may read the data folder: its URLs and its databases.

SQL runs through the wheel's psql: `persistence/roles.sql` is the same file for operators and for the embedded server.
"""

import importlib.resources
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conversations_api.embedded_postgres import postgres_files, postgres_lock
from conversations_api.embedded_postgres.postgres_files import EmbeddedPostgresError

DATABASE = "faro"
ROLES = ("postgres", "faro_owner", "faro_app", "faro_worker")


class NotRunning(EmbeddedPostgresError):
    """No server runs on this data folder."""


@dataclass(frozen=True)
class Record:
    """What `postgres.json` says; `server_pid` is 0 while the server is down or not ready."""

    home: str
    port: int
    socket_folder: str
    server_pid: int
    passwords: dict[str, str]


class Server:
    """Use `attach` to get one, or own one as an EmbeddedPostgres."""

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder.resolve()

    @property
    def app_url(self) -> str:
        return self.url("faro_app")

    @property
    def worker_url(self) -> str:
        return self.url("faro_worker")

    @property
    def owner_url(self) -> str:
        return self.url("faro_owner")

    @property
    def superuser_url(self) -> str:
        return self.url("postgres")

    def url(self, role: str, database: str = DATABASE) -> str:
        """The SQLAlchemy URL for one of ROLES."""
        record = self.record
        return f"postgresql+psycopg2://{role}:{record.passwords[role]}@127.0.0.1:{record.port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database with the owner and grants of `faro`, as a copy of `template` where one is given.

        Nobody may be connected to the template meanwhile. A database that exists is kept.
        """
        self.psql(roles_sql(), database=name, template=template or "template0")

    def drop_database(self, name: str) -> None:
        """Drop a database and whoever is connected to it; one that does not exist is no error."""
        self.psql('drop database if exists :"database" with (force);', database=name)

    @property
    def record(self) -> Record:
        try:
            return Record(**json.loads((self.data_folder / "postgres.json").read_text()))
        except FileNotFoundError:
            raise NotRunning(f"no PostgreSQL was ever started on {self.data_folder}") from None
        except PermissionError:
            raise EmbeddedPostgresError(f"the database in {self.data_folder} belongs to another user") from None

    @property
    def home(self) -> Path:
        """The folder with the server's files; recorded relative to the data folder where it lies inside."""
        return self.data_folder / self.record.home

    @property
    def cluster(self) -> Path:
        return self.home / "cluster"

    def psql(self, script: str, **variables: str) -> None:
        """Run a script as the superuser, in the database postgres, with psql variables."""
        record = self.record
        server = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(record.port),
            "PGDATABASE": "postgres",
            "PGCLIENTENCODING": "UTF8",
        }
        login = {"PGUSER": "postgres", "PGPASSWORD": record.passwords["postgres"]}
        options = [f"--set={name}={value}" for name, value in variables.items()]
        result = subprocess.run(
            [
                postgres_files.wheel_folder() / "bin/psql",
                "-Xqw",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=terse",
                *options,
            ],
            input=script.encode(),
            capture_output=True,
            env=postgres_files.ENVIRONMENT | server | login,
            check=False,
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"psql: {result.stderr.decode(errors='replace').strip()}")


def attach(data_folder: Path) -> Server:
    """The server that another process runs on this data folder. Raises NotRunning."""
    server = Server(data_folder)
    if server.record.server_pid == 0 or server.record.server_pid != postgres_lock.postmaster_of(server.cluster):
        raise NotRunning(f"no PostgreSQL is running on {server.data_folder}")
    return server


def roles_sql() -> str:
    return importlib.resources.files("persistence").joinpath("roles.sql").read_text(encoding="utf-8")
