"""Counts the tests that did not run, so that a green run says how much of it was looked at.

A developer without Node or Chromium may skip their tests; CI may not: FAIL_ON_SKIP=1 turns any skip into a failure.
Each tox environment writes its skips to the file named by SKIP_REPORT, and `python tests/skips.py DIRECTORY` adds them
up; that runs on a bare Python, which is why pytest is imported for its types only.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def failing_on_skip() -> bool:
    return os.environ.get("FAIL_ON_SKIP", "") not in ("", "0")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):
        return  # one of several processes: the one that has started them hears of all skips
    reasons = _reasons(session.config)
    if report := os.environ.get("SKIP_REPORT"):
        path = pathlib.Path(report)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{reason}\n" for reason in reasons), encoding="utf-8")
    if reasons and failing_on_skip() and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if failing_on_skip() and (reasons := _reasons(config)):
        terminalreporter.line(f"FAIL_ON_SKIP is set, and {len(reasons)} tests did not run.", red=True)


def tally(reasons: list[str]) -> list[str]:
    """The reasons, the commonest first, each with its count."""
    return [f"{count:6d}  {reason}" for reason, count in Counter(reasons).most_common()]


def _reasons(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return [_reason(report.longrepr) for report in reporter.stats.get("skipped", [])] if reporter else []


def _reason(longrepr: object) -> str:
    # pytest's own is (file, line, "Skipped: why"); anything else is a plugin's and is shown as it is.
    text = longrepr[2].removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)
    return " ".join(text.split())


def main(directory: pathlib.Path) -> int:
    reports = sorted(directory.glob("*.txt"))
    reasons = [line for report in reports for line in report.read_text(encoding="utf-8").splitlines()]
    print(f"Skipped in {', '.join(report.stem for report in reports) or 'no environment'}: {len(reasons)}")
    for line in tally(reasons):
        print(line)
    return 1 if reasons and failing_on_skip() else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
