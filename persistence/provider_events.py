"""What the carrier reported of a message: every event once and in full, whether or not it moved the status."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy import text

from persistence.connection import TenantConnection

# The signed content decides what is the same event, not a header that the signature does not cover.
INSERT = text("""
    insert into provider_events (agency_id, id, message_id, attempt, twilio_sid, provider_status, error_code, status,
        payload)
    values (:agency_id, :id, :message_id, :attempt, :twilio_sid, :provider_status, :error_code, :status,
        cast(:payload as jsonb))
    on conflict (agency_id, message_id, twilio_sid, provider_status, error_code) do nothing
    returning id
""")

LIST = text("""
    select status, provider_status, nullif(error_code, '') as error_code, twilio_sid, attempt, received_at
    from provider_events
    where agency_id = :agency_id
    and message_id = :message_id
    order by received_at, id
""")

# A message has one SID in its row; a second one, of a message that went out twice, stands in its events only.
LIST_KNOWN_SIDS = text("""
    select twilio_sid
    from messages
    where agency_id = :agency_id
    and twilio_sid = any(:twilio_sids)
    union
    select provider_events.twilio_sid
    from messages
    join provider_events on provider_events.agency_id = messages.agency_id
        and provider_events.message_id = messages.id
    where messages.agency_id = :agency_id
    and provider_events.agency_id = :agency_id
    and messages.conversation_id = :conversation_id
    and messages.duplicate_detected
    and provider_events.twilio_sid = any(:twilio_sids)
""")


def insert(
    connection: TenantConnection,
    *,
    message_id: UUID,
    attempt: int | None,
    twilio_sid: str,
    provider_status: str,
    error_code: str,
    status: str | None,
    payload: dict[str, Any],
) -> bool:
    """Keep the event; False when it is known already. `status` is ours, None where we do not know the carrier's."""
    inserted = connection.execute(
        INSERT,
        id=uuid_utils.uuid7(),
        message_id=message_id,
        attempt=attempt,
        twilio_sid=twilio_sid,
        provider_status=provider_status,
        error_code=error_code,
        status=status,
        payload=json.dumps(payload),
    )
    return inserted.first() is not None


def list_history(connection: TenantConnection, *, message_id: UUID) -> list[dict[str, Any]]:
    """The message's events in the order in which they arrived."""
    return [dict(row._mapping) for row in connection.execute(LIST, message_id=message_id)]


def list_known_sids(connection: TenantConnection, *, conversation_id: UUID, twilio_sids: Sequence[str]) -> set[str]:
    """Those of the SIDs that already belong to a message."""
    rows = connection.execute(LIST_KNOWN_SIDS, conversation_id=conversation_id, twilio_sids=list(twilio_sids))
    return set(rows.scalars())
