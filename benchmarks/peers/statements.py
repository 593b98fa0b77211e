"""The SQL that the peers have in common, so that none of them reads other rows or more of them than another.

It is what somebody writes by hand who knows the indexes: the page is cut before contacts are joined, and positions are
compared as rows. `:name` is written as SQLAlchemy and pgbench read it; the drivers' own styles are made from it. The
total is an honest count(*), because a hand-written service has no counters.
"""

import re
from collections.abc import Sequence

BIND = "select set_config('app.agency_id', :agency_id, true)"

_LIST = """
    select page.id, page.location_id, channels.kind as channel, channels.address as channel_address,
        page.contact_id, contacts.name as contact_name, contacts.phone as contact_phone, page.status,
        page.lead_status, page.lead_value::float8 as lead_value, page.assigned_to, page.last_message_at,
        page.last_message_preview, page.last_message_direction, page.created_at, page.updated_at,
        case channels.kind when 'whatsapp' then page.last_inbound_at + interval '24 hours' end as window_expires_at,
        case
            when page.opted_out_at is not null then 'contact_opted_out'
            when channels.kind = 'whatsapp'
                and coalesce(page.last_inbound_at + interval '24 hours' <= clock_timestamp(), true)
                then 'whatsapp_window_closed'
        end as blocked_reason
    from (
        select *
        from conversations
        where agency_id = cast(:agency_id as uuid) {after}
        order by last_message_at desc, id desc
        limit :limit
    ) page
    join contacts on contacts.agency_id = page.agency_id and contacts.id = page.contact_id
    join channels on channels.agency_id = page.agency_id and channels.id = page.channel_id
    order by page.last_message_at desc, page.id desc
"""
LIST_FIRST = _LIST.format(after="")
LIST_AFTER = _LIST.format(
    after="and (last_message_at, id) < (cast(:before_at as timestamptz), cast(:before_id as uuid))"
)

COUNT = """
    select count(*)
    from conversations
    where agency_id = cast(:agency_id as uuid)
"""

# One row when the conversation exists; `sent_at` is null when `before` is not a message of it.
FIND_PLACE = """
    select messages.sent_at
    from conversations
    left join messages on messages.agency_id = conversations.agency_id
        and messages.conversation_id = conversations.id
        and messages.id = cast(:before as uuid)
    where conversations.agency_id = cast(:agency_id as uuid)
    and conversations.id = cast(:conversation_id as uuid)
"""

_MESSAGES = """
    select id, conversation_id, direction, content, media, template, transcript, status, error_code, error_message,
        twilio_sid, sent_by, sent_at, delivered_at, read_at, created_at, duplicate_detected,
        redacted_at
    from messages
    where agency_id = cast(:agency_id as uuid)
    and conversation_id = cast(:conversation_id as uuid) {before}
    order by sent_at desc, id desc
    limit :limit
"""
MESSAGES_FIRST = _MESSAGES.format(before="")
MESSAGES_BEFORE = _MESSAGES.format(
    before="and (sent_at, id) < (cast(:before_at as timestamptz), cast(:before as uuid))"
)

_NAME = re.compile(r"(?<!:):([a-z_]+)")


def for_psycopg2(statement: str) -> str:
    """With `%(name)s` for each `:name`."""
    return _NAME.sub(r"%(\1)s", statement)


def for_asyncpg(statement: str, names: Sequence[str]) -> str:
    """With `$1`, `$2` ... for each `:name`, in the order of `names`."""
    return _NAME.sub(lambda found: f"${names.index(found[1]) + 1}", statement)
