"""Those who wait for a place: whose turn it is, and how fast the turns come."""

import asyncio
import math
from collections import deque
from collections.abc import Hashable

# How many seconds, and how many who were let in, are looked back upon for the pace of a queue: places come free in
# bunches, and a second is what is at stake. Fewer than a bunch say little: one commit that takes long is not a pace.
_SECONDS_BACK = 0.5
_TURNS_BACK = 50
_TURNS_AT_LEAST = 8.0


class Turns:
    """Who waits, by whose they are: the next one is of whoever has gone longest without a turn."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # in the order of turns
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def of(self, whose: Hashable) -> int:
        """How many of theirs wait."""
        return len(self._waiting.get(whose, ()))

    def ahead_of(self, whose: Hashable) -> int:
        """How many would have their turn before one who joined now."""
        mine = self.of(whose)
        return sum(min(len(theirs), mine + 1) for each, theirs in self._waiting.items() if each != whose) + mine

    def join(self, whose: Hashable, turn: "asyncio.Future[None]") -> None:
        self._waiting.setdefault(whose, deque()).append(turn)
        self._total += 1

    def leave(self, whose: Hashable, turn: "asyncio.Future[None]") -> None:
        """Give up; nothing where the turn has come."""
        if turn in self._waiting.get(whose, ()):
            self._waiting[whose].remove(turn)
            self._total -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]

    def agencies(self) -> list[Hashable]:
        """In the order of their turns."""
        return list(self._waiting)

    def next_of(self, whose: Hashable) -> "asyncio.Future[None]":
        """Theirs that has waited longest; the next turn is another's."""
        theirs = self._waiting.pop(whose)
        self._total -= 1
        turn = theirs.popleft()
        if theirs:
            self._waiting[whose] = theirs
        return turn


class Pace:
    """How fast a queue moves, as far as can be told from what it did lately. Times are the event loop's, in seconds."""

    def __init__(self) -> None:
        # How many were let in lately while somebody waited, in how many seconds, and when the latest one was.
        self._let_in = 0.0
        self._took = 0.0
        self._moved_at = 0.0

    def begin(self, now: float) -> None:
        """Somebody is the first to wait: the pace of long ago is not that of now."""
        self._forget((now - self._moved_at) / _SECONDS_BACK)
        self._moved_at = now

    def moved(self, now: float) -> None:
        """Somebody has been let in."""
        passed = now - self._moved_at
        self._forget(max(passed / _SECONDS_BACK, 1 / _TURNS_BACK))
        self._let_in += 1
        self._took += passed
        self._moved_at = now

    def seconds_of_a_turn(self) -> float:
        """0 where nothing has been seen yet."""
        return self._took / max(_TURNS_AT_LEAST, self._let_in)

    def still(self, now: float) -> float:
        """For how long nobody has been let in."""
        return now - self._moved_at

    def _forget(self, much: float) -> None:
        kept = math.exp(-much)
        self._let_in *= kept
        self._took *= kept
