"""Generates every client from the contract: `make sdk`, or `python -m tests.sdk.generate FOLDER`.

Needs no network. Nothing is edited afterwards and no generator is given a file of corrections: where a generator made
something poor of the contract, the contract is what was changed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import api

ROOT = Path(__file__).parents[2]
NODE_PROGRAMS = ROOT / "tests/tools/node_modules/.bin"
NAME = "faro_conversations_client"


class ToolMissing(Exception):
    """A generator, or what it runs on, is not installed; the message says how to get it."""


def typescript(folder: Path) -> None:
    """The types that openapi-fetch works with."""
    # Without the flag a parameter with a default would have to be sent.
    options = ("--default-non-nullable=false", "--output", folder / "schema.ts")
    _run(node_program("openapi-typescript"), api.CONTRACT, *options)


def python(folder: Path) -> None:
    options = ("--overwrite", "--meta", "setup", "--fail-on-warning")
    _run(_beside_python("openapi-python-client"), "generate", "--path", api.CONTRACT, "--output-path", folder, *options)


def typescript_fetch(folder: Path) -> None:
    _openapi_generator("typescript-fetch", folder, f"npmName={NAME.replace('_', '-')}")


def ruby(folder: Path) -> None:
    _openapi_generator("ruby", folder, f"gemName={NAME},library=typhoeus")


GENERATORS: dict[str, Callable[[Path], None]] = {
    "typescript": typescript,
    "python": python,
    "typescript-fetch": typescript_fetch,
    "ruby": ruby,
}


def node_program(name: str) -> Path:
    """A program of tests/tools. Raises ToolMissing."""
    if shutil.which("node") is None or not (NODE_PROGRAMS / name).exists():
        raise ToolMissing(f"{name} is not installed; with Node 20 or newer: npm ci --prefix tests/tools")
    return NODE_PROGRAMS / name


def _openapi_generator(generator: str, folder: Path, properties: str) -> None:
    if shutil.which("java") is None:
        raise ToolMissing("openapi-generator needs Java 11 or newer; on Debian: apt install default-jre-headless")
    options = ("--additional-properties", properties, "--global-property", "apiTests=false,modelTests=false")
    command = ("generate", "-i", api.CONTRACT, "-g", generator, "-o", folder, *options)
    _run(_beside_python("openapi-generator-cli"), *command)


def _beside_python(name: str) -> Path:
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        raise ToolMissing(f"{name} is not installed; it comes with the extra `test`")
    return program


def _run(program: Path, *arguments: object) -> None:
    # Run elsewhere: openapi-typescript takes a redocly.yaml that it finds for its own settings.
    # openapi-python-client formats what it makes with ruff, which lies beside it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [program, *map(str, arguments)],
        check=False,
        cwd=tempfile.gettempdir(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=os.environ | {"PATH": path},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} ended with {done.returncode}:\n{done.stdout}")


def main(folder: Path) -> None:
    for name, generate in GENERATORS.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        try:
            generate(folder / name)
        except ToolMissing as missing:
            sys.exit(f"{name}: {missing}")
        print(f"{folder / name}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
