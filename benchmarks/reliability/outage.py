"""Everything of ours is gone for an hour while contacts write and the carrier reports; how soon is all of it right?

    python -m benchmarks.reliability.outage --seconds 3600

The settings are the defaults, or with `--hurry` those of the other runs. The carrier accepts messages, and before any
report of them is taken, API and workers are killed; contacts go on writing until the end of the outage. Then everything
is started again, and the public API is asked until nothing inbound is missing and every status is right. Ends with 1
when that takes more than five minutes, or when a message was sent or stored twice.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.reliability.installation import PATIENCE, Installation, installed
from benchmarks.reliability.traffic import Traffic, list_all

MOST_SECONDS = 300.0  # from the return to the last right status
CONTACTS = 240
WRITERS = 8


@dataclass(frozen=True)
class Recovery:
    """`inbound_seconds` and `statuses_seconds` count from the start of API and worker; None: not seen in time."""

    sent: int
    written: int
    inbound_seconds: float | None
    statuses_seconds: float | None
    twice: int

    @property
    def is_complete(self) -> bool:
        seconds = (self.inbound_seconds, self.statuses_seconds)
        return all(one is not None and one <= MOST_SECONDS for one in seconds) and not self.twice


def run(installation: Installation, *, seconds: float, sent: int, written: int) -> Recovery:
    """The outage and the return from it."""
    traffic = Traffic(installation, seed=1, messages=sent, rate=0.0)
    traffic.open_conversations(CONTACTS)
    _kill(installation.workers)
    for number in range(sent):
        traffic.send(*traffic.conversations[number % len(traffic.conversations)], f"No. {number}", number)
    # A worker hands everything over and nobody takes the reports; then it is gone as well, before it could ask.
    _kill([*installation.api_processes(), installation.api])
    worker, begin = installation.start_worker(), time.monotonic()
    while (accepted := len(_record(installation))) < sent:
        if time.monotonic() - begin > MOST_SECONDS:
            raise TimeoutError(f"the worker sent {accepted} of {sent}")
        time.sleep(0.5)
    _kill([worker])
    with ThreadPoolExecutor(WRITERS) as pool:  # the carrier tries each webhook for some seconds
        for number in range(written):
            _wait(begin, begin + seconds * (number + 1) / written, seconds)
            pool.submit(traffic.write, number)
    installation.start_api()
    installation.start_worker()
    return _recover(installation, traffic)


def _recover(installation: Installation, traffic: Traffic) -> Recovery:
    begin = time.monotonic()
    installation.wait_until_ready()
    expected = {(agency.id, sid) for agency, sid in traffic.written}
    ours = {one.id for one in traffic.sent}
    inbound = statuses = None
    passed = 0.0
    while passed < MOST_SECONDS and None in (inbound, statuses):
        messages = [
            (agency.id, message)
            for agency, conversation_id in traffic.conversations
            for message in list_all(
                installation, agency, f"/conversations/{conversation_id}/messages", "messages", "before"
            )
        ]
        stored = Counter((id_, message["twilio_sid"]) for id_, message in messages if message["twilio_sid"])
        right = sum(message["status"] in ("delivered", "read") for _, message in messages if message["id"] in ours)
        found = len(expected & set(stored))
        passed = time.monotonic() - begin
        inbound = passed if inbound is None and found == len(expected) else inbound
        statuses = passed if statuses is None and right == len(ours) else statuses
        sys.stderr.write(f"\r{passed:.0f} s: {found} of {len(expected)} inbound, {right} of {len(ours)} statuses ")
        time.sleep(1)
    # The callback names the message and its attempt: two attempts of one message are two sends.
    accepted = Counter(entry["status_callback"].rpartition("/")[0] for entry in _record(installation))
    twice = sum(count > 1 for count in [*accepted.values(), *stored.values()])
    return Recovery(len(ours), len(expected), inbound, statuses, twice)


def _record(installation: Installation) -> list[dict[str, str]]:
    """The carrier's own account of what it accepted."""
    if not installation.record.exists():
        return []
    return [json.loads(line) for line in installation.record.read_text(encoding="utf-8").splitlines()]


def _kill(pids: Sequence[int]) -> None:
    ended = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.kill()
            ended.append(process)
    psutil.wait_procs(ended, timeout=20)


def _wait(begin: float, until: float, seconds: float) -> None:
    while (left := until - time.monotonic()) > 0:
        passed = time.monotonic() - begin
        sys.stderr.write(f"\routage [{'#' * int(30 * passed / seconds):<30}] {passed:.0f} of {seconds:.0f} s ")
        sys.stderr.flush()
        time.sleep(min(left, 5.0))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.outage", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=3600.0, help="how long everything is gone (3600)")
    add("--sent", type=int, default=500, help="messages whose reports nobody takes (500)")
    add("--written", type=int, default=1000, help="messages that contacts write meanwhile (1000)")
    add("--hurry", action="store_true", help="wait seconds where the default settings wait minutes")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faro-outage-"))
    folder.chmod(0o711)
    with installed(folder, workers=1, concurrency=16, patience=PATIENCE if options.hurry else {}) as installation:
        recovery = run(installation, seconds=options.seconds, sent=options.sent, written=options.written)
    inbound, statuses = (
        "not in time" if seconds is None else f"after {seconds:.0f} s"
        for seconds in (recovery.inbound_seconds, recovery.statuses_seconds)
    )
    rows = [
        ("outage", f"{options.seconds:.0f} s"),
        ("messages that contacts wrote meanwhile: all here", f"{recovery.written:,}: {inbound}"),
        ("messages whose reports nobody took: all statuses right", f"{recovery.sent:,}: {statuses}"),
        ("sent or stored twice", f"{recovery.twice} of {recovery.sent + recovery.written:,}"),
    ]
    sys.stdout.write("".join(f"| {name} | {value} |\n" for name, value in rows))
    sys.stderr.write(f"logs and record in {folder}\n")
    return 0 if recovery.is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
