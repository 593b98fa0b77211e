"""The example front end does in a browser what its page promises: built by Vite, on the contract's own types."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from conversations_api.demo.invented_agencies import Agency
from delivery.simulator.webhooks import Inbound
from tests import commands
from tests.browser.conftest import listens
from tests.sdk import generate
from tests.stack import Stack

EXAMPLE = generate.ROOT / "examples/inbox"
PHONES = [f"+120255502{number:02d}" for number in range(25)]
MESSAGES = 60


def node(program: str) -> Path:
    try:
        return generate.node_program(program)
    except generate.ToolMissing as missing:
        pytest.skip(str(missing))


def run(folder: Path, *command: str | Path) -> None:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, checked strictly and built as `npm run build` does, with the tools of the tests."""
    folder = tmp_path_factory.mktemp("example") / "inbox"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "schema.ts"))
    tsc, vite = node("tsc"), node("vite")
    generate.typescript(folder)
    (folder / "node_modules").symlink_to(generate.ROOT / "tests/tools/node_modules")
    run(folder, tsc)
    run(folder, vite, "build")
    return folder


@pytest.fixture(scope="module")
def address(built: Path, example_port: int) -> Iterator[str]:
    """Where Vite serves it."""
    options = ("preview", "--host", "127.0.0.1", "--port", str(example_port), "--strictPort")
    with subprocess.Popen([node("vite"), *options], cwd=built, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while not listens(example_port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"http://127.0.0.1:{example_port}/"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def agency(site: Stack) -> Agency:
    """An inbox of two pages; the newest conversation has a thread of two pages."""
    agency = site.agencies[1]
    channel = next(channel for channel in agency.channels if channel.kind == "sms")
    for phone in PHONES:
        site.write(channel, phone, f"Hello, this is {phone}")
    for number in range(2, MESSAGES + 1):
        site.write(channel, PHONES[-1], f"Message {number}")
    return agency


def link(site: Stack, address: str, token: str) -> str:
    return f"{address}#{urlencode({'api': site.api_url, 'token': token})}"


def conversations(page: Page) -> Locator:
    return page.locator("#inbox button")


def messages(page: Page) -> Locator:
    return page.locator("#thread li")


def test_the_inbox_is_listed_newest_first_and_to_its_end(page: Page, site: Stack, address: str, agency: Agency) -> None:
    page.goto(link(site, address, site.token(agency)))
    expect(conversations(page)).to_have_count(20)
    expect(conversations(page).first).to_contain_text(f"Message {MESSAGES}")
    page.get_by_role("button", name="More conversations").click()
    expect(conversations(page)).to_have_count(25)
    expect(conversations(page).last).to_contain_text(f"Hello, this is {PHONES[0]}")
    expect(page.get_by_role("button", name="More conversations")).to_be_hidden()


def test_a_thread_is_turned_back_to_its_first_message(page: Page, site: Stack, address: str, agency: Agency) -> None:
    page.goto(link(site, address, site.token(agency)))
    conversations(page).first.click()
    expect(messages(page)).to_have_count(50)
    page.get_by_role("button", name="Older messages").click()
    expect(messages(page)).to_have_count(MESSAGES)
    expect(messages(page).first).to_contain_text(f"Hello, this is {PHONES[-1]}")
    expect(page.get_by_role("button", name="Older messages")).to_be_hidden()
    # In one step: the page puts new elements in their place every second.
    shown = page.evaluate("[...document.querySelectorAll('#thread li')].map(item => item.firstChild.textContent)")
    assert shown == [f"Hello, this is {PHONES[-1]}", *(f"Message {number}" for number in range(2, MESSAGES + 1))]


def test_an_answer_is_sent_once_and_seen_delivered(page: Page, site: Stack, address: str, agency: Agency) -> None:
    page.goto(link(site, address, site.token(agency)))
    conversations(page).nth(3).click()
    expect(messages(page)).to_have_count(1)
    page.get_by_label("Your answer").fill("Yes, we are open.")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(messages(page)).to_have_count(2)
    expect(messages(page).last).to_contain_text("Yes, we are open.")
    expect(messages(page).last).to_contain_text(re.compile("delivered|read"))
    expect(page.get_by_label("Your answer")).to_have_value("")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "inbox.png")


def test_what_the_contact_writes_meanwhile_appears(page: Page, site: Stack, address: str, agency: Agency) -> None:
    page.goto(link(site, address, site.token(agency)))
    button = conversations(page).nth(5)
    button.click()
    expect(messages(page)).to_have_count(1)
    phone = button.inner_text().splitlines()[0]
    channel = next(channel for channel in agency.channels if channel.kind == "sms")
    site.write(channel, phone, "Are you there?")
    expect(messages(page).last).to_contain_text("Are you there?")


def test_a_refusal_is_shown_in_the_words_of_the_server_and_stays(
    page: Page, site: Stack, address: str, agency: Agency
) -> None:
    page.goto(link(site, address, site.token(agency, role="viewer")))
    conversations(page).nth(7).click()
    page.get_by_label("Your answer").fill("May I?")
    page.get_by_role("button", name="Send", exact=True).click()
    refusal = page.get_by_role("alert")
    expect(refusal).to_contain_text("Your role in this agency does not permit this.")
    for _ in range(2):  # the page reads the thread every second
        with page.expect_response("**/messages*"):
            pass
    expect(refusal).to_contain_text("Your role in this agency does not permit this.")
    expect(page.get_by_label("Your answer")).to_have_value("May I?")
    conversations(page).nth(8).click()  # it was about another one
    expect(refusal).to_be_hidden()


def test_a_message_without_a_text_says_what_it_is_and_an_attachment_beside_a_text_is_shown(
    page: Page, site: Stack, address: str
) -> None:
    agency = site.new_agency()
    sms = agency.channels[1]
    for body in ("", "My tooth"):
        picture = ((None, "image/jpeg"),)
        site.simulator.receive(
            Inbound(sms.account_sid, from_=PHONES[0], to=sms.twilio_address, body=body, media=picture)
        )
    page.goto(link(site, address, site.token(agency)))
    conversations(page).click()
    expect(messages(page)).to_have_count(2)
    expect(messages(page).first).to_contain_text("Attachment: image/jpeg")
    expect(messages(page).last).to_contain_text(re.compile("My tooth.*Attachment: image/jpeg", re.DOTALL))
    template = {"content_sid": "HX" + "1" * 32, "variables": {"1": "Saturday"}}
    send(site, agency, {"template": template})
    expect(messages(page).last).to_contain_text(f"Template {template['content_sid']} · Saturday")
    expect(messages(page).last).to_contain_text(re.compile("delivered|read"))
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "inbox-without-text.png")
    names = ("SECRETS_KEY", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_BASE_URL")
    environment = {name: site.environment[name] for name in names} | {"MIGRATION_DATABASE_URL": site.urls.owner}
    redacted = commands.run("redact", "--agency", str(agency.id), "--phone", PHONES[0], environment=environment)
    assert redacted.returncode == 0
    for message in range(3):
        expect(messages(page).nth(message)).to_contain_text("Deleted at the contact's request.")


def send(site: Stack, agency: Agency, body: dict[str, object]) -> None:
    (conversation,) = site.conversations(agency)
    assert site.post(agency, f"/conversations/{conversation['id']}/messages", body).status == 201


def test_where_nothing_can_be_sent_the_page_says_so_before_anybody_writes(
    page: Page, site: Stack, address: str
) -> None:
    agency = site.new_agency()
    site.write(agency.channels[1], PHONES[0], "Hello")
    page.goto(link(site, address, site.token(agency)))
    conversations(page).click()
    expect(page.get_by_label("Your answer")).to_be_enabled()
    site.write(agency.channels[1], PHONES[0], "STOP")
    expect(page.get_by_label("Your answer")).to_be_disabled()
    expect(page.locator("#conversation")).to_contain_text("The contact wrote STOP")
    site.write(agency.channels[1], PHONES[0], "START")
    expect(page.get_by_label("Your answer")).to_be_enabled()
    expect(page.locator("#conversation")).not_to_contain_text("The contact wrote STOP")


def test_what_nobody_knows_the_outcome_of_can_be_sent_again(page: Page, site: Stack, address: str) -> None:
    agency = site.new_agency()
    site.write(agency.channels[1], PHONES[0], "Hello")
    site.simulator.set_faults({"script": [{"kind": "close_before_reading", "to": PHONES[0]}]})
    send(site, agency, {"content": "Hello to you"})
    page.goto(link(site, address, site.token(agency)))
    conversations(page).click()
    again = messages(page).last.get_by_role("button", name="Send again (it may arrive twice)")
    again.click()
    # It is being looked into for a quarter of an hour first.
    expect(page.get_by_role("alert")).to_contain_text("Only an unconfirmed message can be resent.")


def test_on_a_narrow_screen_everything_stands_below_each_other(
    page: Page, site: Stack, address: str, agency: Agency
) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(link(site, address, site.token(agency)))
    conversations(page).first.click()
    expect(messages(page).first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "inbox-narrow.png", full_page=True)


@contextmanager
def another_origin(folder: Path) -> Iterator[str]:
    """The same page on a port that the API was not told of."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_page_of_another_origin_may_not_read(
    browser: Browser, site: Stack, built: Path, address: str, agency: Agency
) -> None:
    # Without `page`: here the browser has to complain.
    ask = "address => fetch(address).then(answer => answer.status, () => 'refused')"
    healthz = f"{site.api_url}/healthz"
    page = browser.new_page()
    page.goto(address)
    assert page.evaluate(ask, healthz) == 200
    with another_origin(built / "dist") as elsewhere:
        page.goto(link(site, elsewhere, site.token(agency)))
        assert page.evaluate(ask, healthz) == "refused"
        expect(page.get_by_role("alert")).to_contain_text("The API cannot be reached from this page")
        expect(conversations(page)).to_have_count(0)
    page.close()


def test_the_page_stays_below_a_hundred_and_fifty_lines() -> None:
    assert len((EXAMPLE / "inbox.ts").read_text(encoding="utf-8").splitlines()) < 150


def test_the_example_is_tested_with_the_versions_that_it_asks_for() -> None:
    wanted, installed = (
        json.loads((folder / "package.json").read_text(encoding="utf-8"))
        for folder in (EXAMPLE, generate.ROOT / "tests/tools")
    )
    asked = wanted["dependencies"] | wanted["devDependencies"]
    assert {name: installed["dependencies"].get(name) for name in asked} == asked


@pytest.mark.parametrize("folder", [EXAMPLE, generate.ROOT / "tests/tools"], ids=["example", "tools"])
def test_a_lock_file_names_versions_and_hashes_and_no_address(folder: Path) -> None:
    packages = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    declared = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    assert packages[""]["dependencies"] == declared["dependencies"]
    assert all("integrity" in each for path, each in packages.items() if path)
    assert not any("resolved" in each for each in packages.values())
