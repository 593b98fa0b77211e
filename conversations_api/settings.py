"""What can be configured: the only reader of the environment.

A setting that is missing or weak stops the start with a message that names the variable and never its value;
all that is wrong is said at once.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from tenancy import authentication, rate_limits, transaction, twilio_credentials

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class SettingsError(Exception):
    """The configuration is not usable; the message names each variable that is missing or wrong."""


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value.strip()


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(value)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value) or not least <= float(value) <= most:
            raise ValueError(f"must be a number of seconds from {least:g} to {most:g}")
        return float(value)

    return parse


def _boolean(value: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _database_url(value: str) -> str:
    transaction.driver_url(value)
    return value


def _web_url(value: str) -> str:
    """https, or http on this machine; no user, query or fragment, and no underscore, which Twilio refuses."""
    parts = urlsplit(value)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("must have a port from 0 to 65535, or none") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS):
        raise ValueError("must be an https URL (http only for localhost)")
    if not parts.hostname or "_" in parts.hostname:
        raise ValueError("must have a host name without an underscore")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, query or fragment")
    return value.rstrip("/")


def _collector_url(value: str) -> str:
    """http too: collectors usually run beside the service, and what they are sent names nobody."""
    parts = urlsplit(value)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("must have a port from 0 to 65535, or none") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return value


def _public_key(value: str) -> str:
    pem = value.replace("\\n", "\n")
    authentication.check_public_key(pem)
    return pem


def _secrets_key(value: str) -> str:
    twilio_credentials.check_keys(value)
    return value


def _account_sid(value: str) -> str:
    if not re.fullmatch(r"AC[0-9a-f]{32}", value):
        raise ValueError("must be AC and 32 hexadecimal digits")
    return value


def _storage_url(value: str) -> str:
    rate_limits.check_storage_url(value)
    return value


def _auth_token(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{32,}", value):
        raise ValueError("must have at least 32 characters")
    return value


def _words(value: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in value.split(",")) if word)


def _origins(value: str) -> tuple[str, ...]:
    origins = _words(value)
    for origin in origins:
        if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?", origin):
            raise ValueError("must be origins such as https://inbox.example.com, separated by commas")
    return origins


def _log_level(value: str) -> str:
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()


def _setting(
    variable: str, parse: Callable[[str], Any], *, needed_by: str = "", read_by: str = "", default: Any = None
) -> Any:
    """`needed_by` names the commands that do not start without it, `read_by` those that do and use it."""
    commands = {"needed_by": needed_by.split(), "read_by": read_by.split()}
    return field(default=default, metadata={"variable": variable, "parse": parse, **commands})


@dataclass(frozen=True)
class Settings:
    """The configuration of one process; docs/operations.md describes each variable."""

    database_url: str = _setting("DATABASE_URL", _database_url, needed_by="serve")
    worker_database_url: str = _setting("WORKER_DATABASE_URL", _database_url, needed_by="worker")
    migration_database_url: str = _setting("MIGRATION_DATABASE_URL", _database_url, needed_by="migrate redact")
    jwt_issuer: str = _setting("JWT_ISSUER", _text, needed_by="serve")
    jwt_audience: str = _setting("JWT_AUDIENCE", _text, needed_by="serve")
    jwt_jwks_url: str | None = _setting("JWT_JWKS_URL", _web_url, read_by="serve")
    jwt_public_key: str | None = _setting("JWT_PUBLIC_KEY", _public_key, read_by="serve")
    jwt_authorized_parties: tuple[str, ...] = _setting("JWT_AUTHORIZED_PARTIES", _words, read_by="serve", default=())
    public_base_url: str = _setting("PUBLIC_BASE_URL", _web_url, needed_by="serve worker")
    secrets_key: str = _setting("SECRETS_KEY", _secrets_key, needed_by="serve worker redact")
    twilio_account_sid: str | None = _setting("TWILIO_ACCOUNT_SID", _account_sid, read_by="serve worker redact")
    twilio_auth_token: str | None = _setting("TWILIO_AUTH_TOKEN", _auth_token, read_by="serve worker redact")
    twilio_previous_auth_token: str | None = _setting("TWILIO_PREVIOUS_AUTH_TOKEN", _auth_token, read_by="serve")
    twilio_base_url: str = _setting(
        "TWILIO_BASE_URL", _web_url, read_by="serve worker redact", default="https://api.twilio.com"
    )
    twilio_validity_seconds: int = _setting(
        "TWILIO_VALIDITY_SECONDS", _integer(1, 36_000), read_by="worker", default=3600
    )
    send_connect_timeout_seconds: float = _setting(
        "SEND_CONNECT_TIMEOUT_SECONDS", _seconds(0.1, 30), read_by="worker redact", default=3.0
    )
    send_deadline_seconds: float = _setting(
        "SEND_DEADLINE_SECONDS", _seconds(0.2, 60), read_by="worker redact", default=15.0
    )
    send_concurrency: int = _setting("SEND_CONCURRENCY", _integer(1, 256), read_by="worker", default=64)
    reconcile_grace_seconds: float = _setting(
        "RECONCILE_GRACE_SECONDS", _seconds(0.5, 3600), read_by="worker", default=60.0
    )
    reconcile_hold_seconds: float = _setting(
        "RECONCILE_HOLD_SECONDS", _seconds(1, 86_400), read_by="worker", default=900.0
    )
    reconcile_interval_seconds: float = _setting(
        "RECONCILE_INTERVAL_SECONDS", _seconds(0.2, 3600), read_by="worker", default=60.0
    )
    status_poll_seconds: float = _setting("STATUS_POLL_SECONDS", _seconds(0.2, 3600), read_by="worker", default=180.0)
    inbound_check_seconds: float = _setting(
        "INBOUND_CHECK_SECONDS", _seconds(0.2, 3600), read_by="worker", default=120.0
    )
    host: str = _setting("HOST", _text, read_by="serve", default="0.0.0.0")  # noqa: S104  # a container serves all
    port: int = _setting("PORT", _integer(1, 65_535), read_by="serve", default=8080)
    processes: int = _setting("WEB_CONCURRENCY", _integer(1, 64), read_by="serve", default=2)
    handler_threads: int = _setting("HANDLER_THREADS", _integer(2, 64), read_by="serve", default=10)
    serve_docs: bool = _setting("SERVE_DOCS", _boolean, read_by="serve", default=False)
    cors_allowed_origins: tuple[str, ...] = _setting("CORS_ALLOWED_ORIGINS", _origins, read_by="serve", default=())
    rate_limit_requests_per_minute: int = _setting(
        "RATE_LIMIT_REQUESTS_PER_MINUTE", _integer(0, 10_000_000), read_by="serve", default=6000
    )
    rate_limit_sends_per_minute: int = _setting(
        "RATE_LIMIT_SENDS_PER_MINUTE", _integer(0, 10_000_000), read_by="serve", default=1200
    )
    rate_limit_storage_url: str | None = _setting("RATE_LIMIT_STORAGE_URL", _storage_url, read_by="serve")
    log_level: str = _setting("LOG_LEVEL", _log_level, read_by="serve worker migrate redact", default="INFO")
    metrics_host: str = _setting("METRICS_HOST", _text, read_by="serve worker", default="127.0.0.1")
    metrics_port: int | None = _setting("METRICS_PORT", _integer(1, 65_535), read_by="serve worker")
    # Whether to trace at all. The OpenTelemetry SDK reads this and its other variables itself.
    trace_collector: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", _collector_url, read_by="serve worker")


VARIABLES = tuple(setting.metadata["variable"] for setting in fields(Settings))


def read(command: str, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that `command` (serve, worker, migrate or redact) runs with. Raises SettingsError."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for setting in fields(Settings):
        variable, given = setting.metadata["variable"], environment.get(setting.metadata["variable"], "")
        if given:
            try:
                values[setting.name] = setting.metadata["parse"](given)
            except ValueError as error:
                wrong.append(f"{variable} {error}")
        elif command in setting.metadata["needed_by"]:
            wrong.append(f"{variable} is not set")
    settings = Settings(**values)
    wrong += _contradictions(command, environment)
    if command == "serve" and settings.metrics_port == settings.port:
        wrong.append("METRICS_PORT must not be PORT: metrics are not for the public")
    if command == "worker":
        wrong += _impatience(settings)
    if wrong:
        raise SettingsError("; ".join(wrong))
    return settings


def inherited_environment() -> dict[str, str]:
    """The environment that child processes of the demo start from."""
    return dict(os.environ)


def share_metrics(folder: str) -> None:
    """Have prometheus_client, when it is imported, keep what is counted in files that other processes can read."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder


def _contradictions(command: str, environment: Mapping[str, str]) -> list[str]:
    given = {variable for variable in VARIABLES if environment.get(variable)}
    wrong = []
    if command == "serve" and len(given & {"JWT_JWKS_URL", "JWT_PUBLIC_KEY"}) != 1:
        wrong.append("exactly one of JWT_JWKS_URL and JWT_PUBLIC_KEY must be set")
    if len(given & {"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"}) == 1:
        wrong.append("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN must be set together")
    return wrong


def _impatience(settings: Settings) -> list[str]:
    """What would let one worker conclude that a message was not sent while another one may still be sending it."""
    wrong = []
    if settings.send_connect_timeout_seconds > settings.send_deadline_seconds:
        wrong.append("SEND_DEADLINE_SECONDS must not be less than SEND_CONNECT_TIMEOUT_SECONDS")
    if settings.reconcile_grace_seconds <= settings.send_deadline_seconds:
        wrong.append("RECONCILE_GRACE_SECONDS must be more than SEND_DEADLINE_SECONDS")
    if settings.reconcile_hold_seconds < settings.reconcile_grace_seconds + 2 * settings.reconcile_interval_seconds:
        wrong.append("RECONCILE_HOLD_SECONDS must leave time for RECONCILE_GRACE_SECONDS and two intervals")
    return wrong
