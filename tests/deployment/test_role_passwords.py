"""The script that gives a new installation's database roles their passwords."""

import os
import pathlib
import subprocess
from collections.abc import Iterator

import psycopg2
import pytest

from conversations_api.embedded_postgres import EmbeddedPostgres, postgres_files

SCRIPT = pathlib.Path(__file__).parents[2] / "deploy/role_passwords.sql"
PASSWORDS = {"faro_owner": 'owner\'s "own"', "faro_app": "5f0c1d", "faro_worker": "$w0rd :app"}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres.ephemeral(fsync=False) as running:
        yield running


def run_script(server: EmbeddedPostgres, passwords: dict[str, str]) -> subprocess.CompletedProcess[str]:
    given = {f"FARO_{role.removeprefix('faro_').upper()}_PASSWORD": word for role, word in passwords.items()}
    psql = postgres_files.wheel_folder() / "bin/psql"
    command = [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={SCRIPT}", plain(server.superuser_url)]
    return subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg2:", "postgresql:")


def log_in(server: EmbeddedPostgres, role: str, password: str) -> str:
    connection = psycopg2.connect(plain(server.app_url), user=role, password=password)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select current_user")
            return str(cursor.fetchone()[0])
    finally:
        connection.close()


def test_each_role_logs_in_with_its_own_password_afterwards_and_with_no_other(server: EmbeddedPostgres) -> None:
    result = run_script(server, PASSWORDS)
    assert (result.returncode, result.stderr) == (0, "")
    assert {role: log_in(server, role, password) for role, password in PASSWORDS.items()} == {r: r for r in PASSWORDS}
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        log_in(server, "faro_owner", PASSWORDS["faro_app"])


def test_a_missing_password_changes_none_at_all(server: EmbeddedPostgres) -> None:
    assert run_script(server, PASSWORDS).returncode == 0
    assert run_script(server, {"faro_owner": "x1", "faro_app": "x2"}).returncode != 0
    assert {role: log_in(server, role, password) for role, password in PASSWORDS.items()} == {r: r for r in PASSWORDS}
