drop table workers, number_routing, outbox, audit_records, idempotency_keys, provider_events, attempts, messages,
    conversation_counts, conversations, contacts, channels, twilio_accounts, locations, clients, agency_members, agencies;
revoke all on alembic_version from faro_app, faro_worker;
alter default privileges grant execute on functions to public;
