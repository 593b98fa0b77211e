-- Creates the roles and the database of Faro Conversations. Run it with psql before the first migration:
--
--     psql -v ON_ERROR_STOP=1 -d postgres -f persistence/roles.sql
--     psql -v ON_ERROR_STOP=1 -d postgres -v database=faro_staging -f persistence/roles.sql
--
-- Needs PostgreSQL 15 or newer and a superuser, or a role with CREATEROLE and CREATEDB. It may be run again: what exists
-- is kept, and only the grants are repeated. The roles are shared by all databases of a server.
--
--     faro_owner    owns the database and its tables; only migrations and redactions log in as it
--     faro_app      what the API logs in as: sees one agency at a time, through row level security
--     faro_worker   what the delivery worker logs in as
--
-- No password is set here. Give each role one that appears in no log and no shell history:
--
--     \password faro_owner
--     \password faro_app
--     \password faro_worker
--
-- Variables: `database` (default faro) and `template`, the database to copy (default template0).

\if :{?database}
\else
    \set database faro
\endif
\if :{?template}
\else
    \set template template0
\endif

-- A role that could bypass row level security would see every agency: the service refuses to start with one.
select format('create role %I login nosuperuser nocreatedb nocreaterole noreplication nobypassrls', name)
from unnest(array['faro_owner', 'faro_app', 'faro_worker']) as name
where not exists (select from pg_roles where rolname = name)
\gexec

-- Only a member of the owning role may hand a database to it; a superuser needs no membership.
select 'grant faro_owner to current_user'
where not (select rolsuper from pg_roles where rolname = current_user)
\gexec

select format('create database %I owner faro_owner template %I encoding ''UTF8''', :'database', :'template')
where not exists (select from pg_database where datname = :'database')
\gexec

-- By default every role of the server may connect to every database and fill it with temporary tables.
revoke all on database :"database" from public;
grant connect on database :"database" to faro_owner, faro_app, faro_worker;

-- A statement, a wait for a lock and an idle transaction all end, whoever forgot them; times are shown in UTC. The service
-- refuses to start in a role without these. A migration may take long: it limits its own waiting for locks.
select format('alter role %I in database %I set %s', role, :'database', setting)
from unnest(array['faro_app', 'faro_worker']) as role,
    unnest(array['statement_timeout = ''5s''', 'lock_timeout = ''2s''', 'idle_in_transaction_session_timeout = ''10s'''])
        as setting
union all
select format('alter role %I in database %I set timezone = ''UTC''', role, :'database')
from unnest(array['faro_owner', 'faro_app', 'faro_worker']) as role
\gexec

\connect :"database"

-- Whoever may create objects in the schema can shadow the functions that others call (CVE-2018-1058).
alter schema public owner to faro_owner;
revoke create on schema public from public;
grant usage on schema public to faro_app, faro_worker;
