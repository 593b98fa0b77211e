"""The tables as statements name them; the migrations are what creates them.

Only columns and types stand here: keys, checks, policies and grants live in the migrations, and a test
compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = MetaData()
TIMESTAMP = DateTime(timezone=True)

agencies = Table(
    "agencies",
    metadata,
    Column("agency_id", UUID),
    Column("name", Text),
    Column("status", Text),
    Column("resend_unconfirmed", Boolean),
    Column("created_at", TIMESTAMP),
)

agency_members = Table(
    "agency_members",
    metadata,
    Column("agency_id", UUID),
    Column("user_id", Text),
    Column("role", Text),
    Column("created_at", TIMESTAMP),
)

clients = Table(
    "clients",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("name", Text),
    Column("created_at", TIMESTAMP),
)

locations = Table(
    "locations",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("client_id", UUID),
    Column("name", Text),
    Column("created_at", TIMESTAMP),
)

twilio_accounts = Table(
    "twilio_accounts",
    metadata,
    Column("agency_id", UUID),
    Column("account_sid", Text),
    Column("auth_token", Text),
    Column("previous_auth_token", Text),
    Column("created_at", TIMESTAMP),
    Column("updated_at", TIMESTAMP),
)

channels = Table(
    "channels",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("location_id", UUID),
    Column("kind", Text),
    Column("address", Text),
    Column("account_sid", Text),
    Column("paused_until", TIMESTAMP),
    Column("paused_by_error_code", Text),
    Column("inbound_complete_until", TIMESTAMP),
    Column("created_at", TIMESTAMP),
)

contacts = Table(
    "contacts",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("phone", Text),
    Column("name", Text),
    Column("created_at", TIMESTAMP),
    Column("updated_at", TIMESTAMP),
)

conversations = Table(
    "conversations",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("location_id", UUID),
    Column("channel_id", UUID),
    Column("contact_id", UUID),
    Column("status", Text),
    Column("lead_status", Text),
    Column("lead_value", Numeric(12, 2)),
    Column("assigned_to", Text),
    Column("last_message_at", TIMESTAMP),
    Column("last_message_preview", Text),
    Column("last_message_direction", Text),
    Column("last_inbound_at", TIMESTAMP),
    Column("opted_out_at", TIMESTAMP),
    Column("created_at", TIMESTAMP),
    Column("updated_at", TIMESTAMP),
)

messages = Table(
    "messages",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("conversation_id", UUID),
    Column("direction", Text),
    Column("content", Text),
    Column("media", JSONB),
    Column("template", JSONB(none_as_null=True)),
    Column("transcript", Text),
    Column("status", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("twilio_sid", Text),
    Column("duplicate_detected", Boolean),
    Column("content_repaired", Boolean),
    Column("sent_by", Text),
    Column("sent_at", TIMESTAMP),
    Column("delivered_at", TIMESTAMP),
    Column("read_at", TIMESTAMP),
    Column("created_at", TIMESTAMP),
)

attempts = Table(
    "attempts",
    metadata,
    Column("agency_id", UUID),
    Column("message_id", UUID),
    Column("number", Integer),
    Column("worker_key", BigInteger),
    Column("started_at", TIMESTAMP),
    Column("finished_at", TIMESTAMP),
    Column("outcome", Text),
    Column("reason", Text),
    Column("error_code", Text),
    Column("twilio_sid", Text),
)

provider_events = Table(
    "provider_events",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("message_id", UUID),
    Column("attempt", Integer),
    Column("twilio_sid", Text),
    Column("provider_status", Text),
    Column("error_code", Text),
    Column("status", Text),
    Column("payload", JSONB),
    Column("received_at", TIMESTAMP),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("agency_id", UUID),
    Column("key", Text),
    Column("fingerprint", LargeBinary),
    Column("message_id", UUID),
    Column("response", Text),
    Column("created_at", TIMESTAMP),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("agency_id", UUID),
    Column("id", UUID),
    Column("occurred_at", TIMESTAMP),
    Column("user_id", Text),
    Column("role", Text),
    Column("action", Text),
    Column("tenant_source", Text),
    Column("request_id", Text),
    Column("message_id", UUID),
)

outbox = Table(
    "outbox",
    metadata,
    Column("agency_id", UUID),
    Column("message_id", UUID),
    Column("conversation_id", UUID),
    Column("channel_id", UUID),
    Column("sent_at", TIMESTAMP),
    Column("state", Text),
    Column("available_at", TIMESTAMP),
    Column("attempt", Integer),
    Column("worker_key", BigInteger),
    Column("attempted_at", TIMESTAMP),
    Column("negative_listings", Integer),
)

# The two tables below belong to no agency; everything above is a tenant table.
TENANT_TABLES = frozenset(metadata.tables)

number_routing = Table(
    "number_routing",
    metadata,
    Column("account_sid", Text),
    Column("address", Text),
    Column("agency_id", UUID),
    Column("channel_id", UUID),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_key", BigInteger),
    Column("started_at", TIMESTAMP),
    Column("last_seen_at", TIMESTAMP),
)
