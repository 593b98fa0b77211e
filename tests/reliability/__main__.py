"""The long run: `make chaos-db`. PostgreSQL is killed 100 times under load; what was acknowledged must be there.

    python -m tests.reliability --kills 100

Clients send with a key and repeat it until there is an answer that tells; contacts write and Twilio repeats. The
postmaster, its own processes and the sessions are killed with SIGKILL; each time the server comes back on the same
port, and the API, which is not touched, must come back by itself.
"""

import argparse
import http.client
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.web.lanes import Limits
from tests.agencies import Agency
from tests.api_client import Answer, Api, new_sid
from tests.conftest import urls_of
from tests.serving import served

SENDERS, WRITERS, READERS = 4, 2, 2
MOST_SECONDS = 5.0  # from the return of the server to the first good answer


@dataclass
class Load:
    """What clients do meanwhile, and what they were told."""

    api: Api
    agencies: list[Agency]
    conversations: list[str]
    ending: threading.Event = field(default_factory=threading.Event)
    answers: Counter[int] = field(default_factory=Counter)
    sent: list[tuple[int, str, str]] = field(default_factory=list)  # agency, content, message id
    written: list[tuple[int, str]] = field(default_factory=list)  # agency, SID

    def send(self) -> None:
        while not self.ending.is_set():
            number, key = random.randrange(len(self.agencies)), str(uuid4())
            content = f"message {key}"
            while (answer := self._ask(number, content, key)) is None or answer.status in (409, 503):
                time.sleep(0.05)
            if answer.status == 201:
                self.sent.append((number, content, answer.json["id"]))

    def write(self) -> None:
        while not self.ending.is_set():
            number, sid = random.randrange(len(self.agencies)), new_sid()
            status = 503
            while status == 503:
                with suppress(OSError, http.client.HTTPException):
                    status = self.api.receive(self.agencies[number], f"written {sid}", MessageSid=sid).status
                self.answers[status] += 1
                time.sleep(0.02)
            if status == 200:
                self.written.append((number, sid))

    def read(self) -> None:
        while not self.ending.is_set():
            with suppress(OSError, http.client.HTTPException):
                self.answers[self.api.of(random.choice(self.agencies)).get("/conversations").status] += 1
            time.sleep(0.02)

    def _ask(self, number: int, content: str, key: str) -> Answer | None:
        with suppress(OSError, http.client.HTTPException):
            answer = self.api.of(self.agencies[number]).send(self.conversations[number], content, key=key)
            self.answers[answer.status] += 1
            return answer
        return None


def kill(server: EmbeddedPostgres) -> str:
    """Kill something of the server so that all of it must recover; what it was."""
    postmaster = psutil.Process(server.record.server_pid)
    victim = random.choice([postmaster, postmaster, *postmaster.children()])
    name = "postmaster" if victim == postmaster else "process"
    with suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGKILL)
    return name


def recover(server: EmbeddedPostgres, api: Api, agency: Agency) -> float:
    """Start the server anew; the seconds from then to the first good answer."""
    # Asked to shut down while it recovers, PostgreSQL 18 waits for ever; at once, it ends.
    with suppress(ProcessLookupError):
        os.kill(server.record.server_pid, signal.SIGQUIT)
    server.stop()
    server.start()
    back = time.monotonic()
    while True:
        with suppress(OSError, http.client.HTTPException):
            if api.of(agency).get("/conversations").status == 200:
                return time.monotonic() - back
        time.sleep(0.02)


def missing_and_doubled(load: Load) -> tuple[int, int]:
    """How much of what was acknowledged is not there, and how much is there twice."""
    shown: Counter[tuple[int, str]] = Counter()
    ids = set()
    for number, conversation_id in enumerate(load.conversations):
        before: dict[str, object] = {}
        while before != {"before": None}:
            page = load.api.of(load.agencies[number]).get(
                f"/conversations/{conversation_id}/messages", limit=100, **before
            )
            for message in page.json["messages"]:
                shown[number, message["twilio_sid"] or message["content"]] += 1
                ids.add(message["id"])
            before = {"before": page.json["next_before"]}
    missing = sum(shown[number, content] == 0 or message_id not in ids for number, content, message_id in load.sent)
    missing += sum(shown[number, sid] == 0 for number, sid in load.written)
    return missing, sum(number - 1 for number in shown.values())


def run(kills: int, folder: Path) -> int:
    server = EmbeddedPostgres(folder / "data")
    server.start()
    killed: Counter[str] = Counter()
    recoveries: list[float] = []
    try:
        migrating.migrate(server.owner_url)
        with served(urls_of(server, "faro"), limits=Limits()) as api:
            agencies = [api.new_agency() for _ in range(2)]
            load = Load(api, agencies, [api.converse(agency) for agency in agencies])
            work = [load.send] * SENDERS + [load.write] * WRITERS + [load.read] * READERS
            threads = [threading.Thread(target=target, daemon=True) for target in work]
            for thread in threads:
                thread.start()
            for number in range(1, kills + 1):
                time.sleep(random.uniform(0.2, 1.5))
                killed[kill(server)] += 1
                time.sleep(random.uniform(0.0, 0.5))
                recoveries.append(recover(server, api, agencies[0]))
                if number % 10 == 0:
                    print(f"{number} of {kills} kills, {len(load.sent):,} sends acknowledged", flush=True)
            load.ending.set()
            for thread in threads:
                thread.join(60)
            missing, doubled = missing_and_doubled(load)
    finally:
        server.stop()
    acknowledged = len(load.sent) + len(load.written)
    print("kills                    ", ", ".join(f"{number} {name}" for name, number in killed.items()))
    print(
        "answers                  ", ", ".join(f"{number:,} × {code}" for code, number in sorted(load.answers.items()))
    )
    print(f"recovery, seconds         {statistics.median(recoveries):.2f} median, {max(recoveries):.2f} longest")
    print(f"acknowledged              {len(load.sent):,} sends, {len(load.written):,} messages of contacts")
    print(f"missing                   {missing} of {acknowledged:,}")
    print(f"doubled                   {doubled} of {acknowledged:,}")
    return 1 if missing or doubled or max(recoveries) > MOST_SECONDS or load.answers[500] else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="faro-chaos-db-") as folder:
        return run(options.kills, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
