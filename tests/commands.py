"""Runs `conversations-api` as a user would: a program, with an environment of nothing but what is given."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, within a minute."""
    return subprocess.run(
        [sys.executable, "-m", "conversations_api", *arguments],
        cwd=ROOT,
        env=dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it does not run."""
    assert result.returncode != 0
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]  # our JSON logs
    assert len(lines) == 1, result.stderr
    return lines[0]
