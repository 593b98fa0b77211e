"""The rig, short: everything is killed under load, and the carrier's own record says what came of it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.reliability import __main__ as rig
from benchmarks.reliability import checker
from benchmarks.reliability.checker import Verdict
from benchmarks.reliability.traffic import Traffic

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_and_nothing_doubled_while_everything_is_killed(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    options = ["--seed", "7", "--messages", "120", "--kills", "16", "--control", "300", "--folder", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    figures = dict(line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("| "))
    assert figures["messages acknowledged"] == "120"
    assert figures["lost"] == "0 of 120"
    assert figures["silently doubled"] == "0 of 120"
    assert int(figures["kills"]) >= 12


# What the checker must notice: what the carrier's record says, what the API says, and the word for it.
MESSAGE = {"id": "m", "conversation_id": "c", "direction": "outbound", "status": "delivered", "sent_at": "1"}
MESSAGE |= {"twilio_sid": "SM1", "duplicate_detected": False}
ENTRY = {"number": 1, "message_sid": "SM1", "fault": None}


@pytest.mark.parametrize(
    ("record", "message", "word"),
    [
        ([ENTRY], {}, None),
        ([], {}, "never accepted"),
        ([], {"status": "queued"}, "never accepted"),
        ([], {"status": "unconfirmed"}, None),
        ([], {"status": "failed"}, None),
        ([ENTRY, ENTRY], {}, "without a flag"),
        ([ENTRY, ENTRY], {"duplicate_detected": True}, None),
        ([ENTRY], {"duplicate_detected": True}, "flagged as doubled, and accepted once"),
        ([ENTRY], {"twilio_sid": "SM2"}, "another message's"),
        ([ENTRY], {"status": "failed"}, "instead of"),
        ([ENTRY | {"fault": "undelivered_later"}], {}, "instead of"),
    ],
)
def test_the_checker_notices(record: list[dict[str, Any]], message: dict[str, Any], word: str | None) -> None:
    verdict = Verdict()
    checker._judge(verdict, MESSAGE | message, record, "")
    assert [word in line for line in verdict.wrong] == ([True] if word else [])


def test_the_checker_notices_what_is_missing_or_should_not_be_there(tmp_path: Path) -> None:
    agency = SimpleNamespace(id="a")
    traffic = Traffic(SimpleNamespace(agencies=[agency]), seed=1, messages=1, rate=1)  # type: ignore[arg-type]
    traffic.sent = [SimpleNamespace(id="m", agency=agency)]  # type: ignore[list-item]
    traffic.written = [(agency, "SM9")]  # type: ignore[list-item]
    for status in ("delivered", "sent"):
        traffic.notice(MESSAGE | {"status": status})
    record = tmp_path / "record.jsonl"
    stranger = "http://a/status/00000000-0000-0000-0000-000000000000/11111111-1111-1111-1111-111111111111/1"
    record.write_text(json.dumps(ENTRY | {"status_callback": stranger}) + "\n")
    verdict = checker.check(traffic, {"n": MESSAGE | {"id": "n"}}, record)
    assert verdict.counts["lost"] == 1
    assert sorted(line.partition(":")[0] for line in verdict.wrong) == [
        "a contact's message is missing",
        "a status stepped back",
        "an acknowledged message is not in its thread",
        "one key made two messages",
        "the carrier accepted a message that nobody sent",
    ]


def test_a_run_fails_when_its_control_shows_nothing_or_too_much_is_unconfirmed() -> None:
    def result(control: int, **counts: int) -> rig.Result:
        return rig.Result(Verdict(Counter({"messages": 5000, **counts})), Counter(), 0, 0, control, 0.0)

    assert rig.failures([result(3)], late=0.0) == []
    assert "control" in rig.failures([result(0)], late=0.0)[0]
    assert "unconfirmed" in rig.failures([result(3, unconfirmed=6)], late=0.0)[0]
    assert "doubled" in rig.failures([result(3, doubled=1)], late=0.0)[0]
    assert rig.failures([result(3, doubled=1)], late=0.02) == []
