"""Spectral and Redocly find nothing in the contract, with their recommended rules, ours, and no exception.

They are Node programs, pinned in tests/tools; without them these tests skip and say how to get them.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import api
from tests.contract.document import Node, load

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/tools/node_modules/.bin"


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None or not (PROGRAMS / program).exists():
        pytest.skip(f"{program} is not installed; with Node 20 or newer: npm ci --prefix tests/tools")
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}
    return subprocess.run(
        [PROGRAMS / program, *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | quiet,
    )


def spectral(path: Path) -> list[str]:
    """The rules that Spectral finds broken, of whatever severity."""
    options = ("--quiet", "--ruleset", ".spectral.yaml", "--fail-severity", "hint", "--format", "json")
    done = run("spectral", "lint", *options, str(path))
    found = [str(finding["code"]) for finding in json.loads(done.stdout)]
    assert (done.returncode != 0) == bool(found), done.stderr
    return found


def redocly(path: Path) -> list[str]:
    """The rules that Redocly finds broken, warnings and what it was told to ignore included."""
    done = run("redocly", "lint", "--config", "redocly.yaml", "--format", "json", str(path))
    report = json.loads(done.stdout)
    assert report["totals"]["ignored"] == 0
    return [str(problem["ruleId"]) for problem in report["problems"]]


@pytest.mark.parametrize("linter", [spectral, redocly])
def test_the_linter_finds_nothing(linter: Callable[[Path], list[str]]) -> None:
    assert linter(api.CONTRACT) == []


def test_nothing_is_ignored() -> None:
    assert list(ROOT.glob(".redocly.lint-ignore*")) == []
    for name in (".spectral.yaml", "redocly.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not any(
            word in text for word in ("overrides:", ": off", ": 'off'", ": false", "except:", "severity: warn")
        )
    assert ROOT.joinpath("redocly.yaml").read_text(encoding="utf-8").count('"off"') == 1  # telemetry, not a rule


def write(document: Node, path: Path) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_spectral_finds_what_breaks_each_of_our_rules(tmp_path: Path) -> None:
    document = load()
    operation: dict[str, Any] = document["paths"]["/conversations"]["get"]
    operation["operationId"] = "list_conversations"
    operation["tags"] = ["conversations", "messages"]
    del operation["responses"]["431"]
    responses, bodies = document["components"]["responses"], document["components"]["requestBodies"]
    content = responses["MessageNotFound"]["content"]
    content["application/json"] = content.pop("application/problem+json")
    del responses["Health"]["headers"]
    del responses["Readiness"]["content"]["application/json"]["examples"]
    del bodies["SendMessage"]["content"]["application/json"]["examples"]
    found = spectral(write(document, tmp_path / "openapi.json"))
    ours = {code for code in found if code.startswith("faro-")}
    rules = (ROOT / ".spectral.yaml").read_text(encoding="utf-8").splitlines()
    assert ours == {line.strip(" :") for line in rules if line.startswith("  faro-")}


@pytest.mark.parametrize(
    ("linter", "rules"),
    [
        (spectral, {"operation-description", "oas3-valid-media-example", "oas3-unused-component"}),
        (redocly, {"operation-summary", "operation-4xx-problem-details-rfc7807", "response-contains-header"}),
        (redocly, {"no-unused-components", "info-license"}),
    ],
)
def test_the_recommended_rules_are_on(linter: Callable[[Path], list[str]], rules: set[str], tmp_path: Path) -> None:
    document = load()
    del document["info"]["license"]
    del document["paths"]["/conversations"]["get"]["description"]
    del document["paths"]["/conversations"]["get"]["summary"]
    document["components"]["schemas"]["Unused"] = {"type": "string", "description": "Nobody needs it."}
    document["components"]["examples"]["Alive"]["value"] = {"status": 7}
    responses = document["components"]["responses"]
    content = responses["MessageNotFound"]["content"]
    content["application/json"] = content.pop("application/problem+json")
    del responses["Health"]["headers"]
    assert rules <= set(linter(write(document, tmp_path / "openapi.json")))
