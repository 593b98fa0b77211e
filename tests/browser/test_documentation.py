"""What a developer sees who opens the documentation in a browser, without a network."""

import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.contract.document import Operation, load, operations
from tests.stack import Stack

OPERATIONS = {operation.node["operationId"]: operation for operation in operations(load())}
# What each operation is answered when it is tried out as it stands, with a token and real ids.
EXPECTED = {
    "listConversations": "200",
    "getConversation": "200",
    "listMessages": "200",
    "sendMessage": "201",
    "getMessage": "200",
    "resendMessage": "422",
    "receiveInboundMessage": "403",
    "receiveMessageStatus": "403",
    "getHealth": "200",
    "getReadiness": "200",
}
PHONE = "+12025550188"


@pytest.fixture(scope="module")
def ids(site: Stack) -> dict[str, str]:
    """Of a conversation with a message, for the parameters of every path."""
    agency = site.agencies[0]
    channel = next(channel for channel in agency.channels if channel.kind == "sms")
    site.write(channel, PHONE, "Do you have a table for two?")
    conversation = next(each for each in site.conversations(agency) if each["contact_phone"] == PHONE)
    message = next(site.messages(agency, conversation["id"]))
    attempt = {"agency_id": str(agency.id), "attempt": "1"}
    return {"conversation_id": conversation["id"], "message_id": message["id"], **attempt}


class SwaggerUi:
    """The page as a visitor uses it."""

    def __init__(self, page: Page, site: Stack) -> None:
        self.page = page
        self.address = f"{site.api_url}/ui/"
        self.token = site.token(site.agencies[0])

    def open(self, link: str = "") -> None:
        # Another fragment alone would not load the page anew.
        self.page.goto("about:blank")
        self.page.goto(self.address + link)
        expect(self.page.locator(".opblock-tag").first).to_be_visible()

    def authorize(self) -> None:
        self.page.locator(".auth-wrapper button.authorize").click()
        dialog = self.page.locator(".modal-ux")
        dialog.locator("input").fill(self.token)
        dialog.locator("button.authorize").click()
        dialog.locator("button.btn-done").click()

    def operation(self, operation: Operation) -> Locator:
        """Opened by its own link."""
        tag, name = operation.node["tags"][0], operation.node["operationId"]
        self.open(f"#/{tag}/{name}")
        block = self.page.locator(f"#operations-{tag}-{name}")
        expect(block.locator(".opblock-body")).to_be_visible()
        return block

    def try_out(
        self, operation: Operation, values: dict[str, str], *, authorize: bool = False, body: str | None = None
    ) -> Locator:
        """Its block, with the answer."""
        block = self.operation(operation)
        if authorize:
            self.authorize()
        block.locator(".try-out__btn").click()
        for row in block.locator("tr[data-param-name]").all():
            name = row.get_attribute("data-param-name")
            if row.get_attribute("data-param-in") == "path" or name in values:
                row.locator("input").fill(values[name or ""])
        if body is not None:
            block.locator("textarea.body-param__text").fill(body)
        block.locator("button.execute").click()
        expect(block.locator(".live-responses-table .response-col_status").last).to_be_visible()
        return block


@pytest.fixture
def ui(page: Page, site: Stack) -> SwaggerUi:
    return SwaggerUi(page, site)


def answer(block: Locator) -> tuple[str, str]:
    """Status and body as they are shown."""
    table = block.locator(".live-responses-table tbody tr.response")
    status = table.locator(".response-col_status").inner_text().split()[0]
    shown = table.locator(".highlight-code code")
    return status, shown.first.inner_text() if shown.count() else ""


def test_operations_stand_in_their_groups_in_the_order_of_the_contract(ui: SwaggerUi) -> None:
    ui.open()
    groups: dict[str, list[str]] = {}
    for section in ui.page.locator(".opblock-tag-section").all():
        tag = section.locator(".opblock-tag").get_attribute("data-tag") or ""
        blocks = section.locator(".opblock").all()
        groups[tag] = [(block.get_attribute("id") or "").removeprefix(f"operations-{tag}-") for block in blocks]
    expected: dict[str, list[str]] = {tag["name"]: [] for tag in load()["tags"]}
    for name, operation in OPERATIONS.items():
        expected[operation.node["tags"][0]].append(name)
    assert groups == expected
    assert list(groups) == list(expected)


def test_the_introduction_is_a_chapter_with_its_tables(ui: SwaggerUi) -> None:
    ui.open()
    headings = ui.page.locator(".information-container h2").all_inner_texts()
    assert {"Authentication", "Choosing the tenant", "Idempotency", "Errors"} <= set(headings)
    assert ui.page.locator(".information-container table").count() >= 2


def test_the_introduction_leads_to_the_page_to_read(ui: SwaggerUi) -> None:
    ui.open()
    if folder := os.environ.get("SCREENSHOTS"):
        ui.page.screenshot(path=Path(folder) / "swagger-ui-introduction.png")
    ui.page.get_by_role("link", name="read everything on one page").click()
    expect(ui.page.locator("h1").first).to_have_text(re.compile("Faro Conversations"))
    assert ui.page.url.endswith("/docs")


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_can_be_tried_out(ui: SwaggerUi, ids: dict[str, str], name: str) -> None:
    block = ui.try_out(OPERATIONS[name], ids, authorize=True)
    status, body = answer(block)
    assert (status, "no body" if not body else "") == (EXPECTED[name], "")
    if status < "300":  # for errors Swagger UI does not show it
        assert re.search(r"Request duration\s+\d+ ms", block.inner_text())


def test_the_expected_answers_are_those_of_every_operation() -> None:
    assert EXPECTED.keys() == OPERATIONS.keys()


def test_a_token_is_remembered_when_the_page_is_loaded_anew(ui: SwaggerUi) -> None:
    assert answer(ui.try_out(OPERATIONS["listConversations"], {}))[0] == "401"
    ui.authorize()
    assert answer(ui.try_out(OPERATIONS["listConversations"], {}))[0] == "200"


def test_a_message_that_is_sent_is_seen_in_its_conversation(ui: SwaggerUi, ids: dict[str, str]) -> None:
    content = f"Yes, at eight. {uuid.uuid4()}"
    key = {"Idempotency-Key": str(uuid.uuid4())}
    sent = ui.try_out(OPERATIONS["sendMessage"], ids | key, authorize=True, body=f'{{"content": "{content}"}}')
    status, body = answer(sent)
    assert status == "201"
    assert content in body
    # What the browser may show of the answer's headers, it shows.
    assert "idempotent-replayed: false" in sent.inner_text()
    photograph(ui.page, sent)
    listed = answer(ui.try_out(OPERATIONS["listMessages"], ids))
    assert listed[0] == "200"
    assert content in listed[1]


def photograph(page: Page, block: Locator) -> None:
    """From the operation's name to its answer, into the folder that SCREENSHOTS names; kept in docs/images."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.evaluate("scrollTo(0, 0)")
        whole, shown = block.bounding_box(), block.locator(".live-responses-table").bounding_box()
        assert whole is not None
        assert shown is not None
        clip = {**whole, "height": shown["y"] + shown["height"] - whole["y"]}
        page.screenshot(path=Path(folder) / "swagger-ui.png", full_page=True, clip=clip)  # type: ignore[arg-type]


def test_an_error_can_be_read(ui: SwaggerUi) -> None:
    other = {"conversation_id": str(uuid.uuid4())}
    status, body = answer(ui.try_out(OPERATIONS["getConversation"], other, authorize=True))
    assert status == "404"
    assert '"code": "conversation_not_found"' in body
    assert '"request_id"' in body


def test_what_may_be_left_out_is_not_filled_in_with_an_example(ui: SwaggerUi) -> None:
    block = ui.operation(OPERATIONS["listConversations"])
    block.locator(".try-out__btn").click()
    filled = {
        row.get_attribute("data-param-name"): row.locator("input").input_value()
        for row in block.locator("tr[data-param-name]").all()
        if row.locator("input").count()
    }
    assert filled == {
        "X-Tenant-ID": "",
        "tenant_id": "",
        "location_id": "",
        "limit": "20",
        "offset": "",
        "cursor": "",
    }


def test_the_reference_page_shows_every_operation_and_the_introduction(page: Page, site: Stack) -> None:
    page.goto(f"{site.api_url}/docs")
    expect(page.locator("h1").first).to_have_text(re.compile("Faro Conversations"))
    texts: Any = page.locator("h2").all_inner_texts()
    summaries = {operation.node["summary"] for operation in OPERATIONS.values()}
    assert summaries <= {text.strip() for text in texts}
    assert {"Authentication", "Pagination, and what stays stable"} <= {text.strip() for text in texts}
    page.get_by_role("textbox").first.fill("resend")
    expect(page.locator("[role=search] [role=menuitem]").first).to_be_visible()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "reference.png")
