"""How many calls of one account may be under way at a time: fewer as soon as the carrier asks for fewer.

Twilio answers 429 when an account has too many requests at once, and advises to lower their number
(https://www.twilio.com/docs/api/errors/20429). As TCP does with its window: halved by a 429, and one more after four
rounds of calls that were all processed. Calls that were under way when it was halved do not halve it again. Each
process counts for itself, so an account's share is divided among the workers by what each of them meets. Safe between
threads.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

CALLS_MORE_PER_ROUND = 0.25


@dataclass
class _Slowed:
    calls: float
    since: float


class Pace:
    """`most` calls at a time for an account that was never refused; `clock` gives seconds, of any origin."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Slowed] = {}

    def now(self) -> float:
        """The moment at which a call begins, for `refused`."""
        return self._clock()

    def slowed(self) -> dict[str, int]:
        """How many calls at a time each account gets that gets fewer than `most`; at least one."""
        with self._lock:
            return {account_sid: int(one.calls) for account_sid, one in self._accounts.items()}

    def processed(self, account_sid: str) -> None:
        """The carrier took a call on: it accepted or rejected the message."""
        with self._lock:
            one = self._accounts.get(account_sid)
            if one is not None:
                one.calls += CALLS_MORE_PER_ROUND / one.calls
                if one.calls >= self._most:
                    del self._accounts[account_sid]

    def refused(self, account_sid: str, *, begun_at: float) -> bool:
        """The carrier answered 429 to a call. True when that begins a time with fewer calls."""
        with self._lock:
            known = self._accounts.get(account_sid)
            one = known or _Slowed(float(self._most), begun_at)
            if begun_at < one.since or one.calls < 2.0:
                return False
            one.calls, one.since = max(1.0, one.calls / 2.0), self._clock()
            self._accounts[account_sid] = one
            return known is None

    def is_slowest(self, account_sid: str) -> bool:
        """Whether the account gets one call at a time, and cannot get fewer."""
        with self._lock:
            one = self._accounts.get(account_sid)
            return self._most == 1 or (one is not None and one.calls < 2.0)
