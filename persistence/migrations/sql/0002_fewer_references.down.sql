alter table messages add foreign key (agency_id) references agencies;
alter table attempts add foreign key (agency_id) references agencies;
alter table idempotency_keys add foreign key (agency_id) references agencies;
alter table audit_records add foreign key (agency_id) references agencies;
