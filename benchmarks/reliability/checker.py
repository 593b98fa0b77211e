"""Compares the carrier's own record with our public API: what was lost, what went out twice, what nobody knows.

Independent of the service: it reads the file that the carrier wrote before it answered, and what any client may ask.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.installation import Installation
from benchmarks.reliability.traffic import Traffic, list_all

_CALLBACK = re.compile(r"/status/[0-9a-f-]{36}/([0-9a-f-]{36})/\d+")
# What a message must come to, by what the carrier did with it.
FINAL = {"undelivered_later": {"undelivered"}, "failed_later": {"failed"}}
DELIVERED = {"delivered", "read"}


@dataclass
class Verdict:
    """Counts of messages, by what became of them; `wrong` says in words what must not be."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def accepted_by_message(record: Path) -> dict[str, list[dict[str, Any]]]:
    """Message id -> every create that the carrier accepted for it, by the callback URL that came with it."""
    found = defaultdict(list)
    for line in record.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        match = _CALLBACK.search(entry["status_callback"] or "")
        found[match[1] if match else "unknown"].append(entry)
    return dict(found)


def read_threads(installation: Installation, traffic: Traffic) -> dict[str, dict[str, Any]]:
    """Message id -> message, of every conversation."""

    def read(place: tuple[Any, str]) -> list[dict[str, Any]]:
        agency, conversation_id = place
        return list_all(installation, agency, f"/conversations/{conversation_id}/messages", "messages", "before")

    with ThreadPoolExecutor(4) as pool:
        return {message["id"]: message for thread in pool.map(read, traffic.conversations) for message in thread}


def has_settled(messages: dict[str, dict[str, Any]]) -> bool:
    return not any(message["status"] in ("queued", "sending", "sent") for message in messages.values())


def check(traffic: Traffic, messages: dict[str, dict[str, Any]], record: Path) -> Verdict:
    """What the carrier did against what we say."""
    verdict = Verdict()
    accepted = accepted_by_message(record)
    default_agency = traffic.installation.agencies[-1].id
    known = {one.id for one in traffic.sent}
    for one in traffic.sent:
        message = messages.get(one.id)
        verdict.counts["messages"] += 1
        suffix = " (default setting)" if one.agency.id == default_agency else ""
        verdict.counts["messages" + suffix] += 1 if suffix else 0
        if message is None:
            verdict.counts["lost"] += 1
            verdict.wrong.append("an acknowledged message is not in its thread")
            continue
        _judge(verdict, message, accepted.get(one.id, []), suffix)
    _check_threads(verdict, traffic, messages, known)
    verdict.counts["overtaken"] = overtaken(messages, accepted)
    verdict.wrong += [f"the carrier accepted a message that nobody sent: {id_}" for id_ in accepted.keys() - known]
    return verdict


def overtaken(messages: dict[str, dict[str, Any]], accepted: dict[str, list[dict[str, Any]]]) -> int:
    """How many messages the carrier was given before one that stands earlier in the same thread."""
    threads = defaultdict(list)
    for message in messages.values():
        if message["id"] in accepted:
            number = min(entry["number"] for entry in accepted[message["id"]])
            threads[message["conversation_id"]].append((message["sent_at"], number))
    count = 0
    for thread in threads.values():
        numbers = [number for _, number in sorted(thread)]
        count += sum(later < earlier for earlier, later in itertools.pairwise(numbers))
    return count


def _judge(verdict: Verdict, message: dict[str, Any], accepted: list[dict[str, Any]], suffix: str) -> None:
    counts, status = verdict.counts, message["status"]
    # A clerk's answer: failed and unconfirmed are said openly, everything else claims that it was sent.
    if not accepted and status not in ("failed", "unconfirmed"):
        counts["lost"] += 1
        verdict.wrong.append(f"never accepted by the carrier, and shown as {status}")
    if status == "unconfirmed":
        counts["unconfirmed" + suffix] += 1
        counts["unconfirmed although accepted" + suffix] += 1 if accepted else 0
    if len(accepted) > 1:
        counts["doubled"] += 1
        if message["duplicate_detected"]:
            counts["doubled and flagged"] += 1
        else:
            counts["silently doubled"] += 1
            verdict.wrong.append(f"accepted {len(accepted)} times without a flag, shown as {status}")
    if len(accepted) == 1:
        if message["duplicate_detected"]:
            verdict.wrong.append("flagged as doubled, and accepted once")
        final = FINAL.get(accepted[0]["fault"] or "", DELIVERED)
        if status not in final | {"unconfirmed"}:
            verdict.wrong.append(f"shown as {status} instead of {sorted(final)}")
        if status != "unconfirmed" and message["twilio_sid"] != accepted[0]["message_sid"]:
            verdict.wrong.append("bound to a SID that is another message's")


def _check_threads(verdict: Verdict, traffic: Traffic, messages: dict[str, dict[str, Any]], known: set[str]) -> None:
    outbound = [one for one in messages.values() if one["direction"] == "outbound"]
    verdict.wrong += ["one key made two messages" for one in outbound if one["id"] not in known]
    inbound = Counter(one["twilio_sid"] for one in messages.values() if one["direction"] == "inbound")
    verdict.counts["inbound messages"] = len(traffic.written)
    missing = [sid for _, sid in traffic.written if inbound[sid] == 0]
    verdict.counts["inbound lost"] = len(missing)
    verdict.wrong += ["a contact's message is missing" for _ in missing]
    verdict.wrong += ["a contact's message is there twice" for count in inbound.values() if count > 1]
    verdict.wrong += [f"refused: {reason}" for reason in traffic.refused]
    verdict.wrong += [f"a status stepped back: {step}" for step in traffic.fell]
