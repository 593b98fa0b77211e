"""How much is done in an agency's name in a minute: the only module that knows the `limits` library.

Each process counts for itself, or all of them together in Redis. Counting never costs an answer: a Redis that cannot be
reached is left alone for some seconds, and meanwhile nothing is refused.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
STORAGE_TIMEOUT_SECONDS = 0.25
# How long a storage that failed is left alone: a request must not wait for it, nor each of a thousand.
PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Quota:
    """One limit of an agency: how many in a window, how many are left, and in how many seconds it is full again."""

    name: str
    limit: int
    remaining: int
    reset_seconds: int


@dataclass(frozen=True)
class Usage:
    """Where an agency stands after this request. `retry_after` is in seconds, None while nothing is exceeded."""

    quotas: tuple[Quota, ...] = ()
    retry_after: int | None = None


class RateLimits:
    """Counts requests, and sends among them, by agency. A limit of 0 is none."""

    def __init__(
        self,
        *,
        requests_per_minute: int,
        sends_per_minute: int,
        storage_url: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`storage_url` is Redis; without it the counts are this process's own."""
        self._limits = {
            name: RateLimitItemPerMinute(limit)
            for name, limit in (("requests", requests_per_minute), ("sending", sends_per_minute))
            if limit
        }
        self._limiter = FixedWindowRateLimiter(_storage(storage_url))
        self._clock = clock
        self._paused_until = 0.0
        self._spent_until: dict[UUID, float] = {}  # agencies that have used up their requests, until then

    def known_to_exceed(self, agency_id: UUID) -> Usage | None:
        """What an agency is told that has used up its requests; None where this is not known. Asks no storage, so that
        it may be asked where nothing may wait."""
        until = self._spent_until.get(agency_id, 0.0)
        if until <= self._clock() or time.monotonic() < self._paused_until:
            self._spent_until.pop(agency_id, None)
            return None
        seconds = self._seconds_until(until)
        return Usage((Quota("requests", self._limits["requests"].amount, 0, seconds),), seconds)

    def spend(self, agency_id: UUID, *, sending: bool) -> Usage:
        """Count one request, and one send if it is one."""
        if not self._limits or time.monotonic() < self._paused_until:
            return Usage()
        try:
            return self._spend(agency_id, ("requests", "sending") if sending else ("requests",))
        except StorageError as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning("rate_limits_not_counted", extra={"error": type(error).__name__})
            return Usage()

    def _spend(self, agency_id: UUID, names: tuple[str, ...]) -> Usage:
        quotas: list[Quota] = []
        retry_after = None
        for name in names:
            item = self._limits.get(name)
            if item is None:
                continue
            # What is refused is not sent, and takes nothing from the limit of sends.
            admitted = retry_after is None and self._limiter.hit(item, name, str(agency_id))
            window = self._limiter.get_window_stats(item, name, str(agency_id))
            seconds = self._seconds_until(window.reset_time)
            quotas.append(Quota(name, item.amount, window.remaining, seconds))
            if not admitted and retry_after is None:
                retry_after = seconds
                if name == "requests":
                    self._spent_until[agency_id] = window.reset_time
        return Usage(tuple(quotas), retry_after)

    def _seconds_until(self, reset_time: float) -> int:
        """A window that has just ended, and one that has not begun, is a whole one."""
        return min(max(1, math.ceil(reset_time - self._clock())), WINDOW_SECONDS)


def _storage(url: str | None) -> MemoryStorage | RedisStorage:
    if url is None:
        return MemoryStorage()
    return RedisStorage(
        url,
        wrap_exceptions=True,
        socket_timeout=STORAGE_TIMEOUT_SECONDS,
        socket_connect_timeout=STORAGE_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # passed on to the client, which takes it
    )


def check_storage_url(url: str) -> None:
    """Raises ValueError, without the URL in it, for anything but Redis."""
    if not url.startswith(("redis://", "rediss://", "redis+unix://")):
        raise ValueError("must be a redis:// or rediss:// URL")
