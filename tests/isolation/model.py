"""What three agencies have and who may see it, as a model small enough to be obviously right.

Everything of an agency carries a mark: its texts and names its letter, its phones a digit; every id is written down
under its owner the moment it exists. Whatever an answer holds can so be traced to the agency that it belongs to.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import uuid4

from persistence import message_status
from tests.agencies import Agency
from tests.api_client import Answer

NAMES = "abc"
SENDERS = frozenset({"owner", "admin", "manager", "staff"})

_MARKS = re.compile(
    r"(?P<uuid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r"|(?P<sid>SM[0-9a-f]{32})"
    r"|(?P<phone>\+1\d{10})"
    r"|agency-(?P<name>[abc])-"
)


class Leak(AssertionError):
    """An answer holds something of another agency."""


@dataclass
class Message:
    """A message as its agency sees it."""

    id: str
    content: str
    direction: str
    status: str
    in_outbox: bool = False
    events: set[str] = field(default_factory=set)

    @property
    def sid(self) -> str:
        """The SID under which Twilio knows it."""
        return "SM" + self.id.replace("-", "")

    def report(self, provider_status: str) -> None:
        """Twilio reports a status; what it has reported before changes nothing."""
        is_new = provider_status not in self.events
        self.events.add(provider_status)
        status = message_status.FROM_TWILIO.get(provider_status)
        if self.direction == "inbound" or status is None or not is_new:
            return
        if status in message_status.TERMINAL:
            self.in_outbox = False
        if status in message_status.TRANSITIONS[self.status]:
            self.status = status


@dataclass
class Thread:
    """A conversation, its messages in their order."""

    id: str
    channel: str
    phone: str
    messages: list[Message] = field(default_factory=list)
    status: str = "open"
    opted_out: bool = False
    last_message: int = 0


@dataclass
class Office:
    """One agency."""

    name: str
    agency: Agency
    threads: dict[tuple[str, str], Thread] = field(default_factory=dict)
    keys: dict[str | None, tuple[tuple[str, str], bytes]] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    suspended: bool = False

    def phone(self, number: int) -> str:
        """A contact's number, which no contact of another agency has."""
        return f"+1202{NAMES.index(self.name) + 5}55{number:04d}"

    def text(self, number: int) -> str:
        return f"agency-{self.name}-{number}"

    def inbox(self, *, status: str | None = None) -> list[Thread]:
        """As the list shows it: the newest message first."""
        threads = [thread for thread in self.threads.values() if status in (None, thread.status)]
        return sorted(threads, key=lambda thread: -thread.last_message)

    def thread(self, conversation_id: str) -> Thread | None:
        return next((thread for thread in self.threads.values() if thread.id == conversation_id), None)

    def message(self, message_id: str) -> Message | None:
        messages = (message for thread in self.threads.values() for message in thread.messages)
        return next((message for message in messages if message.id == message_id), None)


@dataclass(frozen=True)
class Caller:
    """A user with a token of one agency."""

    user_id: str
    home: int
    role: str


@dataclass(frozen=True)
class Choice:
    """Which agency a request names, and where; -1 is one that does not exist."""

    named: int | None
    place: str


class World:
    """The three agencies, and whose each id is."""

    def __init__(self, agencies: Iterable[Agency]) -> None:
        self.offices = [Office(name, agency) for name, agency in zip(NAMES, agencies, strict=True)]
        self.owners: dict[str, int] = {}
        self.nobody = str(uuid4())
        self._clock = 0
        for number, office in enumerate(self.offices):
            agency = office.agency
            for value in (agency.id, agency.location_id, agency.whatsapp_id, agency.sms_id, agency.sms_address):
                self.owners[str(value)] = number
            office.members = {"user_member": "staff"}

    def tick(self) -> int:
        self._clock += 1
        return self._clock

    def own(self, number: int, *values: str) -> None:
        """Write down that these ids and numbers belong to this agency, and to no other."""
        for value in values:
            if self.owners.setdefault(value, number) != number:
                raise Leak("one id in two agencies")

    def check(self, answer: Answer, asked: str, allowed: int | None) -> None:
        """Raise Leak when the answer holds anything of an agency but `allowed`, other than what was asked for."""
        text = answer.body.decode() + "\n" + "\n".join(answer.headers.values())
        for match in _MARKS.finditer(text):
            value, kind = match[0], match.lastgroup
            owner = NAMES.index(match["name"]) if kind == "name" else self.owners.get(value)
            if owner is not None and owner != allowed and value not in asked:
                raise Leak(f"{kind} of agency {NAMES[owner]} in an answer for {allowed}: {answer.status}")

    def who(self, caller: Caller, choice: Choice) -> tuple[int | None, str]:
        """The agency that the request acts for with the role held there; or None with the code of the refusal."""
        if choice.place == "disagree":
            return None, "invalid_request"
        named = caller.home if choice.named is None or choice.place == "none" else choice.named
        if named == caller.home:
            return named, caller.role
        role = self.offices[named].members.get(caller.user_id) if named >= 0 else None
        return (None, "tenant_forbidden") if role is None else (named, role)
