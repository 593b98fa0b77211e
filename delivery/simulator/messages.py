"""The simulator's memory: every message it took or delivered, and the independent record of what it accepted.

The record is the truth that a reliability rig is judged by: one entry per accepted create, written and flushed before
any reply, whatever becomes of the reply. Nothing of it is ever changed; the messages themselves live on.
"""

import itertools
import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import IO, Any

API = "/2010-04-01"


@dataclass
class Media:
    sid: str
    content_type: str
    url: str


@dataclass
class Message:
    """A message as Twilio keeps it; `to` and `from_` are Twilio addresses."""

    account_sid: str
    sid: str
    direction: str
    status: str
    to: str
    from_: str | None
    body: str
    messaging_service_sid: str | None = None
    media: list[Media] = field(default_factory=list)
    status_callback: str | None = None
    error_code: int | None = None
    date_created: datetime = field(default_factory=lambda: datetime.now(UTC))
    date_sent: datetime | None = None
    date_updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    listed_from: float = field(default_factory=time.monotonic)

    @property
    def uri(self) -> str:
        return f"{API}/Accounts/{self.account_sid}/Messages/{self.sid}"

    @property
    def is_whatsapp(self) -> bool:
        return self.to.startswith("whatsapp:")

    def become(self, status: str, error_code: int | None = None) -> None:
        self.status, self.error_code = status, error_code
        self.date_updated = datetime.now(UTC)
        if status in ("sent", "delivered") and self.date_sent is None:
            self.date_sent = self.date_updated

    def dated_now(self) -> "Message":
        return replace(
            self, date_created=datetime.now(UTC), date_updated=datetime.now(UTC), listed_from=time.monotonic()
        )

    def media_json(self, media: Media) -> dict[str, str]:
        """The Media resource, schema `api.v2010.account.message.media`."""
        return {
            "account_sid": self.account_sid,
            "content_type": media.content_type,
            "date_created": format_datetime(self.date_created),
            "date_updated": format_datetime(self.date_created),
            "parent_sid": self.sid,
            "sid": media.sid,
            "uri": f"{self.uri}/Media/{media.sid}.json",
        }

    def as_json(self) -> dict[str, Any]:
        """The Message resource, schema `api.v2010.account.message` of Twilio's OpenAPI document."""
        unassigned = self.direction == "outbound-api" and self.status == "accepted"
        return {
            "account_sid": self.account_sid,
            "api_version": API.strip("/"),
            "body": self.body,
            "date_created": format_datetime(self.date_created),
            "date_sent": format_datetime(self.date_sent) if self.date_sent else None,
            "date_updated": format_datetime(self.date_updated),
            "direction": self.direction,
            "error_code": self.error_code,
            "error_message": ERRORS.get(self.error_code, "Unknown error") if self.error_code else None,
            "from": None if unassigned else self.from_,
            "messaging_service_sid": self.messaging_service_sid,
            "num_media": str(len(self.media)),
            "num_segments": "0" if unassigned else str(segments(self.body)),
            "price": None,
            "price_unit": "USD",
            "sid": self.sid,
            "status": self.status,
            "subresource_uris": {"media": f"{self.uri}/Media.json", "feedback": f"{self.uri}/Feedback.json"},
            "to": self.to,
            "uri": f"{self.uri}.json",
        }


# https://www.twilio.com/docs/api/errors
ERRORS: dict[int | None, str] = {
    20001: "Invalid parameter value",
    20003: "Authenticate",
    20404: "The requested resource was not found",
    20429: "Too Many Requests",
    20500: "Internal Server Error",
    20503: "Service Unavailable",
    21211: "The 'To' number is not a valid phone number.",
    21212: "The 'From' number is not a valid phone number, shortcode, or alphanumeric sender ID.",
    21602: "Message body is required.",
    21603: "A 'From' phone number is required.",
    21604: "A 'To' phone number is required.",
    21609: "The 'StatusCallback' URL is not a valid URL.",
    21610: "Attempt to send to unsubscribed recipient",
    21617: "The concatenated message body exceeds the 1600 character limit.",
    21620: "Invalid media URL(s)",
    21623: "Number of media files exceeds allowed limit",
    21624: "Invalid validity period value",
    21701: "The Messaging Service does not exist.",
    21910: "Invalid From and To pair. From and To should be of the same channel",
    30003: "Unreachable destination handset",
    30005: "Unknown destination handset",
    30006: "Landline or unreachable carrier",
    30007: "Message filtered",
    63016: "Failed to send freeform message because you are outside the allowed window.",
}


def new_sid(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def segments(body: str) -> int:
    """Close to how Twilio counts: 160 GSM-7 characters in one segment, 153 in each of several; 70 and 67 in UCS-2."""
    alone, joined = (160, 153) if body.isascii() else (70, 67)
    return 1 if len(body) <= alone else -(-len(body) // joined)


class Messages:
    """All messages of all accounts. Only the simulator's own loop changes it; reading the record is safe anywhere."""

    def __init__(self, record_path: Path | None = None) -> None:
        self.record: list[dict[str, Any]] = []
        self._by_sid: dict[tuple[str, str], Message] = {}
        self._by_address: dict[tuple[str, str, str], list[Message]] = defaultdict(list)
        self._by_account: dict[str, list[Message]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self._file: IO[str] | None = None
        if record_path is not None:
            earlier = record_path.read_text(encoding="utf-8") if record_path.exists() else ""
            # What follows the last line's end was cut off by a kill, before anybody was told.
            whole = earlier[: earlier.rfind("\n") + 1]
            self._remember(whole.splitlines())
            self._file = record_path.open("a", encoding="utf-8")
            self._file.truncate(len(whole.encode()))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, message: Message) -> None:
        self._by_sid[message.account_sid, message.sid] = message
        self._by_account[message.account_sid].append(message)
        self._by_address[message.account_sid, "to", message.to].append(message)
        self._by_address[message.account_sid, "from", message.from_ or ""].append(message)

    def accept(self, message: Message, form: Sequence[tuple[str, str]], fault: str | None) -> None:
        """Take an outbound message, and put it on record before anybody is told."""
        self.add(message)
        entry = {
            "number": next(self._numbers),
            "accepted_at": message.date_created.isoformat(),
            "account_sid": message.account_sid,
            "message_sid": message.sid,
            "to": message.to,
            "from": message.from_,
            "messaging_service_sid": message.messaging_service_sid,
            "body": message.body,
            "status_callback": message.status_callback,
            "form": [list(pair) for pair in form],
            "fault": fault,
        }
        self.record.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def find(self, account_sid: str, sid: str) -> Message | None:
        return self._by_sid.get((account_sid, sid))

    def newest_first(self, account_sid: str, filters: Mapping[str, str], *, lag_seconds: float) -> list[Message]:
        """The account's messages that pass Twilio's To, From, DateSent, DateSent< and DateSent> filters."""
        visible_until = time.monotonic() - lag_seconds
        rows: Iterator[Message] = reversed(self._narrowest(account_sid, filters))
        return [
            row
            for row in rows
            if row.listed_from <= visible_until
            and filters.get("To") in (None, row.to)
            and filters.get("From") in (None, row.from_)
            and _sent_within(row.date_sent, filters)
        ]

    def _narrowest(self, account_sid: str, filters: Mapping[str, str]) -> list[Message]:
        for name in ("To", "From"):
            if name in filters:
                return self._by_address.get((account_sid, name.lower(), filters[name]), [])
        return self._by_account.get(account_sid, [])

    def _remember(self, lines: Sequence[str]) -> None:
        """Take up an earlier run's record, so that its messages can still be fetched; they count as delivered."""
        for line in lines:
            entry = json.loads(line)
            when = datetime.fromisoformat(entry["accepted_at"])
            self.record.append(entry)
            self.add(
                Message(
                    account_sid=entry["account_sid"],
                    sid=entry["message_sid"],
                    direction="outbound-api",
                    status="delivered",
                    to=entry["to"],
                    from_=entry["from"],
                    body=entry["body"],
                    messaging_service_sid=entry["messaging_service_sid"],
                    date_created=when,
                    date_sent=when,
                    date_updated=when,
                )
            )
        self._numbers = itertools.count(len(self.record) + 1)


def _sent_within(date_sent: datetime | None, filters: Mapping[str, str]) -> bool:
    for name in ("DateSent", "DateSent<", "DateSent>"):
        bound = filters.get(name)
        if not bound:
            continue
        if date_sent is None:
            return False
        # A bare date compares as a day, a timestamp to the second; ISO 8601 in UTC sorts as text.
        sent = date_sent.strftime("%Y-%m-%dT%H:%M:%SZ")[: len(bound)]
        if (
            (name == "DateSent" and sent != bound)
            or (name[8:] == "<" and sent > bound)
            or (name[8:] == ">" and sent < bound)
        ):
            return False
    return True
