-- Gives the roles of persistence/roles.sql their passwords, read from the environment of psql and never from a command
-- line. compose.yaml runs it once, when the database is first created; it may be run again to change them.

\getenv owner FARO_OWNER_PASSWORD
\getenv app FARO_APP_PASSWORD
\getenv worker FARO_WORKER_PASSWORD

-- Whatever the server logs of its statements, these are not among them.
set log_statement = 'none';
set log_min_duration_statement = -1;
set log_min_error_statement = 'panic';

begin;
alter role faro_owner password :'owner';
alter role faro_app password :'app';
alter role faro_worker password :'worker';
commit;
