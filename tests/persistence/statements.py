"""Every statement of the code, with a value for each of its parameters, for the tests that plan or run them all."""

import importlib
import pkgutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause

import persistence
import tenancy

AGENCY = UUID(int=0xFA0 << 112 | 1)
ROW = UUID(int=0xFA1 << 112 | 1)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# By name: a parameter means the same everywhere.
VALUES: dict[str, Any] = {
    "account_sid": "AC" + "0" * 32,
    "action": "send_message",
    "address": "+12025550100",
    "addresses": ["+12025550100"],
    "agency_id": AGENCY,
    "agency_ids": [AGENCY],
    "attempt": 1,
    "before": ROW,
    "before_at": AT,
    "before_id": ROW,
    "channel_id": ROW,
    "complete_until": AT,
    "contact_id": ROW,
    "content": "Hello",
    "conversations": 3,
    "content_repaired": False,
    "conversation_id": ROW,
    "conversation_ids": [ROW],
    "delay_seconds": 1.0,
    "delivered_at": AT,
    "direction": "inbound",
    "error_code": "30003",
    "error_message": "Unreachable",
    "expression": "true",
    "fingerprint": b"\x00",
    "follow_seconds": 1.0,
    "from_states": ["queued"],
    "grace_seconds": 1.0,
    "held_back": ["held_back"],
    "id": ROW,
    "key": "key",
    "limit": 10,
    "location_id": ROW,
    "media": "[]",
    "message_id": ROW,
    "message_ids": [ROW],
    "most": 10,
    "name": "Somebody",
    "negative_listings": 0,
    "now": AT,
    "number": 1,
    "numbers": "{}",
    "offset": 0,
    "outcome": "unknown",
    "passed_over": [ROW],
    "payload": "{}",
    "per_agency": 10,
    "phone": "+12025550199",
    "preview": "Hello",
    "provider_status": "sent",
    "read_at": None,
    "reason": "timeout",
    "redacted_at": "2026-01-02T03:04:05.000000Z",
    "request_id": "request",
    "response": "{}",
    "role": "staff",
    "seconds": 1.0,
    "since": AT,
    "sent_at": AT,
    "sent_by": "user",
    "sources": ["queued"],
    "state": "queued",
    "status": "received",
    "template": None,
    "tenant_source": "token",
    "twilio_sid": "SM" + "0" * 32,
    "twilio_sids": ["SM" + "0" * 32],
    "user_id": "user",
    "worker_key": 7,
    "young_seconds": 60.0,
}
# The same name, but for the values that a column may have.
VALUES_IN = {
    "persistence.acceptances.BIND": {"twilio_sids": "{}"},
    "persistence.acceptances.FINISH": {"twilio_sids": "{}"},
    "persistence.conversations.LIST_PAGE": {"status": "open"},
    "persistence.conversation_counts.TAKE_ONE": {"status": "open"},
    "persistence.conversation_counts.ADD_ONE": {"status": "open"},
    "persistence.conversation_counts.REMEMBER": {"status": "open"},
    "persistence.messages.ADVANCE_STATUS": {"status": "delivered"},
}

# It asks a catalogue that only Citus has.
NOT_HERE = {"persistence.citus.DISTRIBUTED"}


@dataclass(frozen=True)
class Statement:
    """A constant of a module, under its full name."""

    name: str
    clause: TextClause

    def __str__(self) -> str:
        return self.name

    @property
    def values(self) -> dict[str, Any]:
        """A value for each parameter; a KeyError asks for one of a new parameter in VALUES."""
        values = VALUES | VALUES_IN.get(self.name, {})
        return {name: values[name] for name in self.clause.compile().params}


def every_statement() -> list[Statement]:
    found = []
    for package in (persistence, tenancy):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            constants = vars(importlib.import_module(module.name)).items()
            found += [Statement(f"{module.name}.{name}", c) for name, c in constants if isinstance(c, TextClause)]
    return [statement for statement in found if statement.name not in NOT_HERE]
