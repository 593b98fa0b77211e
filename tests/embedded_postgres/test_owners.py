"""One process owns a server, others share it, and none is left without its owner."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from conversations_api.embedded_postgres import DataFolderInUse, EmbeddedPostgres, NotRunning, attach, postgres_files
from tests.embedded_postgres.clients import SUPERVISE, ask, eventually, kill, python, run_python, supervise

SHARE = """
import sys
from pathlib import Path
import psycopg2
from conversations_api.embedded_postgres import attach
connection = psycopg2.connect(attach(Path(sys.argv[1])).owner_url.replace("+psycopg2", ""))
connection.cursor().execute("insert into visitors values (%s)", sys.argv[2:])
connection.commit()
"""


def test_a_second_owner_is_refused_and_the_first_one_unharmed(data_folder: Path) -> None:
    supervisor, server_pid = supervise(data_folder)
    try:
        with pytest.raises(DataFolderInUse, match=f"process {supervisor.pid} already runs PostgreSQL on {data_folder}"):
            EmbeddedPostgres(data_folder).start()
        assert psutil.pid_exists(server_pid)
        assert ask(attach(data_folder).app_url, "select 1") == [(1,)]
    finally:
        kill(supervisor)


def test_a_second_owner_in_the_same_process_is_refused(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        with pytest.raises(DataFolderInUse, match=str(os.getpid())):
            EmbeddedPostgres(data_folder).start()
        assert ask(server.app_url, "select 1") == [(1,)]


def test_of_many_that_start_at_once_one_wins(new_folder: Path) -> None:
    contenders = [python(SUPERVISE, new_folder) for _ in range(4)]
    try:
        eventually(lambda: sum(contender.poll() is None for contender in contenders) == 1)
        losers = [contender for contender in contenders if contender.poll() is not None]
        assert all("DataFolderInUse" in loser.communicate()[1] for loser in losers)
        winner = next(contender for contender in contenders if contender not in losers)
        assert winner.stdout is not None
        assert psutil.pid_exists(int(winner.stdout.readline()))
    finally:
        for contender in contenders:
            kill(contender)


def test_several_processes_share_one_server(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        ask(server.owner_url, "create table visitors (name text)")
        visitors = [python(SHARE, data_folder, name) for name in ("ana", "bia", "caio")]
        assert [visitor.wait(60) for visitor in visitors] == [0, 0, 0]
        assert ask(server.owner_url, "select name from visitors order by 1") == [("ana",), ("bia",), ("caio",)]
        for visitor in visitors:
            visitor.communicate()


def test_nothing_runs_before_the_first_start_and_after_a_stop(new_folder: Path) -> None:
    with pytest.raises(NotRunning):
        attach(new_folder)
    with EmbeddedPostgres(new_folder):
        assert attach(new_folder).record.server_pid > 0
    with pytest.raises(NotRunning):
        attach(new_folder)


def test_the_server_of_a_killed_supervisor_goes_away(data_folder: Path) -> None:
    supervisor, server_pid = supervise(data_folder)
    server_processes = [psutil.Process(server_pid), *psutil.Process(server_pid).children()]

    kill(supervisor)

    eventually(lambda: not any(process.is_running() for process in server_processes))
    with pytest.raises(NotRunning):
        attach(data_folder)


def test_after_a_killed_supervisor_the_next_start_has_all_that_was_committed(data_folder: Path) -> None:
    supervisor, _ = supervise(data_folder)
    ask(attach(data_folder).owner_url, "create table kept as select 1 as number")
    kill(supervisor)

    with EmbeddedPostgres(data_folder) as server:  # at once: the old server may still be on its way out
        assert ask(server.owner_url, "select number from kept") == [(1,)]


def test_a_supervisor_that_nobody_reaps_is_dead_all_the_same(data_folder: Path) -> None:
    supervisor, _ = supervise(data_folder)
    supervisor.kill()
    eventually(lambda: psutil.Process(supervisor.pid).status() == psutil.STATUS_ZOMBIE)

    with EmbeddedPostgres(data_folder) as server:
        assert ask(server.app_url, "select 1") == [(1,)]
    supervisor.communicate()


def test_a_supervisor_killed_during_initdb_leaves_nothing_in_the_way(new_folder: Path) -> None:
    supervisor = python(SUPERVISE, new_folder)
    eventually(lambda: (new_folder / "postgres/cluster.new/PG_VERSION").exists())
    kill(supervisor)
    assert not (new_folder / "postgres/cluster").exists()

    with EmbeddedPostgres(new_folder) as server:
        assert ask(server.app_url, "select 1") == [(1,)]


def test_a_killed_server_recovers(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        ask(server.owner_url, "create table kept as select 1 as number")
        os.kill(server.record.server_pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(server.record.server_pid) or _is_zombie(server.record.server_pid))

    with EmbeddedPostgres(data_folder) as server:
        assert ask(server.owner_url, "select number from kept") == [(1,)]


def test_a_stale_pid_file_that_names_another_programs_process_is_removed(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder) as server:
        pid_file = server.cluster / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
    user, group = postgres_files.server_identity()
    # Of the server's own user: PostgreSQL itself overlooks processes of others, and would refuse to start for this one.
    bystander = subprocess.Popen(["/bin/sleep", "600"], user=user, group=group)
    try:
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        with pytest.raises(NotRunning):
            attach(data_folder)
        with EmbeddedPostgres(data_folder) as server:
            assert ask(server.app_url, "select 1") == [(1,)]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_running_server_that_is_not_ours_is_neither_joined_nor_stopped(data_folder: Path) -> None:
    copy = data_folder / "copy"
    with EmbeddedPostgres(data_folder) as server:
        copy.mkdir()
        record = (data_folder / "postgres.json").read_text()
        (copy / "postgres.json").write_text(record.replace('"postgres"', f'"{server.home}"', 1))
        with pytest.raises(DataFolderInUse, match=f"process {server.record.server_pid}, started by other means"):
            EmbeddedPostgres(copy).start()
        assert ask(server.app_url, "select 1") == [(1,)]


def test_a_terminals_interrupt_does_not_reach_the_server(server: EmbeddedPostgres) -> None:
    assert os.getpgid(server.record.server_pid) != os.getpgid(0)


def test_a_forked_child_does_not_keep_the_folder_locked(data_folder: Path) -> None:
    with EmbeddedPostgres(data_folder):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with EmbeddedPostgres(data_folder) as server:
            assert ask(server.app_url, "select 1") == [(1,)]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_ephemeral_server_of_a_killed_test_run_is_cleared_away_later(new_folder: Path) -> None:
    new_folder.mkdir()
    abandon = """
import os, signal
from conversations_api.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres.ephemeral(fsync=False).start()
os.utime(server.data_folder, (0, 0))
print(server.data_folder, server.home, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = python(abandon, env={"TMPDIR": str(new_folder)})
    left = [Path(folder) for folder in killed.communicate()[0].split()]
    assert [folder.exists() for folder in left] == [True, True]

    tidy = "from conversations_api.embedded_postgres import EmbeddedPostgres\nEmbeddedPostgres.ephemeral().stop()"
    run_python(tidy, env={"TMPDIR": str(new_folder)})

    assert [folder.exists() for folder in left] == [False, False]
    assert list(new_folder.iterdir()) == []


def _is_zombie(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
