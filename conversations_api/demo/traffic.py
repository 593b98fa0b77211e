"""Fills the demo's inboxes as life would: contacts write through Twilio's signed webhook, staff answer through the API.

Every message has an id that follows from its place in the script, so a load that was interrupted is simply repeated:
what is there already is recognised as a repetition, by us and by the API.
"""

import html
import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import httpx

from conversations_api.demo import samples
from conversations_api.demo.invented_agencies import Agency, Channel
from delivery import opt_out_words

CONCURRENCY = 8
CONVERSATIONS_PER_CHANNEL = 23
MOST_TRIES = 30

# Numbers 0100 to 0199 of the exchange 555 are nobody's, in every one of these areas.
_AREAS = (212, 303, 312, 404, 415, 512, 617, 702, 206, 503, 615, 704)
_NAMES = (  # noqa: SIM905  # one per line would hide that it is only a list of names
    "Ada Ana Ben Björn Carla Chloé Dana Diego Ella Emre Farah Finn Gina Hana Hugo Inés Ivo Jana José Kai Kim Lena Liam "
    "Łukasz Maya Mei Nadia Noah Olga Omar Paula Priya Quinn Rosa Sam Søren Tara Tom Uma Vera Wei Yara Zoë 小林 Дарья"
).split()
_HOW_MANY_WRITTEN = (1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12)


class LoadFailed(Exception):
    """A message was not taken; the message says by whom."""


class Interrupted(Exception):
    """Somebody asked to stop meanwhile."""


@dataclass(frozen=True)
class Script:
    """One conversation: what the contact writes, what staff answer, what the contact writes then."""

    agency: Agency
    channel: Channel
    phone: str
    name: str | None
    opening: list[str]
    answers: list[str]
    closing: list[str]

    @property
    def opts_out(self) -> bool:
        return "STOP" in self.closing


@dataclass
class Progress:
    """Tells how many of the messages have gone out."""

    total: int
    show: Callable[[int, int], None]
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self) -> None:
        with self._lock:
            self.done += 1
            self.show(self.done, self.total)


class Life:
    """The people around the demo: contacts at the simulator, staff at the API."""

    def __init__(self, *, simulator_url: str, api_url: str, token_of: Callable[[Agency], str]) -> None:
        self._http = httpx.Client(timeout=30.0, limits=httpx.Limits(max_connections=CONCURRENCY), trust_env=False)
        self._simulator_url, self._api_url = simulator_url, api_url
        self._tokens: dict[uuid.UUID, str] = {}
        self._token_of = token_of
        self.stopping = threading.Event()

    def close(self) -> None:
        self._http.close()

    def play(self, scripts: Sequence[Script], show: Callable[[int, int], None], check: Callable[[], None]) -> None:
        """All conversations, several at once, each in its order. `check` is called all the time, and may raise."""
        total = sum(len(script.opening) + len(script.answers) + len(script.closing) for script in scripts)
        progress = Progress(total, show)
        self._tokens = {script.agency.id: self._token_of(script.agency) for script in scripts}
        self._each(lambda script: self._write(script, script.opening, 0, progress), scripts, check)
        conversation_ids = {
            key: value for agency_id in self._tokens for key, value in self._list_conversations(agency_id)
        }
        self._each(lambda script: self._go_on(script, conversation_ids, progress), scripts, check)

    def _each(self, play: Callable[[Script], None], scripts: Sequence[Script], check: Callable[[], None]) -> None:
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            try:
                for ended in as_completed([pool.submit(play, script) for script in scripts]):
                    ended.result()
                    check()
            except BaseException:
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _go_on(self, script: Script, conversation_ids: dict[tuple[str, str, str], str], progress: Progress) -> None:
        conversation_id = conversation_ids[script.channel.kind, script.channel.address, script.phone]
        for number, content in enumerate(script.answers):
            self._answer(script, conversation_id, number, content)
            progress.step()
        self._write(script, script.closing, len(script.opening), progress)

    def _write(self, script: Script, contents: list[str], first: int, progress: Progress) -> None:
        for number, content in enumerate(contents, start=first):
            sid = uuid.uuid5(script.channel.id, f"{script.phone} {number}").hex
            self.write(script.channel, script.phone, script.name, content, message_sid=f"SM{sid}")
            progress.step()

    def write(self, channel: Channel, phone: str, name: str | None, content: str, *, message_sid: str | None) -> None:
        """A contact sends a message to a channel, by way of the simulator."""
        prefix = "whatsapp:" if channel.kind == "whatsapp" else ""
        body = {
            "account_sid": channel.account_sid,
            "from": prefix + phone,
            "to": channel.twilio_address,
            "body": content,
            "profile_name": name,
            "message_sid": message_sid,
        }

        def deliver() -> bool:
            answer = self._http.post(f"{self._simulator_url}/simulator/inbound", json=body)
            return answer.status_code == 200 and answer.json()["webhook_status"] == 200

        self._until_taken(deliver, "the inbound webhook")

    def _answer(self, script: Script, conversation_id: str, number: int, content: str) -> None:
        key = uuid.uuid5(script.channel.id, f"{script.phone} answer {number}")
        headers = {"Authorization": f"Bearer {self._tokens[script.agency.id]}", "Idempotency-Key": str(key)}

        def send() -> bool:
            url = f"{self._api_url}/conversations/{conversation_id}/messages"
            answer = self._http.post(url, headers=headers, json={"content": content})
            if answer.status_code in (429, 503):
                time.sleep(float(answer.headers.get("Retry-After", "1")))
            return answer.status_code == 201

        self._until_taken(send, "the API")

    def _until_taken(self, attempt: Callable[[], bool], taker: str) -> None:
        for _ in range(MOST_TRIES):
            if self.stopping.is_set():
                raise Interrupted
            try:
                if attempt():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise LoadFailed(f"{taker} did not take a message")

    def _list_conversations(self, agency_id: uuid.UUID) -> Iterator[tuple[tuple[str, str, str], str]]:
        headers = {"Authorization": f"Bearer {self._tokens[agency_id]}"}
        cursor: str | None = ""
        while cursor is not None:
            parameters: dict[str, Any] = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            answer = self._http.get(f"{self._api_url}/conversations", headers=headers, params=parameters)
            answer.raise_for_status()
            page = answer.json()
            for one in page["conversations"]:
                yield (one["channel"], one["channel_address"], one["contact_phone"]), one["id"]
            cursor = page["next_cursor"]


def scripts(agencies: Sequence[Agency]) -> list[Script]:
    """About a hundred conversations for each agency, the same every time, of the real messages."""
    return [script for agency in agencies for script in _scripts_of(agency)]


def answers() -> list[str]:
    """The real messages that are one line of text and that Twilio would not take for a command."""
    return [message for message in _usable_texts() if message.isprintable() and message.strip()]


def _usable_texts() -> list[str]:
    # Some of them hold entities (`&lt;#&gt;`) that whoever collected them has put there.
    texts = (html.unescape(message) for message in samples.ham())
    return [message for message in texts if opt_out_words.opted_out(message, None) is None]


def _scripts_of(agency: Agency) -> Iterator[Script]:
    dice = random.Random(agency.name)  # noqa: S311  # the same demo every time, and no key
    usable = _usable_texts()
    first = dice.randrange(len(usable))
    texts = itertools.chain(usable[first:], usable[:first])
    numbers = [f"+1{area}55501{number:02d}" for area in dice.sample(_AREAS, 4) for number in range(100)]
    contacts = [(number, _NAMES[index % len(_NAMES)]) for index, number in enumerate(numbers)]

    def take(count: int) -> list[str]:
        return list(itertools.islice(texts, count))

    for channel in agency.channels:
        for index, (phone, name) in enumerate(dice.sample(contacts, CONVERSATIONS_PER_CHANNEL)):
            written = dice.choice(_HOW_MANY_WRITTEN)
            is_answered = dice.random() < 0.6
            later = dice.randrange(written) if is_answered else 0
            yield Script(
                agency=agency,
                channel=channel,
                phone=phone,
                # Only WhatsApp tells the name, and not everybody has one there.
                name=name if channel.kind == "whatsapp" and dice.random() < 0.85 else None,
                opening=take(written - later),
                answers=take(dice.choice((1, 1, 2, 3))) if is_answered else [],
                # One contact of each SMS channel has had enough.
                closing=["STOP"] if index == 0 and channel.kind == "sms" else take(later),
            )
