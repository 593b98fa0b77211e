"""What goes wrong at the simulator, by dice and by script.

A script entry strikes the next request of its kind (or the next one `to` an address) and is used up; where no entry
applies, one seeded throw decides among the dice. At most one fault strikes one request.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Place = Literal["create", "callback", "listing", "redaction"]

# What each fault does is told here once; `seconds`, `code`, `http_status` and `retry_after` are its settings.
FAULTS: dict[str, tuple[Place, str]] = {
    "none": ("create", "nothing: lets one create through a script"),
    "listing_passes": ("listing", "nothing: lets one list or fetch through a script"),
    "too_many_requests": ("create", "429, not accepted, with `retry_after` as header when given"),
    "error_before_accepting": ("create", "`http_status` (500), not accepted"),
    "error_after_accepting": ("create", "`http_status` (500), accepted"),
    "reject": ("create", "`http_status` (400) with Twilio's `code`; without a code, an HTML page"),
    "redirect": ("create", "307 back to the same place, not accepted"),
    "close_before_reading": ("create", "connection reset, not accepted"),
    "close_after_accepting": ("create", "accepted, connection closed without a reply"),
    "silence_after_accepting": ("create", "accepted, no reply for `seconds`, then closed"),
    "accept_late": ("create", "connection closed without a reply, accepted `seconds` later"),
    "half_reply": ("create", "accepted, half of the reply"),
    "dripped_reply": ("create", "accepted, a byte of the reply every `seconds`"),
    "created_without_sid": ("create", "accepted, 201 with a null SID"),
    "nonsense_reply": ("create", "accepted, 201 with an HTML page"),
    "slow": ("create", "accepted, the reply `seconds` later"),
    "undelivered_later": ("create", "accepted, then reported `undelivered` with `code` (30003)"),
    "failed_later": ("create", "accepted, then reported `failed` with `code` (63016)"),
    "callback_lost": ("callback", "a status is never posted"),
    "callback_duplicated": ("callback", "a status is posted twice"),
    "callback_late": ("callback", "a status is posted `seconds` later, others overtake it"),
    "callback_reordered": ("callback", "a status is posted after the next one"),
    "listing_error": ("listing", "`http_status` (503) for a list or fetch"),
    "redaction_passes": ("redaction", "nothing: lets one update or deletion through a script"),
    "redaction_error": ("redaction", "`http_status` (503) for an update or deletion, nothing changed"),
}


@dataclass(frozen=True)
class Fault:
    kind: str
    probability: float | None = None
    to: str | None = None
    seconds: float = 1.0
    code: int | None = None
    http_status: int | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"unknown fault {self.kind!r}")

    @property
    def place(self) -> Place:
        return FAULTS[self.kind][0]


@dataclass
class Faults:
    """`latency_ms` holds back every reply of the Messages resource; a message is listed `listing_lag_seconds` late.

    Of more than `most_creates` at a time of one account the others get 429; 0 is no limit.
    """

    seed: int = 0
    latency_ms: float = 0.0
    listing_lag_seconds: float = 0.0
    most_creates: int = 0
    dice: list[Fault] = field(default_factory=list)
    script: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - dice, not keys
        self.struck: Counter[str] = Counter()
        for place in ("create", "callback", "listing", "redaction"):
            if sum(die.probability or 0.0 for die in self.dice if die.place == place) > 1:
                raise ValueError(f"the probabilities of {place} faults add up to more than 1")

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "Faults":
        """Raises ValueError or TypeError, naming what is not understood. A fault may be given as its bare name."""
        if not isinstance(settings, Mapping):
            raise TypeError("faults are set with a JSON object")
        unknown = set(settings) - {one.name for one in fields(cls)} - {"struck"}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}")
        return cls(
            seed=int(settings.get("seed", 0)),
            latency_ms=float(settings.get("latency_ms", 0)),
            listing_lag_seconds=float(settings.get("listing_lag_seconds", 0)),
            most_creates=int(settings.get("most_creates", 0)),
            dice=[_fault(entry) for entry in settings.get("dice", [])],
            script=[_fault(entry) for entry in settings.get("script", [])],
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "struck": dict(self.struck)}

    def draw(self, place: Place, to: str | None = None) -> Fault | None:
        """The fault that strikes this request, if one does."""
        fault = self._scripted(place, to) or self._thrown(place)
        if fault is None or fault.kind in ("none", "listing_passes", "redaction_passes"):
            return None
        self.struck[fault.kind] += 1
        return fault

    def _scripted(self, place: Place, to: str | None) -> Fault | None:
        for position, fault in enumerate(self.script):
            if fault.place == place and fault.to in (None, to):
                return self.script.pop(position)
        return None

    def _thrown(self, place: Place) -> Fault | None:
        dice = [die for die in self.dice if die.place == place]
        if not dice:
            return None
        throw = self._random.random()
        for die in dice:
            throw -= die.probability or 0.0
            if throw < 0:
                return die
        return None


def _fault(entry: str | Mapping[str, Any]) -> Fault:
    return Fault(kind=entry) if isinstance(entry, str) else Fault(**entry)
