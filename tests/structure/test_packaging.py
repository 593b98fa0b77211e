"""What is shipped is what is declared, and what is declared is pinned.

setup.cfg lists packages and data explicitly, so a new directory or data file is easily forgotten, and then missing only
where the service runs from an installed wheel: in the image.
"""

import ast
import configparser
import importlib.metadata
import pathlib
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("api", "conversations_api", "delivery", "handlers", "persistence", "tenancy")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def requirements(value: str) -> list[Requirement]:
    parsed = [Requirement(line) for line in lines(value)]
    return [requirement for requirement in parsed if requirement.name != "faro-conversations"]


def pins() -> dict[str, Version]:
    pinned = [Requirement(line) for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8"))]
    return {canonicalize_name(line.name): Version(next(iter(line.specifier)).version) for line in pinned}


def source_files() -> list[pathlib.Path]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


def test_every_directory_with_code_is_a_listed_package() -> None:
    with_code = {".".join(path.parent.parts) for path in source_files() if path.suffix == ".py"}
    assert set(lines(setup_cfg()["options"]["packages"])) == with_code


def test_every_other_file_is_listed_package_data() -> None:
    declared = {
        path.relative_to(ROOT)
        for package, patterns in setup_cfg()["options.package_data"].items()
        for pattern in lines(patterns)
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert declared == {path for path in source_files() if path.suffix != ".py"}


def test_every_requirement_is_pinned_within_its_range() -> None:
    config = setup_cfg()
    wanted = requirements(config["options"]["install_requires"])
    for extra in config["options.extras_require"].values():
        wanted += requirements(extra)
    pinned = pins()
    wanted = [requirement for requirement in wanted if not requirement.marker or requirement.marker.evaluate()]
    unmet = [
        str(requirement)
        for requirement in wanted
        if canonicalize_name(requirement.name) not in pinned
        or pinned[canonicalize_name(requirement.name)] not in requirement.specifier
    ]
    assert unmet == []


def test_everything_that_a_requirement_brings_along_is_pinned_and_installed_as_pinned() -> None:
    config = setup_cfg()
    roots = requirements(config["options"]["install_requires"]) + requirements(config["options.extras_require"]["test"])
    pinned = pins()
    brought = closure([root for root in roots if not root.marker or root.marker.evaluate()])
    assert len(brought) > len(roots)
    assert {name: version for name, version in brought.items() if pinned.get(name) != version} == {}


def closure(roots: list[Requirement]) -> dict[str, Version]:
    """Every distribution that these requirements install, with the version that is installed here."""
    found: dict[str, Version] = {}
    seen = set()
    waiting = [(canonicalize_name(root.name), extra) for root in roots for extra in ("", *root.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = Version(importlib.metadata.version(name))
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, wanted) for wanted in ("", *requirement.extras)]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_library_that_is_imported_is_declared(package: str) -> None:
    config = setup_cfg()
    declared = requirements(config["options"]["install_requires"])
    if package == "conversations_api":  # the embedded PostgreSQL lives here, and what hands traces over
        declared += requirements(config["options.extras_require"]["demo"])
        declared += requirements(config["options.extras_require"]["tracing"])
    names = {canonicalize_name(requirement.name) for requirement in declared}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        top_level
        for path in (ROOT / package).rglob("*.py")
        for top_level in imported_libraries(ast.parse(path.read_text(encoding="utf-8")))
        if not names & {canonicalize_name(provider) for provider in providers.get(top_level, [])}
    }
    assert undeclared == set()


def test_every_library_that_is_declared_is_imported() -> None:
    providers = importlib.metadata.packages_distributions()
    imported = {
        canonicalize_name(provider)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for top_level in imported_libraries(ast.parse(path.read_text(encoding="utf-8")))
        for provider in providers.get(top_level, [])
    }
    declared = requirements(setup_cfg()["options"]["install_requires"])
    assert [one.name for one in declared if canonicalize_name(one.name) not in imported] == []


def imported_libraries(tree: ast.AST) -> set[str]:
    modules = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - set(PACKAGES)
