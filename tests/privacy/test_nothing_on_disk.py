"""No body of a request is written to a file on its way, however large it is and in whatever form it comes."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.agencies import Agency
from tests.api_client import BASE_PATH, FORM, INBOUND, Api, inbound_form

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """What this process opens for writing while somebody looks; a hook of the interpreter cannot be taken away."""

    def __init__(self) -> None:
        self.is_looking = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_looking and (event.startswith("tempfile.") or (event == "open" and arguments[2] & WRITES)):
            self.seen.append(f"{event} {arguments[0]}")

    @contextmanager
    def looking(self) -> Iterator[list[str]]:
        self.seen.clear()
        self.is_looking = True
        try:
            yield self.seen
        finally:
            self.is_looking = False


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


def test_no_body_is_written_to_a_file(api: Api, mine: Agency, watch: Watch) -> None:
    me, conversation = api.of(mine), api.converse(mine)
    path = f"/conversations/{conversation}/messages"
    files = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 600_000 + b"\r\n--x--"
    multipart = ("Content-Type", "multipart/form-data; boundary=x")
    long_form = inbound_form(mine, "long", Other="x" * 50_000)
    with watch.looking() as opened:
        statuses = [
            me.post(path, {"content": "x" * 1600}).status,
            me.post(path, b'{"content": "' + b"x" * 60_000 + b'"}').status,
            api.post_signed(INBOUND, long_form.items()).status,
            api.ask("POST", INBOUND, headers=[multipart], body=files[:60_000]).status,
            api.ask("POST", INBOUND, headers=[multipart], body=files).status,
            api.ask("POST", INBOUND, headers=[("Content-Type", FORM)], body=b"a=" + b"x" * 600_000).status,
            api.ask("POST", BASE_PATH + path, headers=[multipart], body=files).status,
        ]
    assert opened == []
    assert statuses == [201, 400, 200, 415, 415, 413, 415]


def test_the_watch_sees_what_is_written(watch: Watch) -> None:
    with watch.looking() as opened, tempfile.TemporaryFile() as file:
        file.write(b"x")
    assert len(opened) >= 1
