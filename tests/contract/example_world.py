"""The agency, conversations and messages that the contract's examples tell of, put into a database as they are told.

The examples have a date; here everything happened as long ago as it did for them. `told` gives an example's value with
its times moved in the same way, so that an answer can be compared with it field by field.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tenancy.twilio_credentials import TwilioCredentials
from tests.api_client import AUTH_TOKEN, Api, Caller
from tests.contract.document import Node, load
from tests.serving import SECRETS_KEY

USER = "user_29f7"
ACCOUNT_SID = "AC0123456789abcdef0123456789abcdef"
MESSAGING_SERVICE = "MG00112233445566778899aabbccddeeff"
CLIENT_ID = "01980f3e-7a21-7c4d-9b10-3f5e8d2c6a91"
WHATSAPP_ID, SMS_ID = "01980f3f-6b11-7d3a-8c22-4a6f9e3d7b02", "01980f3f-6b12-7e4b-9d33-5b70af4e8c13"
_NOW = datetime(2026, 3, 3, 9, 21, 0, tzinfo=UTC)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_TABLES = (
    *("outbox", "audit_records", "idempotency_keys", "provider_events", "attempts", "messages"),
    *("conversation_counts", "conversations"),
    *(
        "contacts",
        "number_routing",
        "channels",
        "twilio_accounts",
        "locations",
        "clients",
        "agency_members",
        "agencies",
    ),
)


@dataclass
class World:
    """The examples' agency in the database behind `api`."""

    api: Api
    document: Node = field(default_factory=load)
    shift: timedelta = field(default_factory=lambda: datetime.now(UTC) - _NOW)

    @property
    def agency_id(self) -> UUID:
        return UUID(self.parameter("TenantHeader"))

    @property
    def me(self) -> Caller:
        return self.caller("staff")

    def caller(self, role: str, agency_id: UUID | None = None) -> Caller:
        return Caller(self.api, self.api.token(agency_id or self.agency_id, role, USER))

    def parameter(self, name: str) -> Any:
        return self.document["components"]["parameters"][name]["example"]

    def told(self, name: str) -> Any:
        """The value of an example, as it would be told today."""
        return self._moved(self.document["components"]["examples"][name]["value"])

    def sql(self, statement: str, **values: Any) -> list[Any]:
        return self.api.sql(self.agency_id, statement, **values)

    # --- Making it ----------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Everything as the examples have it, whatever was there."""
        for table in _TABLES:
            self.sql(f"delete from {table} where agency_id = :agency_id")  # noqa: S608
        self._agency()
        newest, last = self.told("MessagePage")["messages"], self.told("LastMessagePage")["messages"]
        for name, channel_id in (("WhatsAppConversation", WHATSAPP_ID), ("OptedOutConversation", SMS_ID)):
            self._conversation(self.told(name), channel_id)
        self.api.recount(self.agency_id)
        for message in [*newest, *last, self.told("FailedMessage")]:
            self._message(message)
        self._events(self.told("FailedMessage"))

    def read(self) -> None:
        """The message that `ReadMessage` tells of, a few minutes later."""
        message = self.told("ReadMessage")
        self.sql("delete from messages where agency_id = :agency_id and id = cast(:id as uuid)", id=message["id"])
        self._message(message)
        self._events(message)

    def become(self, status: str) -> None:
        """What is known of the message of the path."""
        self.sql(
            "update messages set status = :status where agency_id = :agency_id and id = cast(:id as uuid)",
            status=status,
            id=self.parameter("MessageId"),
        )

    def opt_out(self) -> None:
        self._change_conversation("opted_out_at = clock_timestamp()")

    def close_window(self) -> None:
        self._change_conversation("last_inbound_at = clock_timestamp() - interval '25 hours'")

    def suspend(self) -> None:
        self.sql("update agencies set status = 'suspended' where agency_id = :agency_id")

    def _change_conversation(self, assignment: str) -> None:
        self.sql(
            f"update conversations set {assignment} where agency_id = :agency_id and id = cast(:id as uuid)",  # noqa: S608
            id=self.parameter("ConversationId"),
        )

    def _insert(self, table: str, **values: Any) -> None:
        columns, holders = ", ".join(values), ", ".join(f":{name}" for name in values)
        self.sql(
            f"insert into {table} (agency_id{', ' if columns else ''}{columns}) "  # noqa: S608
            f"values (:agency_id{', ' if holders else ''}{holders})",
            **{name: str(value) if name.endswith("id") else value for name, value in values.items()},
        )

    def _agency(self) -> None:
        location_id = self.parameter("LocationFilter")
        self._insert("agencies", name="Agency")
        self._insert("agency_members", user_id=USER, role="staff")
        self._insert("clients", id=CLIENT_ID, name="Client")
        self._insert("locations", id=location_id, client_id=CLIENT_ID, name="Location")
        token = TwilioCredentials(SECRETS_KEY).encrypt(AUTH_TOKEN)
        self._insert("twilio_accounts", account_sid=ACCOUNT_SID, auth_token=token)
        for channel_id, kind, address in ((WHATSAPP_ID, "whatsapp", "+12025550100"), (SMS_ID, "sms", "+12025550101")):
            channel = {"location_id": location_id, "kind": kind, "address": address}
            self._insert("channels", id=channel_id, account_sid=ACCOUNT_SID, **channel)
        routes = (("whatsapp:+12025550100", WHATSAPP_ID), ("+12025550101", SMS_ID), (MESSAGING_SERVICE, SMS_ID))
        for address, channel_id in routes:
            self._insert("number_routing", account_sid=ACCOUNT_SID, address=address, channel_id=channel_id)

    def _conversation(self, told: Node, channel_id: str) -> None:
        contact_id = told["contact_id"]
        self._insert("contacts", id=contact_id, phone=told["contact_phone"], name=told["contact_name"])
        blocked = told["messaging"]["blocked_reason"] == "contact_opted_out"
        copied = ("id", "location_id", "contact_id", "status", "lead_status", "lead_value", "assigned_to")
        copied += ("last_message_at", "last_message_preview", "last_message_direction", "created_at", "updated_at")
        self._insert(
            "conversations",
            channel_id=channel_id,
            last_inbound_at=told["last_message_at"],
            opted_out_at=told["last_message_at"] if blocked else None,
            **{name: told[name] for name in copied},
        )

    def _message(self, told: Node) -> None:
        copied = ("id", "conversation_id", "direction", "content", "transcript", "status", "twilio_sid", "sent_by")
        copied += ("duplicate_detected", "sent_at", "delivered_at", "read_at", "created_at", "redacted_at")
        error = told["error"] or {"code": None, "message": None}
        self._insert(
            "messages",
            **{name: told[name] for name in copied},
            media=json.dumps(told["media"]),
            error_code=error["code"],
            error_message=error["message"],
        )

    def _events(self, told: Node) -> None:
        for number, event in enumerate(told["history"]):
            self._insert(
                "provider_events",
                id=f"{told['id'][:-1]}{number}",
                message_id=told["id"],
                payload="{}",
                **{**event, "error_code": event["error_code"] or ""},
            )

    def _moved(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._moved(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._moved(each) for each in value]
        if isinstance(value, str) and _TIME.fullmatch(value):
            moved = datetime.fromisoformat(value) + self.shift
            return moved.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return value
