"""What the figures were measured on: processor, memory, versions, date. No name of the machine and no path on it."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.peers import pgbench
from benchmarks.performance import data_set
from benchmarks.performance.servers import NODE_FOLDER
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

LIBRARIES = ("connexion", "flask", "gunicorn", "psycopg2-binary", "sqlalchemy", "uvicorn")
PEERS = ("fastapi", "asyncpg", "pydantic", "uvloop", "httptools")


def describe(postgres: Postgres) -> dict[str, str]:
    """In the order in which the report tells it."""
    version = data_set.query(postgres, "postgres", "show server_version")[0][0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load before the run": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        "PostgreSQL": f"{version}, shared_buffers {data_set.SHARED_BUFFERS}, otherwise as the demo's",
        "libraries": _versions(LIBRARIES),
        "of the peers": ", ".join(filter(None, (_versions(PEERS), _postgraphile()))),
        "tools": ", ".join(filter(None, (_wrk(), _pgbench()))),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _versions(names: tuple[str, ...]) -> str:
    installed = []
    for name in names:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(installed)


def _postgraphile() -> str:
    package = NODE_FOLDER / "node_modules/postgraphile/package.json"
    if not package.is_file() or shutil.which("node") is None:
        return ""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"postgraphile {json.loads(package.read_text(encoding='utf-8'))['version']} on Node {node}"


def _wrk() -> str:
    if shutil.which("wrk") is None:
        return ""
    # It says its version only together with its usage, and calls that a failure.
    said = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"wrk (\S+)", said)
    return f"wrk {found[1]}" if found else "wrk"


def _pgbench() -> str:
    program = pgbench.binary()
    if program is None:
        return ""
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+", said)
    return f"pgbench {found[0]}" if found else "pgbench"
