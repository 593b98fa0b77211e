"""What the tests of the embedded PostgreSQL do from outside: ask a server, and be another process."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

REPOSITORY = Path(__file__).parents[2]
ROOT = os.geteuid() == 0

# Starts the server of the folder in argv, says so, and waits to be killed.
SUPERVISE = """
import sys, time
from pathlib import Path
from conversations_api.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.record.server_pid, flush=True)
    time.sleep(600)
"""


def ask(url: str, query: str, **connect_options: object) -> list[tuple[Any, ...]]:
    """Run one statement in a transaction of its own, and return its rows."""
    with closing(psycopg2.connect(url.replace("+psycopg2", ""), **connect_options)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []


def python(
    code: str, *arguments: object, executable: str = sys.executable, path: str = str(REPOSITORY), **options: Any
) -> subprocess.Popen[str]:
    """Another process that runs the code."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    return subprocess.Popen(
        [executable, "-c", code, *map(str, arguments)],
        env=environment | options.pop("env", {}),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run_python(code: str, *arguments: object, **options: Any) -> str:
    process = python(code, *arguments, **options)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


def supervise(data_folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that owns the server of the folder, and the server's process id."""
    supervisor = python(SUPERVISE, data_folder)
    assert supervisor.stdout is not None
    return supervisor, int(supervisor.stdout.readline() or 0)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("did not come true within a minute")
        time.sleep(0.02)
