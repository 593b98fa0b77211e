"""Gives the demo's conversations a past: what was loaded within seconds looks like a fortnight of work.

There is no API for a conversation's state and none for time, so the owner of the tables does it, bound to one agency at
a time. The threads keep their order, and every message keeps the time that it took to arrive.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text

from conversations_api.demo.invented_agencies import Agency
from persistence import conversation_counts
from tenancy.transaction import Database, tenant_transaction

# Nothing but `invent` sets a lead's status, and for all conversations of an agency at once.
HAS_LEADS = text("""
    select exists (
        select 1
        from conversations
        where agency_id = :agency_id
        and lead_status is not null)
""")

LIST_CONVERSATIONS = text("""
    select id, last_message_direction
    from conversations
    where agency_id = :agency_id
    order by id
""")

COUNT_UNSETTLED = text("""
    select count(*)
    from messages
    where agency_id = :agency_id
    and status in ('queued', 'sending', 'sent')
""")

NEWEST_MESSAGE_AT = text("""
    select max(last_message_at)
    from conversations
    where agency_id = :agency_id
""")

# `moment` is where each message goes: as long before the last one of its thread as its followers took to be written.
REWRITE = text("""
    with plan as (
        select id, last_message_at, status, lead_status, lead_value, assigned_to
        from jsonb_to_recordset(cast(:plan as jsonb)) as plan (id uuid, last_message_at timestamptz, status text,
            lead_status text, lead_value numeric, assigned_to text)
    ),
    moment as (
        select messages.id, messages.conversation_id, messages.direction, messages.sent_at as stored_at,
            plan.last_message_at - make_interval(secs => coalesce(sum(20 + abs(hashtext(messages.id::text) % 1500))
                over (partition by messages.conversation_id order by messages.sent_at desc, messages.id desc
                    rows between unbounded preceding and 1 preceding), 0)) as happened_at
        from messages
        join plan on plan.id = messages.conversation_id
        where messages.agency_id = :agency_id
    ),
    moved_messages as (
        update messages
        set sent_at = happened_at, created_at = happened_at,
            delivered_at = delivered_at + (happened_at - stored_at), read_at = read_at + (happened_at - stored_at)
        from moment
        where messages.agency_id = :agency_id
        and messages.id = moment.id
    ),
    moved_events as (
        update provider_events
        set received_at = received_at + (happened_at - stored_at)
        from moment
        where provider_events.agency_id = :agency_id
        and provider_events.message_id = moment.id
    ),
    moved_attempts as (
        update attempts
        set started_at = started_at + (happened_at - stored_at), finished_at = finished_at + (happened_at - stored_at)
        from moment
        where attempts.agency_id = :agency_id
        and attempts.message_id = moment.id
    ),
    thread as (
        select conversation_id, min(happened_at) as first_at,
            max(happened_at) filter (where direction = 'inbound') as last_inbound_at
        from moment
        group by conversation_id
    )
    update conversations
    set status = plan.status, lead_status = plan.lead_status, lead_value = plan.lead_value,
        assigned_to = plan.assigned_to, last_message_at = plan.last_message_at, updated_at = plan.last_message_at,
        created_at = thread.first_at, last_inbound_at = thread.last_inbound_at,
        opted_out_at = case when opted_out_at is not null then thread.last_inbound_at end
    from plan
    join thread on thread.conversation_id = plan.id
    where conversations.agency_id = :agency_id
    and conversations.id = plan.id
""")

# Of the newest answer in an SMS conversation nobody knows whether it went out, so that it can be sent again.
LOSE_AN_ANSWER = text("""
    with chosen as (
        select messages.id
        from messages
        join conversations on conversations.agency_id = messages.agency_id
            and conversations.id = messages.conversation_id
        join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
        where messages.agency_id = :agency_id
        and conversations.agency_id = :agency_id
        and channels.agency_id = :agency_id
        and channels.kind = 'sms'
        and conversations.opted_out_at is null
        and messages.direction = 'outbound'
        and messages.status = 'delivered'
        order by messages.sent_at desc, messages.id desc
        limit 1
    ),
    lost_events as (
        delete from provider_events
        using chosen
        where provider_events.agency_id = :agency_id
        and provider_events.message_id = chosen.id
    ),
    lost_replies as (
        update attempts
        set outcome = 'unknown', reason = 'reply_cut_short', twilio_sid = null
        from chosen
        where attempts.agency_id = :agency_id
        and attempts.message_id = chosen.id
    )
    update messages
    set status = 'unconfirmed', twilio_sid = null, delivered_at = null
    from chosen
    where messages.agency_id = :agency_id
    and messages.id = chosen.id
""")


def has_been_invented(database: Database, agency: Agency) -> bool:
    """Whether the agency's conversations in the owner's `database` have their past: the last step of loading."""
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        return bool(connection.execute(HAS_LEADS).scalar())


def count_unsettled(database: Database, agency: Agency) -> int:
    """How many messages are still on their way."""
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        return int(connection.execute(COUNT_UNSETTLED).scalar_one())


def has_gone_quiet(database: Database, agency: Agency) -> bool:
    """Whether nobody has written for an hour."""
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        newest: datetime | None = connection.execute(NEWEST_MESSAGE_AT).scalar()
    return newest is None or newest < datetime.now(UTC) - timedelta(hours=1)


def invent(database: Database, agency: Agency) -> None:
    """Spread the agency's conversations over a fortnight, and let them have led somewhere."""
    dice = random.Random(agency.name)  # noqa: S311  # the same demo every time, and no key
    now = datetime.now(UTC)
    with tenant_transaction(database, agency.id) as connection:
        rows = connection.execute(LIST_CONVERSATIONS).all()
        staff = [member for member, role in agency.members if role in ("manager", "staff")]
        plan = [_plan(row, now, dice, staff) for row in rows]
        connection.execute(REWRITE, plan=json.dumps(plan, default=str))
        connection.execute(LOSE_AN_ANSWER)
        conversation_counts.recount(connection)


def _plan(conversation: Row[Any], now: datetime, dice: random.Random, staff: list[str]) -> dict[str, Any]:
    # Half of them within a day: WhatsApp's window is open for those, and closed for the others.
    hours = dice.choices((dice.uniform(0.01, 2), dice.uniform(2, 22), dice.uniform(22, 336)), (25, 35, 40))[0]
    # Who wrote last, and lately, is still waiting.
    is_waiting = hours < 22 and conversation.last_message_direction == "inbound"
    status = dice.choices(("open", "in_progress", "resolved"), (6, 3, 0) if is_waiting else (1, 3, 6))[0]
    lead_status = dice.choices((None, "new", "quoted", "booked", "won", "lost"), (4, 3, 2, 2, 2, 1))[0]
    has_value = lead_status in ("quoted", "booked", "won", "lost")
    return {
        "id": conversation.id,
        "last_message_at": (now - timedelta(hours=hours)).isoformat(),
        "status": status,
        "lead_status": lead_status,
        "lead_value": dice.randrange(4_000, 250_000, 500) / 100 if has_value else None,
        "assigned_to": dice.choice(staff) if status != "open" or dice.random() < 0.3 else None,
    }
