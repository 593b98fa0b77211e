"""The control: what others do, which is to send again when they do not know, against the same carrier and dice.

If this shows no doubled message, the rig could not have shown ours.
"""

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.reliability import http_client
from benchmarks.reliability.installation import start_simulator
from conversations_api import addresses
from delivery.twilio_gateway import Accepted, OutboundMessage, Rejected, TwilioAccount, TwilioGateway

MOST_TRIES = 5


def doubles(folder: Path, *, messages: int, faults: dict[str, Any]) -> int:
    """How many of the messages the carrier accepted more than once."""
    account = TwilioAccount(f"AC{uuid.uuid4().hex}", uuid.uuid4().hex)
    record = folder / "control.jsonl"
    port = addresses.free_port()
    simulator = start_simulator({account.account_sid: account.auth_token}, port=port, record=record)
    try:
        http_client.CLIENT.put(f"http://127.0.0.1:{port}/simulator/faults", json=faults).raise_for_status()
        gateway = TwilioGateway(
            base_url=f"http://127.0.0.1:{port}",
            connect_timeout_seconds=1.0,
            total_deadline_seconds=2.0,
            max_concurrency=16,
        )
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: _send(gateway, account, number), range(messages)))
    finally:
        simulator.kill()
        simulator.wait()
    accepted = Counter(json.loads(line)["body"] for line in record.read_text(encoding="utf-8").splitlines())
    return sum(count > 1 for count in accepted.values())


def _send(gateway: TwilioGateway, account: TwilioAccount, number: int) -> None:
    message = OutboundMessage(
        sender="+12025550100",
        recipient=f"+1404555{number % 10_000:04d}",
        channel="sms",
        content=f"No. {number}",
        status_callback_url="http://127.0.0.1:9/",
        validity_period_seconds=3600,
    )
    for _ in range(MOST_TRIES):
        if isinstance(gateway.create_message(account, message), Accepted | Rejected):
            return
