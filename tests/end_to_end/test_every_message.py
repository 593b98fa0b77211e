"""Every real message goes in through Twilio's signed webhook and comes out of the API as it was, byte for byte."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from conversations_api.demo import samples
from conversations_api.demo.invented_agencies import Agency, Channel
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.stack import INBOUND, Stack, database_of_its_own, running

# Few enough contacts that some threads have several pages.
CONTACTS_PER_CHANNEL = 24
POSTERS = 8
# Twilio repeats itself: every so many of the messages comes a second time.
REPEATED = 50

Thread = tuple[str, str]  # channel id, contact's phone


@dataclass(frozen=True)
class Written:
    """What a contact wrote, with the SID that Twilio gave it."""

    sid: str
    agency: Agency
    channel: Channel
    phone: str
    content: str


@pytest.fixture(scope="module")
def stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """An installation in which nobody else has written anything."""
    slowly = {"status_delay_seconds": 0.3}
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, tmp_path_factory.mktemp("stack"), simulator_options=slowly) as stack,
    ):
        yield stack


@pytest.fixture(scope="module")
def written(stack: Stack) -> list[Written]:
    """All 5,574 messages, spread over three agencies, their channels and their contacts, in order of the file."""
    channels = [(agency, channel) for agency in stack.agencies for channel in agency.channels]
    messages = []
    for number, (_, content) in enumerate(samples.read()):
        agency, channel = channels[number % len(channels)]
        # The lower a contact's number, the more it writes.
        contact = min((number * 7919) % CONTACTS_PER_CHANNEL, (number * 104729) % CONTACTS_PER_CHANNEL)
        messages.append(Written(f"SM{number:032x}", agency, channel, f"+1212555{100 + contact:04d}", content))
    return messages


@pytest.fixture(scope="module")
def posted(stack: Stack, written: list[Written]) -> list[Written]:
    """The same, after they have been posted: several at a time, those of one contact in their order."""
    threads = by_thread(written)
    with ThreadPoolExecutor(POSTERS) as pool:
        for statuses in pool.map(lambda messages: [post(stack, one) for one in messages], threads.values()):
            assert set(statuses) == {200}
        repeated = list(pool.map(lambda one: post(stack, one), written[::REPEATED]))
    assert set(repeated) == {200}
    return written


def by_thread(messages: list[Written]) -> dict[Thread, list[Written]]:
    threads = defaultdict(list)
    for one in messages:
        threads[str(one.channel.id), one.phone].append(one)
    return threads


def post(stack: Stack, one: Written) -> int:
    prefix = "whatsapp:" if one.channel.kind == "whatsapp" else ""
    form = [
        ("ToCountry", "US"),
        ("ToState", ""),
        ("SmsMessageSid", one.sid),
        ("NumMedia", "0"),
        ("SmsSid", one.sid),
        ("SmsStatus", "received"),
        ("Body", one.content),
        ("To", one.channel.twilio_address),
        ("NumSegments", "1"),
        ("MessageSid", one.sid),
        ("AccountSid", one.channel.account_sid),
        ("From", prefix + one.phone),
        ("ApiVersion", "2010-04-01"),
    ]
    return stack.post_signed(INBOUND, form, one.channel.account_sid).status


def read_back(stack: Stack, agency: Agency) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Every conversation of the agency with all of its messages, newest first."""
    with ThreadPoolExecutor(4) as pool:
        conversations = list(stack.conversations(agency))
        threads = pool.map(lambda one: list(stack.messages(agency, one["id"], limit=40)), conversations)
        yield from zip(conversations, threads, strict=True)


def test_the_samples_hold_what_makes_them_hard() -> None:
    messages = [message for _, message in samples.read()]
    assert len(messages) == 5574
    assert any(message.startswith('"') for message in messages)
    assert any(message != message.rstrip() for message in messages)
    assert any("\x92" in message for message in messages)
    assert any("&lt;" in message for message in messages)
    assert any(ord(character) > 0xFFFF or character == "ü" for message in messages for character in message)
    assert len(set(messages)) < len(messages)


def test_all_real_messages_come_back_byte_for_byte_each_in_its_own_agency(stack: Stack, posted: list[Written]) -> None:
    sent = by_thread(posted)
    found: set[Thread] = set()
    for agency in stack.agencies:
        channel_ids = {(one.kind, one.address): str(one.id) for one in agency.channels}
        for conversation, messages in read_back(stack, agency):
            thread = (
                channel_ids[conversation["channel"], conversation["channel_address"]],
                conversation["contact_phone"],
            )
            assert thread not in found, "one contact on one channel is one conversation"
            found.add(thread)
            ours = [one for one in sent[thread] if one.agency == agency]
            # Newest first, in the order in which they came.
            assert [(message["twilio_sid"], message["content"].encode()) for message in messages] == [
                (one.sid, one.content.encode()) for one in reversed(ours)
            ]
            assert {message["conversation_id"] for message in messages} == {conversation["id"]}
            assert {(message["direction"], message["status"]) for message in messages} == {("inbound", "received")}
    assert found == set(sent)


def test_every_page_of_the_list_is_in_order_and_the_total_is_exact(stack: Stack, posted: list[Written]) -> None:
    for agency in stack.agencies:
        conversations = list(stack.conversations(agency))
        order = [(one["last_message_at"], one["id"]) for one in conversations]
        assert order == sorted(order, reverse=True)
        threads = by_thread([one for one in posted if one.agency == agency])
        assert stack.get(agency, "/conversations", limit=1).json["total"] == len(conversations) == len(threads)
        by_location = [
            one["id"]
            for location in agency.locations
            for one in stack.conversations(agency, location_id=str(location.id))
        ]
        assert sorted(by_location) == sorted(one["id"] for one in conversations)


def test_an_answer_is_delivered_then_read_and_the_contacts_reply_is_in_the_list(
    stack: Stack, posted: list[Written]
) -> None:
    agency = stack.agencies[2]  # its own Twilio account
    channel = next(one for one in agency.channels if one.kind == "whatsapp")
    conversation = next(one for one in stack.conversations(agency) if one["channel_address"] == channel.address)
    sent = stack.post(agency, f"/conversations/{conversation['id']}/messages", {"content": "We open at nine. ☀"})
    assert (sent.status, sent.json["status"]) == (201, "queued")

    message, seen = followed(stack, agency, sent.headers["location"].removeprefix("/api/v1"), until="read")
    assert seen == sorted(seen, key=["queued", "sending", "sent", "delivered", "read"].index)
    assert seen[-2:] == ["delivered", "read"]
    assert [event["status"] for event in message["history"]] == ["sent", "delivered", "read"]
    assert message["delivered_at"] <= message["read_at"]
    accepted = [one for one in stack.simulator.accepted if one["message_sid"] == message["twilio_sid"]]
    assert [(one["body"], one["account_sid"]) for one in accepted] == [("We open at nine. ☀", channel.account_sid)]
    top = next(stack.conversations(agency))
    assert (top["id"], top["last_message_preview"], top["last_message_direction"]) == (
        conversation["id"],
        "We open at nine. ☀",
        "outbound",
    )

    sid, status = stack.write(channel, conversation["contact_phone"], "See you then!")
    assert status == 200
    top = next(stack.conversations(agency))
    assert (top["id"], top["last_message_preview"], top["last_message_direction"]) == (
        conversation["id"],
        "See you then!",
        "inbound",
    )
    latest = list(stack.messages(agency, conversation["id"]))[:2]
    assert [one["twilio_sid"] for one in latest] == [sid, message["twilio_sid"]]


def test_no_log_holds_what_anybody_wrote_or_a_phone_number(
    stack: Stack, postgres: EmbeddedPostgres, posted: list[Written]
) -> None:
    logs = [*stack.folder.glob("*.log"), postgres.data_folder / "postgres.log"]
    assert {log.name for log in logs} == {"serve.log", "worker.log", "postgres.log"}
    for log in logs:
        text = log.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()] if log.name != "postgres.log" else []
        assert all({"time", "level", "logger", "event"} <= set(line) for line in lines)
        assert [one.phone for one in posted if one.phone in text] == []
        # What is shorter may stand in any log by chance.
        assert [one.sid for one in posted if len(one.content) > 20 and one.content in text] == []
    assert len((stack.folder / "serve.log").read_text().splitlines()) > len(posted)


def followed(stack: Stack, agency: Agency, path: str, *, until: str) -> tuple[dict[str, Any], list[str]]:
    """The message at `path` when it has become what it was to become, and the statuses that it was seen in."""
    deadline = time.monotonic() + 30
    seen: list[str] = []
    while True:
        message: dict[str, Any] = stack.get(agency, path).json
        if message["status"] not in seen[-1:]:
            seen.append(message["status"])
        if message["status"] == until:
            return message, seen
        assert time.monotonic() < deadline, message
        time.sleep(0.05)
