"""Three agencies with look-alike rows in every tenant table, and what each role may do with which table.

A table's rows come in kinds. `twin` and `loose` have the same keys in every agency, so that a statement which forgets
the agency finds three rows unless the database hides two; nothing refers to a `loose` one, so that it can be deleted.
`own` has keys of its agency's own, for asking after another's. `new` is not stored: it is what a test inserts.
Every text that is no key carries its agency's canary.
"""

import hashlib
from typing import Any
from uuid import UUID, uuid5

A, B, C = AGENCIES = tuple(UUID(int=0xFA0 << 112 | number) for number in (1, 2, 3))
CANARIES = {A: "canary-of-ardea", B: "canary-of-bittern", C: "canary-of-crane"}
STORED = ("own", "twin", "loose")

Row = dict[str, Any]

# Which table a column of a tenant table points to, always together with agency_id.
REFERENCES = {
    ("locations", "client_id"): "clients",
    ("channels", "location_id"): "locations",
    ("conversations", "location_id"): "locations",
    ("conversations", "channel_id"): "channels",
    ("conversations", "contact_id"): "contacts",
    ("conversation_counts", "location_id"): "locations",
    ("messages", "conversation_id"): "conversations",
    ("attempts", "message_id"): "messages",
    ("idempotency_keys", "message_id"): "messages",
    ("number_routing", "channel_id"): "channels",
}

# What the application and the worker may do: (application, worker). The owner may do everything.
RIGHTS = {
    "agencies": ("select", "select"),
    "agency_members": ("select", ""),
    "clients": ("select", ""),
    "locations": ("select", ""),
    "twilio_accounts": ("select", "select"),
    "channels": ("select", "select update"),
    "contacts": ("select insert update", "select insert update"),
    "conversations": ("select insert update", "select insert update"),
    "conversation_counts": ("select insert update", "select insert update"),
    "messages": ("select insert update", "select insert update"),
    "attempts": ("select update", "select insert update"),
    "provider_events": ("select insert", "select insert"),
    "idempotency_keys": ("select insert update delete", ""),
    "audit_records": ("insert", ""),
    "outbox": ("select insert update delete", "select update delete"),
}
# The named exceptions: they hold no agency's rows, or find an agency before one is bound.
SHARED_RIGHTS = {
    "number_routing": ("select", "select"),
    "workers": ("select", "select insert update delete"),
    "alembic_version": ("select", "select"),
}

# A column that may be changed without changing anything; where a role may update the table, it may update this one.
CHANGEABLE = {
    "agencies": "name",
    "agency_members": "role",
    "clients": "name",
    "locations": "name",
    "twilio_accounts": "auth_token",
    "channels": "paused_until",
    "contacts": "name",
    "conversations": "status",
    "conversation_counts": "conversations",
    "messages": "error_message",
    "attempts": "reason",
    "provider_events": "payload",
    "idempotency_keys": "created_at",
    "audit_records": "request_id",
    "outbox": "negative_listings",
}

_NAMES = UUID("8f14a1c0-5a0e-4c5e-9f5e-0a8e3b6d7c21")
_AT = "2026-01-02 03:04:05Z"


def rights(role: str, table: str) -> set[str]:
    """What the role may do with the table; everything for the owner."""
    if role == "faro_owner":
        return {"select", "insert", "update", "delete"}
    both = RIGHTS[table] if table in RIGHTS else SHARED_RIGHTS[table]
    return set(both[("faro_app", "faro_worker").index(role)].split())


def key(table: str, agency_id: UUID, kind: str) -> UUID:
    """The id of an agency's row of this kind; the same in every agency for `twin` and `loose`."""
    return uuid5(_NAMES, f"{table} {kind}" if kind in ("twin", "loose") else f"{table} {kind} {agency_id}")


def row(table: str, agency_id: UUID, kind: str) -> Row:
    """The values of one row, complete enough to insert it as it stands."""
    canary = CANARIES.get(agency_id, "canary-of-nobody")

    def own_key(of: str = table) -> UUID:
        return key(of, agency_id, kind)

    def parent(of: str) -> UUID:
        return key(of, agency_id, "twin" if kind == "twin" else "own")

    def sid(prefix: str) -> str:
        return prefix + hashlib.md5(f"{prefix} {own_key()}".encode(), usedforsecurity=False).hexdigest()

    number = ("twin", "own", "loose", "new").index(kind) + 1
    contents: dict[str, Row] = {
        "agencies": {"name": canary},
        "agency_members": {"user_id": f"user_{own_key()}", "role": "staff"},
        "clients": {"id": own_key(), "name": canary},
        "locations": {"id": own_key(), "client_id": parent("clients"), "name": canary},
        "twilio_accounts": {"account_sid": sid("AC"), "auth_token": canary},
        "channels": {
            "id": own_key(),
            "location_id": parent("locations"),
            "kind": "sms",
            "address": f"+1202555{own_key().int % 10000:04}",
            "account_sid": sid("AC"),
        },
        "contacts": {"id": own_key(), "phone": f"+1202555{own_key().int % 10000:04}", "name": canary},
        "conversations": {
            "id": own_key(),
            "location_id": parent("locations"),
            # One conversation per channel and contact: `loose` and `new` cross those of the others.
            "channel_id": key("channels", agency_id, {"twin": "twin", "new": "twin"}.get(kind, "own")),
            "contact_id": key("contacts", agency_id, {"twin": "twin", "loose": "twin"}.get(kind, "own")),
            "last_message_at": _AT,
            "last_message_preview": canary,
            "last_message_direction": "outbound",
        },
        "conversation_counts": {
            # `twin` and `loose` are the same in every agency, and `new` is not there yet.
            "location_id": key("locations", agency_id, "twin" if kind in ("twin", "loose") else "own"),
            "status": {"own": "open", "twin": "in_progress"}.get(kind, "resolved"),
            "conversations": number,
        },
        "messages": {
            "id": own_key(),
            "conversation_id": parent("conversations"),
            "direction": "outbound",
            "content": canary,
            "status": "queued",
            "error_message": canary,
            "twilio_sid": sid("SM"),
            "sent_at": _AT,
        },
        "attempts": {
            "message_id": key("messages", agency_id, "own" if kind == "own" else "twin"),
            "number": number,
            "worker_key": 7,
            "reason": canary,
        },
        "provider_events": {
            "id": own_key(),
            "message_id": own_key("messages"),
            "twilio_sid": sid("SM"),
            "provider_status": "sent",
            "payload": f'{{"Body": "{canary}"}}',
        },
        "idempotency_keys": {
            "key": f"key_{own_key()}",
            "fingerprint": b"\x00",
            "message_id": parent("messages"),
            "response": canary,
        },
        "audit_records": {
            "id": own_key(),
            "user_id": canary,
            "role": "staff",
            "action": "send_message",
            "tenant_source": "token",
            "request_id": canary,
            "message_id": own_key("messages"),
        },
        "outbox": {
            "message_id": own_key("messages"),
            "conversation_id": own_key("conversations"),
            "channel_id": own_key("channels"),
            "sent_at": _AT,
            "state": "queued",
        },
        "number_routing": {
            "account_sid": sid("AC"),
            "address": f"+1202555{own_key().int % 10000:04}",
            "channel_id": parent("channels"),
        },
    }
    return {"agency_id": agency_id, **contents[table]}


def stored_rows(kinds: tuple[str, ...] = STORED) -> list[tuple[str, Row]]:
    """Every row of every agency with its table, in an order that foreign keys allow."""
    tenant_rows = [
        (table, row(table, agency_id, kind))
        for table in RIGHTS
        for agency_id in AGENCIES
        for kind in (("own",) if table == "agencies" else kinds)
    ]
    routes = [("number_routing", row("number_routing", agency_id, "own")) for agency_id in AGENCIES]
    return tenant_rows + routes
