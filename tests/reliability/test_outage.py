"""Our side is down until the carrier has given up telling us; then nothing is missing and every status is right."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Longer than the carrier tries a webhook.
OPTIONS = ["--hurry", "--seconds", "12", "--sent", "20", "--written", "10"]


def test_after_an_outage_nothing_inbound_is_missing_and_every_status_is_right() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability.outage", *OPTIONS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    figures = dict(line.strip("| ").split(" | ") for line in result.stdout.splitlines())
    assert figures["messages that contacts wrote meanwhile: all here"].startswith("10: after")
    assert figures["messages whose reports nobody took: all statuses right"].startswith("20: after")
    assert figures["sent or stored twice"] == "0 of 30"
