-- Every insert locks the row that its foreign key points at. These rows are written for messages, of which an agency has
-- many at once, and their lock on the agency's one row is what they would have in common. That the agency exists is said
-- already: a message has a conversation, attempts and keys have a message, and an audit record is written in the
-- transaction of the message that it is about.
alter table messages drop constraint messages_agency_id_fkey;
alter table attempts drop constraint attempts_agency_id_fkey;
alter table idempotency_keys drop constraint idempotency_keys_agency_id_fkey;
alter table audit_records drop constraint audit_records_agency_id_fkey;
