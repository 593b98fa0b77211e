"""The generated clients as the tests see them: how each is compiled strictly, and how its driver is run.

A driver is a short program in the client's language that does what a screen does and prints what it saw. It is told
where the server is by the environment variable SESSION, and is the same for the service and for the mock.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.generate import GENERATORS, ROOT, ToolMissing, node_program

DRIVERS = Path(__file__).with_name("drivers")


@dataclass(frozen=True)
class Client:
    """One client. `folder` is where `make sdk` puts it."""

    name: str
    folder: str
    compile: tuple[str, ...]
    run: tuple[str, ...]
    needs: tuple[str, ...]


_TSC = ("node", "node_modules/typescript/bin/tsc", "--project", "drivers")
_PYTHON = (sys.executable,)
CLIENTS = [
    Client("openapi-fetch", "typescript", _TSC, ("node", "built/drivers/openapi_fetch.js"), ("node",)),
    Client("typescript-fetch", "typescript-fetch", _TSC, ("node", "built/drivers/typescript_fetch.js"), ("node",)),
    Client(
        "python",
        "python",
        (*_PYTHON, "-m", "mypy", "--strict", "python/faro_conversations_client", "drivers/python_client.py"),
        (*_PYTHON, "drivers/python_client.py"),
        (),
    ),
    Client("ruby", "ruby", ("ruby", "-wc", "drivers/ruby_client.rb"), ("ruby", "drivers/ruby_client.rb"), ("ruby",)),
]


class Workspace:
    """A folder with the clients as they were generated, each once and only when it is asked for, and the drivers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, str] = {}
        self._compiled: dict[tuple[str, ...], str] = {}
        shutil.copytree(DRIVERS, folder / "drivers")
        (folder / "node_modules").symlink_to(ROOT / "tests/tools/node_modules")

    def generate(self, name: str) -> Path:
        """Skips the test where a tool is missing."""
        if name not in self._made:
            try:
                GENERATORS[name](self.folder / name)
                self._made[name] = ""
            except ToolMissing as missing:
                self._made[name] = str(missing)
        if self._made[name]:
            pytest.skip(self._made[name])
        return self.folder / name

    def compile(self, client: Client) -> str:
        """What the strict compiler has to say; empty when it is content."""
        self._require(client)
        for name in ("typescript", "typescript-fetch") if client.compile == _TSC else (client.folder,):
            self.generate(name)
        if client.compile not in self._compiled:
            done = self._run(client.compile)
            self._compiled[client.compile] = "" if done.returncode == 0 else done.stdout + done.stderr
        return self._compiled[client.compile]

    def run(self, client: Client, session: dict[str, Any]) -> dict[str, Any]:
        """What the driver saw."""
        assert not (found := self.compile(client)), found
        done = self._run(client.run, SESSION=json.dumps(session))
        assert done.returncode == 0, done.stdout + done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    def _require(self, client: Client) -> None:
        for program in client.needs:
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        if client.compile == _TSC:
            try:
                node_program("tsc")
            except ToolMissing as missing:
                pytest.skip(str(missing))
        if (
            client.name == "ruby"
            and subprocess.run(["ruby", "-rtyphoeus", "-e", ""], check=False, capture_output=True).returncode
        ):
            pytest.skip("the Ruby library typhoeus is not installed; on Debian: apt install ruby-typhoeus")

    def _run(self, command: tuple[str, ...], **variables: str) -> subprocess.CompletedProcess[str]:
        paths = {
            "PYTHONPATH": str(self.folder / "python"),
            "MYPYPATH": str(self.folder / "python"),
            "RUBYLIB": str(self.folder / "ruby/lib"),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            command,
            cwd=self.folder,
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env={**os.environ, **paths, **variables},
        )
