"""Child processes that do not outlive the one that started them, and that are stopped in order.

On Linux the kernel signals a child when its parent dies, however it dies. Elsewhere there is no such signal: children
of a killed parent run on until somebody stops them.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec nothing may be imported or allocated that another thread could hold.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass
class Child:
    """A running program of ours; `log_path` holds what it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None


def die_with(parent: int) -> None:
    """Have this process end by SIGTERM when its parent, whose id is given, dies. Call it right after the fork."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            os._exit(1)


def start(name: str, command: Sequence[str], *, environment: Mapping[str, str], log_path: Path) -> Child:
    """Start a program in a session of its own, so that a terminal's Ctrl-C reaches the parent only.

    Only from the main thread: the kernel's signal comes when the thread ends that started the child.
    """
    parent = os.getpid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: die_with(parent),
        )
    finally:
        os.close(log)
    return Child(name, process, log_path)


def stop(children: Sequence[Child], *, seconds: float) -> None:
    """Ask all of them to stop and wait; what is left after the time is killed."""
    for child in children:
        if not child.has_ended:
            child.process.terminate()
    deadline = time.monotonic() + seconds
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
            continue
        # The whole session: a killed gunicorn master would leave its processes to notice for themselves.
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
