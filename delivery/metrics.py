"""What is measured of messages on their way, wherever it becomes known: in the worker, a webhook or the reconciler.

No label holds what a customer, an agency or a message is called: each takes its values from a short, closed list. So a
page of metrics tells nothing about anybody, and the number of series is bounded whatever arrives.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from delivery.outcomes import Accepted, NotProcessed, Outcome, Rejected, Unknown

# Everything that we measure, the metrics of conversations_api included, and nothing that a library adds by itself.
REGISTRY = CollectorRegistry()
# Processes that share their metrics have none of these series, so nobody shall.
disable_created_metrics()  # type: ignore[no-untyped-call]

OUTCOMES: dict[type, str] = {
    Accepted: "accepted",
    Rejected: "rejected",
    NotProcessed: "not_processed",
    Unknown: "unknown",
}
# What a look at one message can come to; the words of the log.
LOOKS = (
    "found_at_carrier",
    "listing_unavailable",
    "never_confirmed",
    "poison_message",
    "resending",
    "unconfirmed",
    "worker_ended_during_call",
)
# Where the errors of sending mostly are: accounts and requests, messages, their delivery, channels.
CODE_CLASSES = ("20xxx", "21xxx", "30xxx", "63xxx")
SOURCES = ("webhook", "reconciler")
# Why a report of the carrier's moved no message; the words of the log.
NOT_APPLIED = ("unknown_agency", "unknown_message", "unknown_status")
_CALL_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 15, 30, 60)
_LAG_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)

_SENDS = Counter(
    "faro_sends_total",
    "Calls of the carrier that were to send a message, by what they came to.",
    ("outcome", "code_class"),
    registry=REGISTRY,
)
_SEND_SECONDS = Histogram(
    "faro_send_duration_seconds",
    "How long those calls took.",
    ("outcome",),
    buckets=_CALL_SECONDS,
    registry=REGISTRY,
)
_DUPLICATES = Counter(
    "faro_duplicates_detected_total", "Messages that the carrier turned out to have taken twice.", registry=REGISTRY
)
_RESULTS = Counter(
    "faro_reconciler_results_total",
    "What looking after messages whose fate was unknown or not yet final came to.",
    ("result",),
    registry=REGISTRY,
)
_INBOUND = Counter(
    "faro_inbound_messages_total",
    "Messages of contacts, by who brought them; repeated ones were here already.",
    ("source", "repeated"),
    registry=REGISTRY,
)
_CALLBACK_LAG = Histogram(
    "faro_callback_lag_seconds",
    "From the call of the carrier to its report of this status.",
    ("status",),
    buckets=_LAG_SECONDS,
    registry=REGISTRY,
)
_REPORTS_NOT_APPLIED = Counter(
    "faro_reports_not_applied_total",
    "Reports of the carrier that could be applied to no message, by why.",
    ("reason",),
    registry=REGISTRY,
)
_HEARTBEAT = Gauge(
    "faro_worker_heartbeat_timestamp_seconds",
    "When the worker last said that it works; 0 before the first time.",
    multiprocess_mode="livemax",
    registry=REGISTRY,
)

# A counter that appears with its first event has not risen: an alert on its increase would miss that event.
for _outcome in OUTCOMES.values():
    for _code_class in CODE_CLASSES if _outcome == "rejected" else ("",):
        _SENDS.labels(_outcome, _code_class)
for _result in LOOKS:
    _RESULTS.labels(_result)
for _source in SOURCES:
    _INBOUND.labels(_source, "false")
for _reason in NOT_APPLIED:
    _REPORTS_NOT_APPLIED.labels(_reason)


def sent(outcome: Outcome, seconds: float) -> None:
    """A call of the carrier has ended."""
    name = OUTCOMES[type(outcome)]
    _SENDS.labels(name, _class_of(outcome.error_code) if isinstance(outcome, Rejected) else "").inc()
    _SEND_SECONDS.labels(name).observe(seconds)


def duplicate_detected() -> None:
    """The carrier has one message under two SIDs."""
    _DUPLICATES.inc()


def looked(result: str) -> None:
    """One of LOOKS."""
    _RESULTS.labels(result).inc()


def inbound_message(source: str, *, stored: bool) -> None:
    """A contact's message came in by one of SOURCES; `stored` is false when it was here already."""
    _INBOUND.labels(source, "false" if stored else "true").inc()


def reported(status: str, lag_seconds: float | None) -> None:
    """The carrier has reported a status of ours, so long after the call; None when the call is not on record."""
    if lag_seconds is not None:
        _CALLBACK_LAG.labels(status).observe(max(0.0, lag_seconds))


def report_not_applied(reason: str) -> None:
    """The carrier has reported something that moves no message: one of NOT_APPLIED."""
    _REPORTS_NOT_APPLIED.labels(reason).inc()


def worker_beat() -> None:
    """The worker is at work."""
    _HEARTBEAT.set_to_current_time()


def _class_of(code: int) -> str:
    """`21xxx` for 21610: Twilio numbers its errors by subject, and there are hundreds of them."""
    return f"{code // 1000}xxx" if 10_000 <= code <= 99_999 else "other"
