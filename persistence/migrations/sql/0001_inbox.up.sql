-- The inbox. Every tenant table carries agency_id, first in every key, unique index and foreign key:
-- a key without it would let one agency point at, probe or cascade-delete another's rows even under
-- row-level security, and agency_id is what Citus distributes by.

create table agencies (
    agency_id          uuid primary key,
    name               text not null,
    status             text not null default 'active' check (status in ('active', 'suspended')),
    -- After proof that the carrier never had a message: send it once more by itself, or ask a person.
    resend_unconfirmed boolean not null default false,
    created_at         timestamptz not null default clock_timestamp()
);

create table agency_members (
    agency_id  uuid not null references agencies,
    user_id    text not null,
    role       text not null
               check (role in ('owner', 'admin', 'manager', 'staff', 'viewer', 'client_viewer')),
    created_at timestamptz not null default clock_timestamp(),
    primary key (agency_id, user_id)
);

create table clients (
    agency_id  uuid not null references agencies,
    id         uuid not null,
    name       text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (agency_id, id)
);

create table locations (
    agency_id  uuid not null references agencies,
    id         uuid not null,
    client_id  uuid not null,
    name       text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (agency_id, id),
    foreign key (agency_id, client_id) references clients
);

-- An agency's own Twilio account; tokens are encrypted by the application (SECRETS_KEY).
create table twilio_accounts (
    agency_id           uuid not null references agencies,
    account_sid         text not null check (account_sid ~ '^AC[0-9a-f]{32}$'),
    auth_token          text not null,
    previous_auth_token text,
    created_at          timestamptz not null default clock_timestamp(),
    updated_at          timestamptz not null default clock_timestamp(),
    primary key (agency_id, account_sid)
);

create table channels (
    agency_id             uuid not null references agencies,
    id                    uuid not null,
    location_id           uuid not null,
    kind                  text not null check (kind in ('whatsapp', 'sms')),
    -- An E.164 number, or the SID of a messaging service (MG...).
    address               text not null,
    account_sid           text not null check (account_sid ~ '^AC[0-9a-f]{32}$'),
    -- While the carrier refuses the whole sender, its queue is kept and nothing is tried.
    paused_until          timestamptz,
    paused_by_error_code  text,
    -- Everything that arrived at the carrier before this is known to be here.
    inbound_complete_until timestamptz,
    created_at            timestamptz not null default clock_timestamp(),
    primary key (agency_id, id),
    unique (agency_id, account_sid, kind, address),
    foreign key (agency_id, location_id) references locations
);

create table contacts (
    agency_id  uuid not null references agencies,
    id         uuid not null,
    phone      text not null,
    name       text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (agency_id, id),
    unique (agency_id, phone)
);

create table conversations (
    agency_id              uuid not null references agencies,
    id                     uuid not null,
    location_id            uuid not null,
    channel_id             uuid not null,
    contact_id             uuid not null,
    status                 text not null default 'open' check (status in ('open', 'in_progress', 'resolved')),
    lead_status            text check (lead_status in ('new', 'quoted', 'booked', 'won', 'lost')),
    lead_value             numeric(12, 2),
    assigned_to            text,
    last_message_at        timestamptz not null,
    last_message_preview   text not null default '',
    last_message_direction text not null check (last_message_direction in ('inbound', 'outbound')),
    last_inbound_at        timestamptz,
    -- A conversation is one sender and one recipient, so the opt-out of that pair stands here.
    opted_out_at           timestamptz,
    created_at             timestamptz not null default clock_timestamp(),
    updated_at             timestamptz not null default clock_timestamp(),
    primary key (agency_id, id),
    unique (agency_id, channel_id, contact_id),
    foreign key (agency_id, location_id) references locations,
    foreign key (agency_id, channel_id) references channels,
    foreign key (agency_id, contact_id) references contacts
);

create index conversations_inbox on conversations (agency_id, last_message_at desc, id desc);
create index conversations_inbox_of_location on conversations (agency_id, location_id, last_message_at desc, id desc);
create index conversations_inbox_by_status on conversations (agency_id, status, last_message_at desc, id desc);
create index conversations_inbox_of_location_by_status
    on conversations (agency_id, location_id, status, last_message_at desc, id desc);

-- How many conversations there are, so that no list has to count them: kept in the transaction that changes it.
create table conversation_counts (
    agency_id     uuid not null references agencies,
    location_id   uuid not null,
    status        text not null check (status in ('open', 'in_progress', 'resolved')),
    conversations bigint not null check (conversations >= 0),
    primary key (agency_id, location_id, status),
    foreign key (agency_id, location_id) references locations
);

create table messages (
    agency_id          uuid not null references agencies,
    id                 uuid not null,
    conversation_id    uuid not null,
    direction          text not null check (direction in ('inbound', 'outbound')),
    content            text not null default '',
    -- A list of {"url": ..., "content_type": ...}.
    media              jsonb not null default '[]',
    -- {"content_sid": ..., "variables": {...}} where an approved template was sent instead of content.
    template           jsonb,
    transcript         text,
    status             text not null
                       check (status in ('received', 'queued', 'sending', 'sent', 'delivered', 'read',
                                         'failed', 'undelivered', 'unconfirmed', 'canceled')),
    error_code         text,
    error_message      text,
    twilio_sid         text,
    duplicate_detected boolean not null default false,
    -- The content held characters that text cannot store (NUL, lone surrogates); they were replaced.
    content_repaired   boolean not null default false,
    sent_by            text,
    -- The place in the thread: strictly increasing within a conversation, whatever the clock does.
    sent_at            timestamptz not null,
    delivered_at       timestamptz,
    read_at            timestamptz,
    created_at         timestamptz not null default clock_timestamp(),
    -- The person asked for their words to be deleted, and since then they are gone here; at the carrier since the second.
    redacted_at        timestamptz,
    carrier_redacted_at timestamptz,
    primary key (agency_id, id),
    unique (agency_id, twilio_sid),
    foreign key (agency_id, conversation_id) references conversations,
    check ((direction = 'inbound') = (status = 'received')),
    -- Whoever comes late, nothing is ever written into a redacted message.
    constraint messages_redacted check (redacted_at is null
        or (content = '' and media = '[]' and template is null and transcript is null and error_message is null)),
    check (redacted_at is not null or carrier_redacted_at is null)
);

create index messages_thread on messages (agency_id, conversation_id, sent_at desc, id desc);

-- One row per call of the carrier, committed before the call.
create table attempts (
    agency_id   uuid not null references agencies,
    message_id  uuid not null,
    number      integer not null check (number > 0),
    -- The advisory lock that the calling worker holds for as long as it lives.
    worker_key  bigint not null,
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome     text check (outcome in ('accepted', 'rejected', 'not_processed', 'unknown')),
    reason      text,
    error_code  text,
    twilio_sid  text,
    primary key (agency_id, message_id, number),
    foreign key (agency_id, message_id) references messages
);

-- Every status callback, once and in full. No foreign key to messages: what cannot be matched is kept too.
create table provider_events (
    agency_id       uuid not null references agencies,
    id              uuid not null,
    message_id      uuid not null,
    attempt         integer,
    twilio_sid      text not null,
    provider_status text not null,
    error_code      text not null default '',
    -- The status of ours that it stands for; null where we do not know it.
    status          text,
    payload         jsonb not null,
    received_at     timestamptz not null default clock_timestamp(),
    primary key (agency_id, id),
    unique (agency_id, message_id, twilio_sid, provider_status, error_code)
);

create table idempotency_keys (
    agency_id   uuid not null references agencies,
    key         text not null,
    -- SHA-256 over path and body of the request that the key was used for.
    fingerprint bytea not null,
    message_id  uuid not null,
    -- The body of the first answer, as it was sent.
    response    text not null,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (agency_id, key),
    foreign key (agency_id, message_id) references messages
);

create index idempotency_keys_by_age on idempotency_keys (agency_id, created_at);

-- Append-only: who sent or redacted what, and how the agency was chosen.
create table audit_records (
    agency_id     uuid not null references agencies,
    id            uuid not null,
    occurred_at   timestamptz not null default clock_timestamp(),
    user_id       text not null,
    role          text not null,
    action        text not null check (action in ('send_message', 'resend_message', 'redact_message')),
    tenant_source text not null check (tenant_source in ('token', 'request', 'command')),
    request_id    text not null,
    message_id    uuid not null,
    primary key (agency_id, id)
);

-- What the worker has still to do for a message. It stays a local table under Citus (FOR UPDATE SKIP
-- LOCKED across agencies), hence no foreign keys.
create table outbox (
    agency_id         uuid not null,
    message_id        uuid not null,
    conversation_id   uuid not null,
    channel_id        uuid not null,
    sent_at           timestamptz not null,
    -- waiting: behind another message of its conversation. queued: to be sent at available_at.
    -- calling: an attempt is open. unknown: being reconciled. accepted: followed until it is terminal.
    state             text not null check (state in ('waiting', 'queued', 'calling', 'unknown', 'accepted')),
    available_at      timestamptz not null default clock_timestamp(),
    attempt           integer not null default 0,
    worker_key        bigint,
    attempted_at      timestamptz,
    negative_listings integer not null default 0,
    primary key (agency_id, message_id)
);

-- One small index for each question the worker asks, so that no backlog is read to answer another.
create index outbox_queued on outbox (agency_id, available_at) where state = 'queued';
create index outbox_waiting on outbox (agency_id, conversation_id, sent_at, message_id) where state = 'waiting';
create index outbox_second_look on outbox (available_at) where state in ('calling', 'unknown', 'accepted');
-- One unresolved message per sender and recipient, kept by the database itself.
create unique index outbox_one_in_flight on outbox (agency_id, conversation_id)
    where state in ('queued', 'calling', 'unknown');

-- Finds the agency of a webhook before any agency is bound: two agencies cannot claim one number.
create table number_routing (
    account_sid text not null check (account_sid ~ '^AC[0-9a-f]{32}$'),
    -- As Twilio writes it: +12025550100, whatsapp:+12025550100 or MG...
    address     text not null,
    agency_id   uuid not null,
    channel_id  uuid not null,
    primary key (account_sid, address),
    constraint number_routing_channel foreign key (agency_id, channel_id) references channels
);

-- The processes that send; holds no agency's data.
create table workers (
    worker_key   bigint primary key,
    started_at   timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp()
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array[
        'agencies', 'agency_members', 'clients', 'locations', 'twilio_accounts', 'channels', 'contacts',
        'conversations', 'conversation_counts', 'messages', 'attempts', 'provider_events', 'idempotency_keys', 'audit_records', 'outbox'
    ] loop
        execute format('alter table %I enable row level security', tenant_table);
        execute format('alter table %I force row level security', tenant_table);
        -- No subselect around current_setting: Citus refuses it. After a commit the setting is '' and not null.
        execute format(
            'create policy tenant on %I to %s
                 using (agency_id = nullif(current_setting(''app.agency_id'', true), '''')::uuid)
                 with check (agency_id = nullif(current_setting(''app.agency_id'', true), '''')::uuid)',
            tenant_table,
            case tenant_table when 'outbox' then 'faro_app, current_user' else 'public' end
        );
    end loop;
end $$;

-- The named exception: the worker takes work of every agency from the outbox, and sees nothing else unbound.
create policy worker on outbox to faro_worker using (true) with check (true);

-- What a later migration creates is nobody's but the owner's until it says otherwise; functions would be everybody's.
alter default privileges revoke execute on functions from public;

grant select on agencies, agency_members, clients, locations, twilio_accounts, channels, contacts, conversations,
    conversation_counts, messages, attempts, provider_events, idempotency_keys, outbox, number_routing, workers,
    alembic_version to faro_app;
grant insert on contacts, conversations, conversation_counts, messages, provider_events, idempotency_keys,
    audit_records, outbox to faro_app;
grant update (conversations) on conversation_counts to faro_app, faro_worker;
grant update (name, updated_at) on contacts to faro_app;
grant update (status, last_message_at, last_message_preview, last_message_direction, last_inbound_at, opted_out_at,
    updated_at) on conversations to faro_app;
grant update (status, error_code, error_message, twilio_sid, duplicate_detected, delivered_at, read_at)
    on messages to faro_app;
grant update (state, available_at, attempt, worker_key, negative_listings) on outbox to faro_app;
-- A callback proves what became of the attempt that it is about.
grant update (finished_at, outcome, reason, error_code, twilio_sid) on attempts to faro_app;
-- To lock what has expired takes the right to update something of it.
grant update (created_at) on idempotency_keys to faro_app;
grant delete on idempotency_keys, outbox to faro_app;

grant select on agencies, twilio_accounts, channels, contacts, conversations, conversation_counts, messages,
    attempts, provider_events, outbox, number_routing, workers, alembic_version to faro_worker;
grant insert on contacts, conversations, conversation_counts, messages, attempts, provider_events, workers to faro_worker;
grant update (name, updated_at) on contacts to faro_worker;
grant update (status, last_message_at, last_message_preview, last_message_direction, last_inbound_at, opted_out_at,
    updated_at) on conversations to faro_worker;
grant update (status, error_code, error_message, twilio_sid, duplicate_detected, delivered_at, read_at)
    on messages to faro_worker;
grant update (finished_at, outcome, reason, error_code, twilio_sid) on attempts to faro_worker;
grant update (paused_until, paused_by_error_code, inbound_complete_until) on channels to faro_worker;
grant update (state, available_at, attempt, worker_key, attempted_at, negative_listings) on outbox to faro_worker;
grant delete on outbox, workers to faro_worker;
grant update (last_seen_at) on workers to faro_worker;
