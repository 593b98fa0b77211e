"""How much of what a carrier takes one worker process sends, when each call takes 150 ms.

The simulated carrier is a process of its own and posts no status back, to the worker and to the bare client alike: the
figure is about sending. The bare client is 64 threads that post the same form again and again and write nothing down.
"""

import base64
import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx

from benchmarks.performance import data_set, load, servers
from benchmarks.performance.data_set import ACCOUNT_SID
from benchmarks.performance.servers import AUTH_TOKEN, Keys
from conversations_api import addresses, child_processes
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

LATENCY_MILLISECONDS = 150
CONCURRENCY = 64
SILENT = {"latency_ms": LATENCY_MILLISECONDS, "dice": [{"kind": "callback_lost", "probability": 1.0}]}

# Waiting messages in conversations of many agencies, one in each: a conversation's messages go out one after the other.
QUEUE = """
    with chosen as (
        select conversations.agency_id, conversations.id, conversations.channel_id,
            uuidv7() as message_id, clock_timestamp() as sent_at
        from conversations
        join agencies using (agency_id)
        where agencies.name like 'Writer %%'
        and conversations.opted_out_at is null
        order by md5(conversations.id::text)
        limit %s
    ), queued as (
        insert into messages (agency_id, id, conversation_id, direction, content, status, sent_at)
        select agency_id, message_id, id, 'outbound', 'Thank you, see you tomorrow!', 'queued', sent_at
        from chosen
    )
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
    select agency_id, message_id, id, channel_id, sent_at, 'queued'
    from chosen
"""

IN_FLIGHT = "select count(*) from outbox where state = 'calling'"


@dataclass(frozen=True)
class Cpu:
    """Milliseconds for a message."""

    worker: float
    postgres: float
    carrier: float

    @property
    def all(self) -> float:
        return self.worker + self.postgres + self.carrier


@dataclass(frozen=True)
class Sending:
    """Messages per second of the worker and of the bare client; `under_way`: what stood as `calling`."""

    messages: int
    worker_rates: tuple[float, ...]
    bare_rates: tuple[float, ...]
    under_way_median: float
    under_way_most: int
    cpu: Cpu

    @property
    def ratios(self) -> list[float]:
        return [ours / bare for ours, bare in zip(self.worker_rates, self.bare_rates, strict=True)]


def measure(
    postgres: Postgres,
    database: str,
    keys: Keys,
    folder: Path,
    *,
    messages: int,
    rounds: int,
    tell: Callable[[str], None],
) -> Sending:
    """The worker and the bare client in turn, each sending so many messages."""
    worker_rates, bare_rates, under_way, cpu = [], [], [0], []
    for number in range(1, rounds + 1):
        tell(f"worker, round {number} of {rounds}: bare client")
        bare_rates.append(_bare(folder, messages))
        tell(f"worker, round {number} of {rounds}: worker")
        rate, seen, spent = _worker(postgres, database, keys, folder, messages)
        worker_rates.append(rate)
        under_way += seen
        cpu.append(spent)
    busy = [count for count in under_way if count] or [0]
    return Sending(
        messages=messages,
        worker_rates=tuple(worker_rates),
        bare_rates=tuple(bare_rates),
        under_way_median=statistics.median(busy),
        under_way_most=max(under_way),
        cpu=Cpu(*(statistics.median(one) for one in zip(*cpu, strict=True))),
    )


def _worker(
    postgres: Postgres, database: str, keys: Keys, folder: Path, messages: int
) -> tuple[float, list[int], tuple[float, ...]]:
    """(messages per second, calls that were open at many moments, CPU milliseconds per message as in `Cpu`)."""
    data_set.forget_writes(postgres, database)
    data_set.query(postgres, database, QUEUE, [messages])
    record = folder / "worker-record.jsonl"
    with _simulator(record) as (base_url, carrier):
        environment = servers.our_environment(postgres, database, keys, addresses.free_port())
        environment |= {"TWILIO_BASE_URL": base_url, "SEND_CONCURRENCY": str(CONCURRENCY)}
        command = [sys.executable, "-m", "conversations_api", "worker"]
        child = child_processes.start("worker", command, environment=environment, log_path=folder / "worker.log")
        seen: list[int] = []
        # One connection for all: to open one takes PostgreSQL as long as to store a message.
        with closing(data_set.connect(postgres, "postgres", database)) as connection, connection.cursor() as cursor:

            def look() -> None:
                cursor.execute(IN_FLIGHT)
                seen.append(cursor.fetchone()[0])

            pids = (child.process.pid, postgres.record.server_pid, carrier)
            before = [0.0, *(load.cpu_seconds(pid) for pid in pids[1:])]
            try:
                rate = _watch(record, messages, look)
                after = [load.cpu_seconds(pid) for pid in pids]
            finally:
                child_processes.stop([child], seconds=servers.STOP_SECONDS)
    return rate, seen, tuple(1e3 * (end - begin) / messages for begin, end in zip(before, after, strict=True))


def _bare(folder: Path, messages: int) -> float:
    record = folder / "bare-record.jsonl"
    with _simulator(record) as (base_url, _):
        left = iter(range(messages))
        lock = threading.Lock()

        def post() -> None:
            connection = http.client.HTTPConnection(base_url.removeprefix("http://"), timeout=30)
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    break
                connection.request("POST", *_form(number))
                connection.getresponse().read()
            connection.close()

        threads = [threading.Thread(target=post, daemon=True) for _ in range(CONCURRENCY)]
        for thread in threads:
            thread.start()
        rate = _watch(record, messages, lambda: None)
        for thread in threads:
            thread.join()
    return rate


def _form(number: int) -> tuple[str, str, dict[str, str]]:
    """Path, body and headers of one call, as the worker makes it."""
    form = {
        "To": f"+999{50_000_000 + number}",
        "From": "+99900000001",
        "Body": "Thank you, see you tomorrow!",
        "StatusCallback": "http://127.0.0.1:9/status",
        "ValidityPeriod": "3600",
    }
    password = base64.b64encode(f"{ACCOUNT_SID}:{AUTH_TOKEN}".encode()).decode()
    headers = {"Authorization": f"Basic {password}", "Content-Type": "application/x-www-form-urlencoded"}
    return f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json", urlencode(form), headers


def _watch(record: Path, messages: int, sample: Callable[[], None]) -> float:
    """What the carrier accepted per second, from the first tenth to the last: starting and running dry do not count."""
    deadline = time.monotonic() + 60 + messages / 10
    marks = [(0, time.monotonic())]
    accepted = 0
    while accepted < messages and time.monotonic() < deadline:
        accepted = record.read_bytes().count(b"\n")
        marks.append((accepted, time.monotonic()))
        sample()
        time.sleep(0.05)
    if accepted < messages:
        raise TimeoutError(f"the carrier has {accepted} of {messages} messages; logs are in {record.parent}")
    steady = [mark for mark in marks if 0.1 * messages <= mark[0] <= 0.9 * messages]
    (first, begin), *_, (last, end) = steady if len(steady) > 1 else marks
    return (last - first) / (end - begin)


@contextmanager
def _simulator(record: Path) -> Iterator[tuple[str, int]]:
    """A carrier that takes its time, as a process of its own; its address and process id."""
    record.unlink(missing_ok=True)
    record.touch()
    port = addresses.free_port()
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "delivery.simulator.server", "--port", str(port), "--record", str(record)]
    process = subprocess.Popen([*command, "--account", f"{ACCOUNT_SID}:{AUTH_TOKEN}"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(httpx.HTTPError):
                httpx.put(f"{base_url}/simulator/faults", json=SILENT, timeout=2, trust_env=False).raise_for_status()
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the simulated carrier did not start")
            time.sleep(0.05)
        yield base_url, process.pid
    finally:
        process.kill()
        process.wait()
