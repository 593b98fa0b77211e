"""Documentation that can be checked is checked: every setting, command, error code and make target is written down."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from conversations_api import settings

ROOT = pathlib.Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_has_a_row_in_the_operations_page_and_no_other_has() -> None:
    documented = re.findall(r"^\| *`([A-Z][A-Z0-9_]+)` *\|", read("docs/operations.md"), re.MULTILINE)
    assert sorted(documented) == sorted(settings.VARIABLES)


def test_every_command_is_in_the_operations_page_and_answers_help() -> None:
    help_text = run("--help")
    commands = set(re.findall(r"^\s{2,}(serve|worker|migrate|demo|token)\b", help_text, re.MULTILINE))
    assert commands == {"serve", "worker", "migrate", "demo", "token"}
    operations = read("docs/operations.md")
    assert [command for command in commands if f"conversations-api {command}" not in operations] == []


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "demo", "token"])
def test_a_command_explains_itself(command: str) -> None:
    assert f"conversations-api {command}" in run(command, "--help")


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "conversations_api", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_error_code_of_the_contract_is_explained() -> None:
    contract = yaml.safe_load(read("api/openapi.yaml"))
    codes = set(contract["components"]["schemas"]["ProblemCode"]["enum"])
    assert len(codes) > 10
    explained = set(re.findall(r"`([a-z_]+)`", read("docs/http-status-codes.md")))
    assert codes - explained == set()


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {
        target for page in pages for target in re.findall(r"`make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"))
    }
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert len(pages) > 3
    assert broken == []
