"""What Twilio lists is evidence: all of it is read, or none of it counts."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from delivery import twilio_gateway
from delivery.simulator.server import TwilioSimulator
from delivery.simulator.webhooks import Inbound
from delivery.twilio_gateway import Accepted, ListedMedia, ListingUnavailable, TwilioAccount, TwilioGateway

ACCOUNT = TwilioAccount("AC" + "a" * 32, "the-secret-token")
OTHER_ACCOUNT = TwilioAccount("AC" + "b" * 32, "another-token")
CONTACT, OTHER_CONTACT, OURS = "whatsapp:+12025550101", "whatsapp:+12025550102", "whatsapp:+12025550100"


@pytest.fixture
def simulator() -> Iterator[TwilioSimulator]:
    tokens = {account.account_sid: account.auth_token for account in (ACCOUNT, OTHER_ACCOUNT)}
    with TwilioSimulator(tokens, status_delay_seconds=60) as running:
        yield running


@pytest.fixture
def gateway(simulator: TwilioSimulator) -> TwilioGateway:
    return TwilioGateway(base_url=simulator.url, connect_timeout_seconds=5, total_deadline_seconds=5, max_concurrency=4)


def send(gateway: TwilioGateway, account: TwilioAccount = ACCOUNT, to: str = CONTACT, content: str = "Hello") -> str:
    result = gateway.create_message(
        account,
        twilio_gateway.OutboundMessage(
            sender=OURS.removeprefix("whatsapp:"),
            recipient=to.removeprefix("whatsapp:"),
            channel="whatsapp",
            content=content,
            status_callback_url="http://127.0.0.1:9/status",
            validity_period_seconds=3600,
        ),
    )
    assert isinstance(result, Accepted)
    return result.twilio_sid


def test_a_listing_holds_this_recipients_messages_newest_first(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    first = send(gateway, content="same text")
    send(gateway, to=OTHER_CONTACT, content="same text")
    send(gateway, OTHER_ACCOUNT, content="same text")
    simulator.receive(Inbound(ACCOUNT.account_sid, from_=CONTACT, to=OURS, body="same text"))
    second = send(gateway, content="same text")
    rows = gateway.list_messages(ACCOUNT, to=CONTACT)
    assert [row.sid for row in rows] == [second, first]
    row = rows[0]
    assert (row.status, row.body, row.direction, row.to, row.from_) == (
        "queued",
        "same text",
        "outbound-api",
        CONTACT,
        OURS,
    )
    assert (row.messaging_service_sid, row.error_code, row.num_media) == (None, None, 0)
    assert row.date_created is not None
    assert abs(row.date_created - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_a_contact_wrote_is_listed_by_our_number(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    send(gateway)
    sid, _ = simulator.receive(Inbound(ACCOUNT.account_sid, from_=CONTACT, to=OURS, body="Sunday?"))
    rows = gateway.list_messages(ACCOUNT, to=OURS)
    assert [(row.sid, row.body, row.direction, row.from_) for row in rows] == [(sid, "Sunday?", "inbound", CONTACT)]


def test_both_filters_together_narrow_a_listing(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    sent = send(gateway)
    send(gateway, to=OTHER_CONTACT)
    assert [row.sid for row in gateway.list_messages(ACCOUNT, to=CONTACT, from_=OURS)] == [sent]
    assert gateway.list_messages(ACCOUNT, to=CONTACT, from_="whatsapp:+12025550177") == []


def test_a_listing_follows_every_page(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    sids = [send(gateway) for _ in range(7)]
    assert [row.sid for row in gateway.list_messages(ACCOUNT, to=CONTACT, page_size=3)] == sids[::-1]


def test_a_listing_stops_once_a_whole_page_is_older_than_asked(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    sids = [send(gateway) for _ in range(7)]
    a_minute_ahead = datetime.now(UTC) + timedelta(minutes=1)
    rows = gateway.list_messages(ACCOUNT, to=CONTACT, created_after=a_minute_ahead, page_size=3)
    assert [row.sid for row in rows] == sids[:-4:-1]
    a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    rows = gateway.list_messages(ACCOUNT, to=CONTACT, created_after=a_minute_ago, page_size=3)
    assert [row.sid for row in rows] == sids[::-1]


def test_a_listing_longer_than_its_limit_is_no_listing(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    for _ in range(4):
        send(gateway)
    assert len(gateway.list_messages(ACCOUNT, to=CONTACT, page_size=2, limit=4)) == 4
    send(gateway)
    with pytest.raises(ListingUnavailable, match="more_rows_than_the_limit"):
        gateway.list_messages(ACCOUNT, to=CONTACT, page_size=2, limit=4)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_listing_that_fails_on_a_later_page_is_no_listing(
    simulator: TwilioSimulator, gateway: TwilioGateway, status: int
) -> None:
    for _ in range(3):
        send(gateway)
    failing = {"kind": "listing_error", "http_status": status}
    simulator.set_faults({"script": [failing]})
    with pytest.raises(ListingUnavailable) as first_page:
        gateway.list_messages(ACCOUNT, to=CONTACT, page_size=2)
    assert (first_page.value.reason, first_page.value.http_status) == (f"http_{status}", status)

    simulator.set_faults({"script": ["listing_passes", failing]})
    with pytest.raises(ListingUnavailable, match=f"http_{status}"):
        gateway.list_messages(ACCOUNT, to=CONTACT, page_size=2)


def test_a_listing_that_cannot_be_reached_in_time_is_no_listing(simulator: TwilioSimulator) -> None:
    gateway = TwilioGateway(
        base_url=simulator.url, connect_timeout_seconds=1, total_deadline_seconds=0.5, max_concurrency=4
    )
    simulator.set_faults({"latency_ms": 10_000})
    started = time.monotonic()
    with pytest.raises(ListingUnavailable, match="read_timeout"):
        gateway.list_messages(ACCOUNT, to=CONTACT)
    assert time.monotonic() - started < 5
    simulator.stop()
    with pytest.raises(ListingUnavailable, match="connect_refused"):
        gateway.list_messages(ACCOUNT, to=CONTACT)


def test_a_lagging_listing_lacks_what_was_just_sent(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    simulator.set_faults({"listing_lag_seconds": 3600})
    sid = send(gateway)
    assert gateway.list_messages(ACCOUNT, to=CONTACT) == []
    assert gateway.fetch_message(ACCOUNT, sid).sid == sid
    time.sleep(0.3)
    simulator.set_faults({"listing_lag_seconds": 0.3})
    assert [row.sid for row in gateway.list_messages(ACCOUNT, to=CONTACT)] == [sid]


def test_one_message_is_fetched_by_its_sid_within_its_account(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    sid = send(gateway, content="Only me")
    send(gateway)
    assert gateway.fetch_message(ACCOUNT, sid).body == "Only me"
    for account, wanted, status in [(OTHER_ACCOUNT, sid, 404), (ACCOUNT, "SM" + "f" * 32, 404)]:
        with pytest.raises(ListingUnavailable) as missing:
            gateway.fetch_message(account, wanted)
        assert missing.value.http_status == status
    with pytest.raises(ListingUnavailable) as refused:
        gateway.fetch_message(TwilioAccount(ACCOUNT.account_sid, "wrong"), sid)
    assert refused.value.http_status == 401


def test_the_media_of_a_message_are_listed_as_the_webhook_named_them(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    media: Any = ((None, "image/jpeg"), (None, "audio/ogg"))
    sid, _ = simulator.receive(Inbound(ACCOUNT.account_sid, from_=CONTACT, to=OURS, body="", media=media))
    assert gateway.fetch_message(ACCOUNT, sid).num_media == 2
    listed = gateway.list_media(ACCOUNT, sid)
    root = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT.account_sid}/Messages/{sid}/Media/ME"
    assert [one.content_type for one in listed] == ["image/jpeg", "audio/ogg"]
    assert all(isinstance(one, ListedMedia) and one.url.startswith(root) for one in listed)


def test_a_failure_to_list_says_nothing_of_whom_it_was_about(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    simulator.set_faults({"script": ["listing_error"]})
    with pytest.raises(ListingUnavailable) as failure:
        gateway.list_messages(ACCOUNT, to=CONTACT)
    assert str(failure.value) == "http_503"
    assert failure.value.__suppress_context__
