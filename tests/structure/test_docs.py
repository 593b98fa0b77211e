"""Documentation that can be checked is checked: what a page names exists, and what exists is written down."""

import ast
import pathlib
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields

import pytest
import yaml

from conversations_api import settings
from handlers import problems

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("api", "conversations_api", "delivery", "handlers", "persistence", "tenancy")
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("serve", "worker", "migrate", "redact", "demo", "token")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def text_of(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- Settings and commands --------------------------------------------------------------------------------------------


def test_every_setting_has_a_row_in_the_operations_page_and_no_other_has() -> None:
    documented = re.findall(r"^\| *`([A-Z][A-Z0-9_]+)` *\|", read("docs/operations.md"), re.MULTILINE)
    assert sorted(documented) == sorted(settings.VARIABLES)


def test_the_operations_page_tells_which_command_needs_a_setting_and_what_it_is_otherwise() -> None:
    rows = re.findall(r"^\| *`([A-Z][A-Z0-9_]+)` *\|([^|]*)\|([^|]*)\|", read("docs/operations.md"), re.MULTILINE)
    documented = {variable: (needed_by.strip(), default.strip(" `")) for variable, needed_by, default in rows}
    expected = {
        setting.metadata["variable"]: (", ".join(setting.metadata["needed_by"]), shown(setting.default))
        for setting in fields(settings.Settings)
    }
    # Where there is none, the page may say in a word what that means.
    words = {variable: word for variable, (_, word) in documented.items() if expected[variable][1] == ""}
    assert set(words.values()) <= {"", "any", "none"}
    assert {variable: (needed, words.get(variable, default)) for variable, (needed, default) in expected.items()} == (
        documented
    )


def shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "redact"])
def test_the_settings_that_a_command_reads_are_in_its_help_and_no_others(command: str) -> None:
    needs, _, may_have = run(command, "--help").partition("\nmay have ")
    told = [set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b|\b(?:HOST|PORT)\b", part)) for part in (needs, may_have)]
    needed, read = (
        {each.metadata["variable"] for each in fields(settings.Settings) if command in each.metadata[role]}
        for role in ("needed_by", "read_by")
    )
    assert told[0] >= needed
    assert told[1] <= read
    assert told[0] | told[1] == needed | read


def test_every_setting_is_read_by_a_command() -> None:
    roles = [{*each.metadata["needed_by"], *each.metadata["read_by"]} for each in fields(settings.Settings)]
    assert all(roles)
    assert set().union(*roles) == {"serve", "worker", "migrate", "redact"}


def test_every_command_is_in_the_operations_page_and_answers_help() -> None:
    commands = set(re.findall(r"^    ([a-z]+) {2,}", run("--help"), re.MULTILINE))
    assert commands == set(COMMANDS)
    operations = read("docs/operations.md")
    assert [command for command in commands if f"| `conversations-api {command}` |" not in operations] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str) -> None:
    assert f"conversations-api {command}" in run(command, "--help")


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"\bmake ([a-z][a-z-]*)`", text_of(page))}
    assert {"demo", "clean"} <= named
    assert named - targets == set()


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "conversations_api", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


# --- Errors and log events --------------------------------------------------------------------------------------------


def test_every_error_code_of_the_contract_is_explained() -> None:
    codes = set(yaml.safe_load(read("api/openapi.yaml"))["components"]["schemas"]["ProblemCode"]["enum"])
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", read("docs/http-status-codes.md"), re.MULTILINE)
    assert len(rows) == len(codes)
    assert {code: int(status) for status, code in rows} == {code: problems.KINDS[code].status for code in codes}


def test_every_log_event_has_a_row_in_the_operations_page_and_no_other_has() -> None:
    rows = re.findall(r"^\| `([^`|]+)` \| (debug|info|warning|error) \|", read("docs/operations.md"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    events = {event for path in modules() for event in logged(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(events) > 20
    assert set(rows) == events


@pytest.mark.parametrize(
    ("source", "events"),
    [
        ("logger.info('a thing', extra={})", {("a thing", "info")}),
        ("logger.exception('b')", {("b", "error")}),
        ("logger.warning(\n    'c' if x else 'd'\n)", {("c", "warning"), ("d", "warning")}),
        ("logging.getLogger('twilio').setLevel(1)", set()),
        ("logging.getLogger(__name__).error('e', exc_info=error)", {("e", "error")}),
    ],
)
def test_the_events_of_a_module_are_found(source: str, events: set[tuple[str, str]]) -> None:
    assert logged(ast.parse(source)) == events


def modules() -> list[pathlib.Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def logged(tree: ast.AST) -> set[tuple[str, str]]:
    """Each event that a module logs, with its level."""
    levels = {name: name for name in ("debug", "info", "warning", "error")} | {"exception": "error"}
    return {
        (text.value, levels[call.func.attr])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in levels
        if "logger" in ast.unparse(call.func.value).lower()
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }


# --- Pages, and what they lead to -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_of_a_page_leads_somewhere(page: pathlib.Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)", text_of(page)):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    kept = string.ascii_lowercase + string.digits + " -_"
    return {"".join(c for c in heading.lower() if c in kept).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_file_that_a_page_names_exists(page: pathlib.Path) -> None:
    names = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|deploy|docs|benchmarks)/[\w./*-]*)`", text_of(page))
    # A word in capitals stands for any: `openapi-VERSION.yaml`.
    patterns = [re.sub(r"[A-Z]{3,}", "*", name.rstrip("/")) for name in names]
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_module_that_a_page_names_by_its_last_name_exists(page: pathlib.Path) -> None:
    known = {path.name for path in [*modules(), *(ROOT / "tests").rglob("*.py")]}
    assert [name for name in re.findall(r"`([a-z_]+\.py)`", text_of(page)) if name not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_test_that_a_page_names_exists(page: pathlib.Path) -> None:
    assert [named for named in named_tests(page) if not exists(named)] == []


def test_the_security_page_names_a_test_for_every_promise() -> None:
    rows = [line for line in read("docs/security.md").splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.startswith("| promise ")]
    assert len(promises) > 30
    assert [row for row in promises if not re.search(r"`tests/[^`]+::test_\w+`", row)] == []


def named_tests(page: pathlib.Path) -> Iterator[str]:
    yield from re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", text_of(page))


def exists(named: str) -> bool:
    path, _, function = named.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function for node in ast.walk(tree)
    )


def test_every_decision_is_listed_under_its_own_title() -> None:
    listed = dict(re.findall(r"\| (\d+) \| \[[^]]+\]\(([^)]+)\)", read("docs/decisions/README.md")))
    titles = re.findall(r"\| (\d+) \| \[([^]]+)\]", read("docs/decisions/README.md"))
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert sorted(listed.values()) == [page.name for page in pages]
    headings = [text_of(page).splitlines()[0] for page in pages]
    assert [f"# {number}. {title}" for number, title in titles] == headings


def test_the_readme_is_one_page() -> None:
    assert len(read("README.md").splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_a_page_tells_of_the_project_and_not_of_this_machine(page: pathlib.Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp|opt|usr)/\S*", text_of(page)) == []
