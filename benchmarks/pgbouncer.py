"""PgBouncer in transaction pooling in front of one database, for as long as a test or a run needs it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy

# Debian keeps it out of an ordinary user's PATH.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
_START_SECONDS = 10

_CONFIGURATION = """
[databases]
{database} = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {server_connections}
max_client_conn = 200
logfile = {folder}/pgbouncer.log
log_connections = 0
log_disconnections = 0
"""


@contextmanager
def running(database_url: str, *, server_connections: int) -> Iterator[str]:
    """The URL of the same database and role through a pooler that has only this many connections to give out."""
    with running_with_log(database_url, server_connections=server_connections) as (url, _):
        yield url


@contextmanager
def running_with_log(database_url: str, *, server_connections: int) -> Iterator[tuple[str, Path]]:
    """The same, with the file that the pooler logs to."""
    if PROGRAM is None:
        raise RuntimeError("pgbouncer is not installed")
    url = sqlalchemy.make_url(database_url)
    folder = Path(tempfile.mkdtemp(prefix="faro-pgbouncer-"))
    listen_port = _free_port()
    (folder / "users.txt").write_text(f'"{url.username}" "{url.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        _CONFIGURATION.format(
            database=url.database,
            host=url.host,
            port=url.port,
            listen_port=listen_port,
            folder=folder,
            server_connections=server_connections,
        )
    )
    # It refuses to run as root.
    identity = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if identity:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "nobody")
    process = subprocess.Popen(
        [PROGRAM, "--quiet", str(folder / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        **identity,  # type: ignore[call-overload]
    )
    try:
        _wait_until_it_listens(process, listen_port)
        pooled_url = url.set(host="127.0.0.1", port=listen_port).render_as_string(hide_password=False)
        yield pooled_url, folder / "pgbouncer.log"
    finally:
        process.terminate()
        process.wait(_START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("pgbouncer did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
