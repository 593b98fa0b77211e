"""Starts `serve` and `worker` in forks of a process that has imported them: a start costs no second of imports.

Thousands of processes are killed in a run, and the imports of their successors would be most of what the machine does.
Each fork runs the same function as the command line does. One line of JSON in, one process id out.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from conversations_api import child_processes, serving, settings, working


class ForkServer:
    """The starter, as the rig sees it; safe between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reliability.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "fork_server.log").open("ab"),
            text=True,
            start_new_session=True,
        )

    def start(self, command: str, environment: Mapping[str, str]) -> int:
        """The process id of a new `serve` or `worker`; its log is added to the file of that name."""
        order = {"command": command, "environment": environment, "log": str(self._folder / f"{command}.log")}
        with self._turn:
            orders, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
            orders.write(json.dumps(order) + "\n")
            orders.flush()
            return int(answers.readline())

    def stop(self) -> None:
        """End the starter; what it started is asked to end by the kernel."""
        self._process.kill()
        self._process.wait()


def _run(command: str, environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY), (2, log, os.O_WRONLY)):
        os.dup2(os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o600), stream)
    {"serve": serving.serve, "worker": working.work}[command](settings.read(command, environment))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    starter = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child_processes.die_with(starter)
                _run(**order)
                code = 0
            finally:
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
