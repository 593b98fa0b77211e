"""What is measured of requests and of a process itself; `delivery.metrics` has what is measured of messages.

The same rule holds for labels here: operations, methods, statuses and states are closed lists, so nothing that a client
sends can make a series. The edge counts each request, so children are looked up once and kept.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import Counter, Gauge, Histogram

from delivery.metrics import REGISTRY
from persistence import outbox_work, schema
from tenancy.transaction import Database, unbound_transaction

# What the edge calls a request that reached no operation.
NO_OPERATION = "none"
# Where a message of the outbox may stand; the schema says the same.
QUEUE_STATES = ("waiting", "queued", "calling", "unknown", "accepted")
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_REQUESTS = Histogram(
    "faro_http_request_duration_seconds",
    "From the head of a request to its answer, by what was answered; 499 is a client that left.",
    ("operation", "method", "status"),
    buckets=_REQUEST_SECONDS,
    registry=REGISTRY,
)
_SHED = Counter(
    "faro_http_requests_shed_total",
    "Requests that were refused with `overloaded`, because too many were under way.",
    ("operation",),
    registry=REGISTRY,
)
_WAITED = Histogram(
    "faro_http_queue_seconds",
    "How long requests waited for a place to run that did not have one at once, by what came of it.",
    ("outcome",),
    # Who waits for the longest time that there is should be told at once when it is over: hence the bucket behind it.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.05, 2.5),
    registry=REGISTRY,
)
_POOL_IN_USE = Gauge(
    "faro_database_connections_in_use",
    "Connections of the pool that somebody holds at the moment.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_POOL_SIZE = Gauge(
    "faro_database_connections_max",
    "Connections that the pool may open.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
_QUEUE = Gauge(
    "faro_queue_messages",
    "Messages in the outbox. The same for every worker: take the maximum, not the sum.",
    ("state",),
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
_QUEUE_AGE = Gauge(
    "faro_queue_oldest_due_seconds",
    "For how long the one that is due the longest has been due; 0 where none is.",
    ("state",),
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
_QUEUE_SAMPLED = Gauge(
    "faro_queue_sampled_timestamp_seconds",
    "When the outbox was last counted; its gauges stand still while the database cannot be asked.",
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
_BUILD = Gauge(
    "faro_build_info",
    "1, with the release and the schema that it is written for.",
    ("version", "schema"),
    multiprocess_mode="livemax",
    registry=REGISTRY,
)

_SHED.labels(NO_OPERATION)
_observe_admitted, _observe_shed = (_WAITED.labels(outcome).observe for outcome in ("admitted", "shed"))
_observe: dict[tuple[str, str, int], Callable[[float], None]] = {}


def request_ended(operation: str | None, method: str, status: int, seconds: float, problem: str | None) -> None:
    """Count one request; only from the event loop. `operation` and `method` are ours, never the client's words."""
    key = (operation or NO_OPERATION, method, status)
    observe = _observe.get(key)
    if observe is None:
        observe = _observe[key] = _REQUESTS.labels(*key).observe
    observe(seconds)
    if problem == "overloaded":
        _SHED.labels(key[0]).inc()


def waited(seconds: float, *, admitted: bool) -> None:
    """Count one request that stood in a queue; only from the event loop."""
    (_observe_admitted if admitted else _observe_shed)(seconds)


def describe_build() -> None:
    """Say which release this is; in every process that serves metrics."""
    try:
        release = version("faro-conversations")
    except PackageNotFoundError:  # run from a checkout
        release = "not installed"
    _BUILD.labels(release, schema.head() or "none").set(1)


def sample_pool(database: Database) -> None:
    """How much of the pool is in use right now."""
    _POOL_IN_USE.set(database.connections_in_use)
    _POOL_SIZE.set(database.pool_size)


def sample_queue(database: Database) -> None:
    """Count the outbox, as the worker's role. Raises DatabaseUnavailable, and then leaves the gauges as they are."""
    with unbound_transaction(database, read_only=True) as connection:
        found = {row["state"]: row for row in outbox_work.statistics(connection)}
    for state in QUEUE_STATES:
        row = found.get(state, {"count": 0, "oldest_seconds": 0.0})
        _QUEUE.labels(state).set(row["count"])
        _QUEUE_AGE.labels(state).set(max(0.0, row["oldest_seconds"]))
    _QUEUE_SAMPLED.set_to_current_time()
