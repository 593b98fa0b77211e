"""Stops calling an account at the carrier that does nothing but fail, so that an outage does not burn the queue.

Every call into an outage is one more message of which nobody knows whether it went out. Single failures mean nothing
here: it takes a row of them, and the first success ends it. Each process counts for itself. Safe between threads.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

FAILURES_IN_A_ROW = 8
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass
class _Account:
    failures: int = 0
    closed_until: float = 0.0


class Breaker:
    """`clock` gives seconds, of any origin."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = defaultdict(_Account)

    def pause_seconds(self, account_sid: str) -> float:
        """How long no call is to be made; 0 lets this one through, after a pause as the only probe of the next."""
        with self._lock:
            account = self._accounts[account_sid]
            left = account.closed_until - self._clock()
            if left > 0:
                return left
            if account.failures >= FAILURES_IN_A_ROW:
                account.closed_until = self._clock() + self._pause(account)
            return 0.0

    def succeeded(self, account_sid: str) -> None:
        """The carrier processed a call: it accepted or rejected the message."""
        with self._lock:
            self._accounts.pop(account_sid, None)

    def failed(self, account_sid: str) -> bool:
        """The carrier did not answer, or not sensibly, or asked for fewer calls. True when that begins a pause."""
        with self._lock:
            account = self._accounts[account_sid]
            account.failures += 1
            if account.failures < FAILURES_IN_A_ROW or account.closed_until > self._clock():
                return False
            account.closed_until = self._clock() + self._pause(account)
            return True

    def _pause(self, account: _Account) -> float:
        doublings = min(account.failures - FAILURES_IN_A_ROW, 10)
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**doublings)
