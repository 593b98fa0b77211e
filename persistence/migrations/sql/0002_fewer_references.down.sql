set local lock_timeout = '200ms';
lock table contacts, conversations, agencies, idempotency_keys, messages, attempts, audit_records
    in access exclusive mode;

-- Under FORCE their owner would see no row to check.
alter table agencies no force row level security;
alter table messages no force row level security;
alter table attempts no force row level security;
alter table idempotency_keys no force row level security;
alter table audit_records no force row level security;

alter table messages add foreign key (agency_id) references agencies;
alter table attempts add foreign key (agency_id) references agencies;
alter table idempotency_keys add foreign key (agency_id) references agencies;
alter table audit_records add foreign key (agency_id) references agencies;

alter table agencies force row level security;
alter table messages force row level security;
alter table attempts force row level security;
alter table idempotency_keys force row level security;
alter table audit_records force row level security;
