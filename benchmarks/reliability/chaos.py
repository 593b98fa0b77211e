"""Kills and stops processes at random, by seeded dice, in proportion to the traffic."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil

from benchmarks.reliability.installation import GRACE_SECONDS, Installation

# How often each is meant, relative to the others.
WEIGHTS = {
    "worker killed": 30,
    "worker stopped": 6,
    "API process killed": 20,
    "API process stopped": 6,
    "database session killed": 34,
    "database crashed": 3,
    "postmaster killed": 1,
}


class Chaos:
    """Strikes from the main thread, which alone may start PostgreSQL anew; `struck` counts what it did."""

    def __init__(self, installation: Installation, *, seed: int) -> None:
        self.struck: Counter[str] = Counter()
        self._installation = installation
        self._dice = random.Random(seed)
        self._wakers: list[threading.Timer] = []

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.struck.items() if not name.endswith("stopped"))

    def strike(self) -> None:
        """One blow."""
        blows: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "worker stopped": lambda: self._stop(self._installation.workers, 1.5 * GRACE_SECONDS),
            "API process killed": self._kill_api_process,
            "API process stopped": lambda: self._stop(self._installation.api_processes(), 1.0),
            "database session killed": lambda: self._kill_session(signal.SIGTERM),
            "database crashed": lambda: self._kill_session(signal.SIGKILL),
            "postmaster killed": self._kill_postmaster,
        }
        (name,) = self._dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if blows[name]():
            self.struck[name] += 1

    def end(self) -> None:
        """Wake whoever sleeps, and see that everything runs."""
        for waker in self._wakers:
            waker.join()
        for pid in list(self._installation.workers):
            if not psutil.pid_exists(pid):
                self._installation.workers.remove(pid)
                self._installation.start_worker()
        self._installation.wait_until_ready()

    def _kill_worker(self) -> bool:
        pid = self._dice.choice(self._installation.workers)
        self._installation.workers.remove(pid)
        killed = _signal(pid, signal.SIGKILL)
        self._installation.start_worker()
        return killed

    def _kill_api_process(self) -> bool:
        """Its master starts another one. The last one is left: a master whose processes all end at once gives up."""
        pids = self._installation.api_processes()
        return len(pids) > 1 and _signal(self._dice.choice(pids), signal.SIGKILL)

    def _stop(self, pids: list[int], most_seconds: float) -> bool:
        if not pids:
            return False
        pid = self._dice.choice(pids)
        waker = threading.Timer(self._dice.uniform(0.1, most_seconds), _signal, (pid, signal.SIGCONT))
        self._wakers.append(waker)
        stopped = _signal(pid, signal.SIGSTOP)
        waker.start()
        return stopped

    def _kill_session(self, number: int) -> bool:
        """SIGTERM ends one session; SIGKILL makes PostgreSQL end all of them and recover."""
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._installation.postgres.record.server_pid)
            sessions = [child.pid for child in postmaster.children() if "faro_" in " ".join(child.cmdline())]
            return bool(sessions) and _signal(self._dice.choice(sessions), number)
        return False

    def _kill_postmaster(self) -> bool:
        killed = _signal(self._installation.postgres.record.server_pid, signal.SIGKILL)
        time.sleep(self._dice.uniform(0.0, 1.0))
        self._installation.postgres.stop()
        self._installation.postgres.start()
        return killed


def _signal(pid: int, number: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
