"""People who answer and contacts who write, through the public API and the carrier, while everything is killed.

A sender repeats a request with the same Idempotency-Key until it gets its 201: what it then holds is acknowledged.
"""

import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.reliability import http_client
from benchmarks.reliability.installation import Installation
from conversations_api.demo.invented_agencies import Agency

SENDERS = 8
# Twins: messages with the same words to the same contact, which a listing alone cannot tell apart.
SAME_WORDS = 0.03
RANK = {"queued": 0, "sending": 1, "unconfirmed": 1, "sent": 2, "delivered": 3, "read": 4, "failed": 9}
RANK |= {"undelivered": 9, "canceled": 9}


@dataclass(frozen=True)
class Sent:
    """A message that was acknowledged with 201."""

    id: str
    agency: Agency
    conversation_id: str
    content: str


@dataclass
class Traffic:
    """`sent` and `written` are what must be found in the end; `refused` and `fell` must stay empty."""

    installation: Installation
    seed: int
    messages: int
    rate: float
    conversations: list[tuple[Agency, str]] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    written: list[tuple[Agency, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    fell: list[str] = field(default_factory=list)
    repeats: int = 0
    looks: int = 0
    _phones: list[tuple[Any, str]] = field(default_factory=list)
    _ranks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def open_conversations(self, count: int) -> None:
        """Contacts write first, on every channel of every agency in turn; then the conversations are listed."""
        channels = [channel for agency in self.installation.agencies for channel in agency.channels]
        self._phones = [(channels[number % len(channels)], f"+1404555{number:04d}") for number in range(count)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: self.installation.write(one[0], one[1], "Hello"), self._phones))
        for agency in self.installation.agencies:
            for conversation in list_all(self.installation, agency, "/conversations", "conversations", "cursor"):
                self.conversations.append((agency, conversation["id"]))

    def run(self) -> None:
        """Return when every message is acknowledged."""
        plan = random.Random(self.seed)
        orders = [
            (*plan.choice(self.conversations), "Same" if plan.random() < SAME_WORDS else f"No. {number}", number)
            for number in range(self.messages)
        ]
        begin = time.monotonic()
        done = threading.Event()
        watchers = [threading.Thread(target=work, args=(done,)) for work in (self._watch, self._write)]
        for thread in watchers:
            thread.start()
        with ThreadPoolExecutor(SENDERS) as pool:
            for place, order in enumerate(orders):
                time.sleep(max(0.0, begin + place / self.rate - time.monotonic()))
                pool.submit(self.send, *order)
                while pool._work_queue.qsize() > 4 * SENDERS:  # while nothing is answered, nothing new is begun
                    time.sleep(0.02)
        done.set()
        for thread in watchers:
            thread.join()

    def send(self, agency: Agency, conversation_id: str, content: str, number: int) -> None:
        """Ask until the message is acknowledged, or refused; `number` makes the key."""
        headers = {**authorization(self.installation, agency), "Idempotency-Key": f"{self.seed}-{number}"}
        path = f"{self.installation.base_url}/api/v1/conversations/{conversation_id}/messages"
        while True:
            with suppress(httpx.HTTPError):
                answer = http_client.CLIENT.post(path, json={"content": content}, headers=headers, timeout=10)
                if answer.status_code == 201:
                    self.sent.append(Sent(answer.json()["id"], agency, conversation_id, content))
                    return
                if answer.status_code not in (409, 429, 503):
                    self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                    return
            self.repeats += 1
            time.sleep(0.2)

    def _watch(self, done: threading.Event) -> None:
        """Look at threads again and again: no message may ever step back, and none that was acknowledged be gone."""
        dice = random.Random(self.seed)
        while not done.wait(0.1):
            if not self.sent:
                continue
            one = dice.choice(self.sent[-200:])
            with suppress(httpx.HTTPError):
                answer = http_client.CLIENT.get(
                    f"{self.installation.base_url}/api/v1/conversations/{one.conversation_id}/messages",
                    params={"limit": 50},
                    headers=authorization(self.installation, one.agency),
                    timeout=10,
                )
                if answer.status_code == 503:
                    continue
                thread = {message["id"]: message for message in answer.json().get("messages", [])}
                if one.id not in thread and len(thread) < 50:
                    self.refused.append(f"{answer.status_code} for a thread without what was acknowledged")
                for message in thread.values():
                    self.notice(message)

    def notice(self, message: Mapping[str, Any]) -> None:
        """Compare a message with what was last seen of it. A first failure stays, whatever comes later."""
        if message["direction"] != "outbound":
            return
        self.looks += 1
        rank, status = RANK[message["status"]], message["status"]
        before, last = self._ranks.get(message["id"], (rank, status))
        if rank < before or (before >= RANK["delivered"] and status not in (last, "read")):
            self.fell.append(f"{last} -> {status}")
        self._ranks[message["id"]] = (rank, status)

    def _write(self, done: threading.Event) -> None:
        """Contacts go on writing, whether or not somebody answers the webhook."""
        dice = random.Random(self.seed + 1)
        while not done.wait(0.4):
            with suppress(httpx.HTTPError):
                self.write(dice.randrange(len(self._phones)))

    def write(self, number: int) -> None:
        """One of the contacts writes."""
        channel, phone = self._phones[number % len(self._phones)]
        agency = next(one for one in self.installation.agencies if channel in one.channels)
        self.written.append((agency, self.installation.write(channel, phone, "And another thing")))


_tokens: dict[tuple[int, Any], str] = {}


def authorization(installation: Installation, agency: Agency) -> dict[str, str]:
    key = (id(installation), agency.id)
    if key not in _tokens:
        _tokens[key] = installation.token(agency)
    return {"Authorization": f"Bearer {_tokens[key]}"}


def list_all(installation: Installation, agency: Agency, path: str, name: str, parameter: str) -> list[dict[str, Any]]:
    """Every row of a list of the API, page by page; `parameter` names what asks for the next one."""
    rows: list[dict[str, Any]] = []
    position: str | None = None
    while True:
        query = {"limit": 100, **({parameter: position} if position else {})}
        answer = http_client.CLIENT.get(
            f"{installation.base_url}/api/v1{path}",
            params=query,
            headers=authorization(installation, agency),
            timeout=30,
        )
        answer.raise_for_status()
        page = answer.json()
        rows += page[name]
        position = page[f"next_{parameter}"]
        if position is None:
            return rows
