-- The rows that everything is measured on, made inside the server. Run as its superuser, with the temporary tables
-- `sample (n, content)`, `plan (agency_id, name, conversations, messages, kinds)` and `constants` in place. Times are
-- spread over a year; the order in which rows are written is not the order in which they are read, as it is where many
-- agencies write at once.

-- step: agencies, places, channels
-- Foreign keys hold by the way the rows are made.
set session_replication_role = replica;

insert into agencies (agency_id, name) select agency_id, name from plan;

insert into clients (agency_id, id, name)
select agency_id, uuidv7(), 'Client' from plan;

insert into locations (agency_id, id, client_id, name)
select agency_id, uuidv7(), clients.id, 'Location ' || n
from clients cross join generate_series(1, 2) n;

insert into channels (agency_id, id, location_id, kind, address, account_sid)
select agency_id, uuidv7(), id, kind, '+999' || lpad((row_number() over ())::text, 8, '0'), account_sid
from locations join plan using (agency_id) cross join unnest(kinds) kind cross join constants;

insert into number_routing (account_sid, address, agency_id, channel_id)
select account_sid, case kind when 'whatsapp' then 'whatsapp:' else '' end || address, agency_id, id
from channels;

create temp table place as
select agency_id, id as channel_id, location_id, row_number() over (partition by agency_id order by address) - 1 as n,
    count(*) over (partition by agency_id) as places
from channels;

-- step: contacts
create temp table draft as
select agency_id, n, uuidv7(last_message_at - interval '30 days' - now()) as id,
    uuidv7(last_message_at - interval '30 days' - now()) as contact_id,
    messages[least(n, cardinality(messages))] as messages, last_message_at
from plan
cross join generate_series(1, conversations) n
cross join lateral (select now() - (n - 0.5) * interval '365 days' / conversations as last_message_at) at;

insert into contacts (agency_id, id, phone, name, created_at)
select agency_id, contact_id, '+999' || lpad((50000000 + n)::text, 8, '0'),
    case when n % 5 > 0 then (array['Ana', 'Ben', 'Chidi', 'Dora', 'Emre', 'Fatou', 'Gus', 'Hana'])[1 + n % 8] end,
    last_message_at - interval '30 days'
from draft
order by md5(contact_id::text);

-- step: conversations
insert into conversations (agency_id, id, location_id, channel_id, contact_id, status, lead_status, lead_value,
    assigned_to, last_message_at, last_message_preview, last_message_direction, last_inbound_at, opted_out_at,
    created_at, updated_at)
select agency_id, id, location_id, channel_id, contact_id,
    case when draft.n % 10 < 6 then 'open' when draft.n % 10 < 8 then 'in_progress' else 'resolved' end,
    case draft.n % 4 when 0 then 'quoted' when 1 then 'won' end,
    case draft.n % 4 when 1 then 100 + draft.n % 900 end,
    case when draft.n % 3 = 0 then 'user_' || draft.n % 7 end,
    last_message_at,
    left(regexp_replace(content, '\s+', ' ', 'g'), 160),
    case when draft.n % 2 = 0 then 'inbound' else 'outbound' end,
    case when draft.n % 2 = 0 then last_message_at else last_message_at - interval '41 minutes' end,
    case when draft.n % 50 = 7 then last_message_at end,
    last_message_at - interval '30 days', last_message_at
from draft
join place using (agency_id)
cross join constants
join sample on sample.n = (draft.n * 31 + 7) % samples
where place.n = draft.n % place.places
order by md5(draft.id::text);

-- step: messages
-- The first of a thread, k = 1, is its newest, and the one that its conversation shows.
insert into messages (agency_id, id, conversation_id, direction, content, media, status, twilio_sid, sent_by, sent_at,
    delivered_at, read_at, created_at)
select agency_id, uuidv7(sent_at - now()), draft.id,
    case when outbound then 'outbound' else 'inbound' end,
    content,
    case when k % 20 = 19 and not outbound
        then '[{"url": "https://api.twilio.com/media/1", "content_type": "image/jpeg"}]'::jsonb else '[]' end,
    case when not outbound then 'received' when k % 3 = 0 then 'delivered' else 'read' end,
    'SM' || md5(draft.id::text || k),
    case when outbound then 'user_' || k % 7 end,
    sent_at,
    case when outbound then sent_at + interval '2 seconds' end,
    case when outbound and k % 3 > 0 then sent_at + interval '2 minutes' end,
    sent_at
from draft
cross join lateral generate_series(1, draft.messages) k
cross join lateral (
    select (draft.n + k) % 2 = 0 as outbound,
        last_message_at - (k - 1) * least(interval '41 minutes', interval '300 days' / draft.messages) as sent_at
) each
cross join constants
join sample on sample.n = (draft.n * 31 + k * 7) % samples
order by sent_at;

-- step: counters
do $$
begin
    if to_regclass('conversation_counts') is not null then
        insert into conversation_counts (agency_id, location_id, status, conversations)
        select agency_id, location_id, status, count(*)
        from conversations
        group by agency_id, location_id, status;
    end if;
end $$;
