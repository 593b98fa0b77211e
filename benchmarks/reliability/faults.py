"""What goes wrong at the carrier, by seeded dice: the probabilities are of one call, one callback or one listing."""

from typing import Any

from benchmarks.reliability.installation import GRACE_SECONDS

# Before the call is accepted: retried at once, or found missing after the grace.
NOT_ACCEPTED = [
    {"kind": "too_many_requests", "probability": 0.03, "retry_after": 1},
    {"kind": "error_before_accepting", "probability": 0.008},
    {"kind": "close_before_reading", "probability": 0.006},
    {"kind": "reject", "probability": 0.005, "code": 21211},
]
# Accepted, and we are not told so.
ACCEPTED_IN_SILENCE = [
    {"kind": "error_after_accepting", "probability": 0.025},
    {"kind": "error_after_accepting", "probability": 0.01, "http_status": 503},
    {"kind": "close_after_accepting", "probability": 0.02},
    {"kind": "silence_after_accepting", "probability": 0.004, "seconds": 3.0},
    {"kind": "half_reply", "probability": 0.01},
    {"kind": "dripped_reply", "probability": 0.004, "seconds": 0.05},
    {"kind": "created_without_sid", "probability": 0.01},
    {"kind": "nonsense_reply", "probability": 0.005},
    {"kind": "accept_late", "probability": 0.01, "seconds": 1.0},
]
ACCEPTED = [
    {"kind": "slow", "probability": 0.01, "seconds": 0.5},
    {"kind": "undelivered_later", "probability": 0.01},
    {"kind": "failed_later", "probability": 0.005},
]
CALLBACKS = [
    {"kind": "callback_lost", "probability": 0.05},
    {"kind": "callback_duplicated", "probability": 0.05},
    {"kind": "callback_late", "probability": 0.05, "seconds": 2.0},
    {"kind": "callback_reordered", "probability": 0.05},
]
LISTINGS = [{"kind": "listing_error", "probability": 0.05}]


def dice(seed: int, *, late: float) -> dict[str, Any]:
    """`late` is the share of calls that the carrier accepts after the grace, when they count as proven absent."""
    too_late = [{"kind": "accept_late", "probability": late, "seconds": 2 * GRACE_SECONDS + 2}] if late else []
    return {
        "seed": seed,
        "latency_ms": 20,
        "listing_lag_seconds": 1.0,
        "dice": [*NOT_ACCEPTED, *ACCEPTED_IN_SILENCE, *ACCEPTED, *too_late, *CALLBACKS, *LISTINGS],
    }
