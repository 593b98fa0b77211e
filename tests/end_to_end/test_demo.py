"""The demo as a person meets it: started, looked at, stopped, started again, and killed."""

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from conversations_api import addresses, embedded_postgres
from tests.commands import ROOT, refusal, run

FIRST_START_SECONDS = 300
NEXT_START_SECONDS = 60
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Demo:
    """A demo in its own process, with what it has printed so far."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.printed = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "conversations_api", "demo", "--data-folder", str(folder)],
            cwd=ROOT,
            env={"PORT": str(port), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_until_ready(self, seconds: float) -> float:
        """How long it took from now."""
        started = time.monotonic()
        while "Ctrl-C stops everything" not in self.printed:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < started + seconds, self.printed
            time.sleep(0.05)
        return time.monotonic() - started

    def stop(self, number: signal.Signals) -> int:
        """Its exit status. Nothing that it had started may be left, its own children or theirs."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert len(family) > 6  # PostgreSQL with its processes, gunicorn with two, worker, simulator
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert [process.cmdline() for process in alive] == []
        return status

    @property
    def demo_json(self) -> Any:
        return json.loads((self.folder / "demo.json").read_text(encoding="utf-8"))

    def curls(self) -> list[str]:
        return [line.strip() for line in self.printed.splitlines() if line.strip().startswith("curl ")]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that others may not enter, as home directories are."""
    path = tmp_path_factory.mktemp("demo") / ".data"
    yield path
    embedded_postgres.remove(path)


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Demo]:
    """A demo that has just been started for the first time."""
    started = Demo(folder, addresses.free_port())
    try:
        started.wait_until_ready(FIRST_START_SECONDS)
        yield started
    finally:
        if started.process.poll() is None:
            started.stop(signal.SIGKILL)


def paste(command: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    result = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    return json.loads(result.stdout)


def test_loading_is_seen_to_proceed(demo: Demo) -> None:
    percentages = [int(number) for number in re.findall(r"(\d+) %", demo.printed)]
    assert percentages == list(range(10, 101, 10))


def test_demo_json_tells_scripts_where_everything_is(demo: Demo) -> None:
    content = demo.demo_json
    assert stat.S_IMODE((demo.folder / "demo.json").stat().st_mode) == 0o600
    assert set(content) == {"api_url", "ui_url", "simulator_url", "twilio", "database_url", "agencies"}
    assert content["api_url"] == f"http://127.0.0.1:{demo.port}/api/v1"
    assert httpx.get(content["ui_url"]).status_code == 200
    assert httpx.get(f"{content['simulator_url']}/simulator/faults").json()["dice"] == []
    assert set(content["twilio"]) == {"account_sid", "auth_token"}
    assert "//faro_app:" in content["database_url"]
    assert len(content["agencies"]) == 3
    for agency in content["agencies"]:
        assert UUID.fullmatch(agency["id"])
        assert set(agency["tokens"]) == {"owner", "admin", "manager", "staff", "viewer", "client_viewer"}
        locations = {location["id"] for location in agency["locations"]}
        assert {channel["location_id"] for channel in agency["channels"]} == locations
        assert {channel["kind"] for channel in agency["channels"]} == {"whatsapp", "sms"}
        assert all(re.fullmatch(r"\+120255501\d\d", channel["address"]) for channel in agency["channels"])


def test_private_files_are_nobody_elses(demo: Demo) -> None:
    private = ("installation.json", "postgres.json", "api.log", "worker.log", "simulator.log", "postgres.log")
    assert {stat.S_IMODE((demo.folder / name).stat().st_mode) for name in private} == {0o600}


def test_every_agency_has_an_inbox_that_looks_alive(demo: Demo) -> None:
    content = demo.demo_json
    for agency in content["agencies"]:
        client = api(content, agency, "viewer")
        listed = client.get("/conversations", params={"limit": 100}).json()
        assert listed["total"] > 50
        conversations = listed["conversations"]
        assert {one["status"] for one in conversations} == {"open", "in_progress", "resolved"}
        assert {one["channel"] for one in conversations} == {"whatsapp", "sms"}
        assert {one["last_message_direction"] for one in conversations} == {"inbound", "outbound"}
        assert {one["lead_status"] for one in conversations} == {None, "new", "quoted", "booked", "won", "lost"}
        assert {one["messaging"]["blocked_reason"] for one in conversations} >= {None, "whatsapp_window_closed"}
        assert any(one["contact_name"] for one in conversations)
        days = {one["last_message_at"][:10] for one in conversations}
        assert len(days) > 3
        # Every thread is in the order of the clock that it shows, and its last message is the list's.
        for one in conversations[:10]:
            thread = client.get(f"/conversations/{one['id']}/messages").json()["messages"]
            moments = [message["sent_at"] for message in thread]
            assert moments == sorted(moments, reverse=True)
            assert moments[0] == one["last_message_at"]


def test_the_curl_commands_work_as_they_are_printed(demo: Demo) -> None:
    list_inbox, read_thread, send = demo.curls()
    assert len(paste(list_inbox)["conversations"]) == 3
    before = paste(read_thread)["messages"]
    sent = paste(send)
    assert sent["status"] == "queued"
    assert paste(send)["id"] == sent["id"]
    assert [message["id"] for message in paste(read_thread)["messages"]][: len(before) + 1] == [
        sent["id"],
        *(message["id"] for message in before[:49]),
    ]


def test_what_the_readme_says_to_paste_sends_a_message(demo: Demo, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    pasted = re.search(r"```sh\n(demo\(\) \{.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert pasted is not None
    # The folder of a checkout, as far as the commands know it.
    (tmp_path / ".data").symlink_to(demo.folder)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    result = subprocess.run(
        ["/bin/sh", "-ec", pasted[1]], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert "HTTP/1.1 201 Created" in result.stdout
    assert "idempotent-replayed: false" in result.stdout
    assert result.stdout.count('"content":"Thank you, see you tomorrow!"') >= 2  # as it was sent, and as it is read


def test_a_contact_answers_what_is_sent(demo: Demo) -> None:
    content = demo.demo_json
    client = api(content, content["agencies"][2], "staff")
    waiting = client.get("/conversations", params={"limit": 100}).json()["conversations"]
    chosen = next(one for one in waiting if one["messaging"]["can_send_freeform"] and one["channel"] == "whatsapp")
    path = f"/conversations/{chosen['id']}/messages"
    sent = client.post(path, json={"content": "How are you?"}).json()
    deadline = time.monotonic() + 60
    while (newest := client.get(path, params={"limit": 1}).json()["messages"][0])["direction"] != "inbound":
        assert time.monotonic() < deadline, newest
        time.sleep(0.1)
    assert client.get(f"/messages/{sent['id']}").json()["status"] == "read"


def test_every_agency_has_one_message_of_which_nobody_knows_the_outcome_and_it_can_be_sent_again(demo: Demo) -> None:
    content = demo.demo_json
    for agency in content["agencies"]:
        client = api(content, agency, "staff")
        listed = client.get("/conversations", params={"limit": 100}).json()["conversations"]
        threads = (client.get(f"/conversations/{one['id']}/messages").json()["messages"] for one in listed)
        (lost,) = [message for thread in threads for message in thread if message["status"] == "unconfirmed"]
        assert client.post(f"/messages/{lost['id']}/resend").json()["status"] == "queued"
        deadline = time.monotonic() + 60
        while (now := client.get(f"/messages/{lost['id']}").json())["status"] not in ("delivered", "read"):
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
        assert not now["duplicate_detected"]


def test_a_member_of_two_agencies_has_the_role_held_in_each(demo: Demo) -> None:
    content = demo.demo_json
    first, second, third = content["agencies"]
    client = api(content, third, "manager")
    there = {"X-Tenant-ID": second["id"]}
    theirs = client.get("/conversations", headers=there).json()["conversations"]
    assert {one["location_id"] for one in theirs} <= {location["id"] for location in second["locations"]}
    path = f"/conversations/{theirs[0]['id']}/messages"
    refused = client.post(path, headers=there, json={"content": "Hi"})
    assert (refused.status_code, refused.json()["code"]) == (403, "role_forbidden")
    assert client.get("/conversations", headers={"X-Tenant-ID": first["id"]}).json()["code"] == "tenant_forbidden"


def test_a_token_can_be_made_for_any_role(demo: Demo) -> None:
    content = demo.demo_json
    options = ["--agency", "north", "--role", "viewer", "--user", "someone", "--data-folder", str(demo.folder)]
    made = run("token", *options)
    assert made.returncode == 0, made.stderr
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    listed = httpx.get(f"{content['api_url']}/conversations", headers=headers).json()["conversations"]
    ours = {location["id"] for location in content["agencies"][1]["locations"]}
    assert {one["location_id"] for one in listed} <= ours
    assert "no role" in refusal(run("token", "--agency", "north", "--role", "king", "--data-folder", str(demo.folder)))


def test_a_second_demo_on_the_same_port_or_folder_says_what_is_in_the_way(demo: Demo) -> None:
    folder = str(demo.folder)
    said = refusal(run("demo", "--data-folder", folder, environment={"PORT": str(demo.port)}))
    assert f"port {demo.port}" in said
    result = run("demo", "--data-folder", folder, environment={"PORT": str(addresses.free_port())})
    assert (result.returncode, "already running" in result.stderr) == (1, True)
    assert httpx.get(f"{demo.demo_json['api_url']}/readyz").status_code == 200


def test_it_stops_whole_starts_again_with_its_data_and_leaves_nothing_when_killed(demo: Demo) -> None:
    before = demo.demo_json
    agency = before["agencies"][0]
    client = api(before, agency, "staff")
    kept = client.get("/conversations", params={"limit": 100}).json()
    assert demo.stop(signal.SIGTERM) == 0
    assert "Stopped." in demo.printed
    assert not (demo.folder / "demo.json").exists()

    again = Demo(demo.folder, demo.port)
    try:
        again.wait_until_ready(NEXT_START_SECONDS)
        assert "%" not in again.printed  # nothing is loaded anew
        after = again.demo_json
        assert [one["id"] for one in after["agencies"]] == [one["id"] for one in before["agencies"]]
        assert after["twilio"] == before["twilio"]
        found = api(after, agency, "staff").get("/conversations", params={"limit": 100}).json()
        # Those who were just answered may have written meanwhile.
        assert found["total"] == kept["total"]
        assert {one["id"] for one in found["conversations"]} == {one["id"] for one in kept["conversations"]}
    finally:
        status = again.stop(signal.SIGKILL)
    assert status == -signal.SIGKILL


def api(content: Any, agency: Any, role: str) -> httpx.Client:
    """A client of the demo with the agency's token of that role."""
    return httpx.Client(
        base_url=content["api_url"], headers={"Authorization": f"Bearer {agency['tokens'][role]}"}, timeout=30
    )
