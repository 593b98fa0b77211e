-- Every insert locks the row that its foreign key points at. These rows are written for messages, of which an agency has
-- many at once, and their lock on the agency's one row is what they would have in common. That the agency exists is said
-- already: a message has a conversation, attempts and keys have a message. Of an audit record only the code says it,
-- which writes one in the transaction of the message that it is about.

-- In the order in which requests take them, so that none of them deadlocks with this; and waited for, all together, for
-- less than the two seconds that a request waits for a lock.
set local lock_timeout = '200ms';
lock table contacts, conversations, agencies, idempotency_keys, messages, attempts, audit_records
    in access exclusive mode;

alter table messages drop constraint messages_agency_id_fkey;
alter table attempts drop constraint attempts_agency_id_fkey;
alter table idempotency_keys drop constraint idempotency_keys_agency_id_fkey;
alter table audit_records drop constraint audit_records_agency_id_fkey;
