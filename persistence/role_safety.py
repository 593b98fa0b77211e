"""Whether row-level security binds the role that a process runs as, and whether nothing of it runs for ever.

A process does not start when it does not, and is not ready; that is asked often, so it is one cheap statement.
"""

from sqlalchemy import text

from persistence.connection import UnboundConnection

VIOLATIONS = text("""
    select current_user || ' is a superuser' as violation
    from pg_roles
    where rolname = current_user
    and rolsuper
    union all
    select rolname || ' has BYPASSRLS'
    from pg_roles
    where rolname in ('faro_app', 'faro_worker', current_user)
    and rolbypassrls
    union all
    select rolname || ' may create roles or databases, or replicate'
    from pg_roles
    where rolname in ('faro_app', 'faro_worker', current_user)
    and (rolcreaterole or rolcreatedb or rolreplication)
    and not rolsuper
    union all
    select serving.rolname || ' can become ' || other.rolname
    from pg_roles serving
    join pg_roles other on other.oid <> serving.oid and pg_has_role(serving.oid, other.oid, 'member')
    where serving.rolname in ('faro_app', 'faro_worker', current_user)
    and not serving.rolsuper
    and (other.rolsuper or other.rolbypassrls or other.rolcreaterole or other.rolname in (
        'pg_read_all_data', 'pg_write_all_data', 'pg_maintain', 'pg_execute_server_program',
        'pg_read_server_files', 'pg_write_server_files'))
    union all
    select rolname || ' owns, or is a member of the owner of, ' || relname
    from pg_class
    join pg_roles on rolname in ('faro_app', 'faro_worker', current_user) and not rolsuper
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p', 'v', 'm')
    and pg_has_role(pg_roles.oid, relowner, 'member')
    union all
    select current_user || ' may truncate ' || relname
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and has_table_privilege(oid, 'truncate')
    union all
    select relname || ' has no forced row-level security'
    from pg_class
    join pg_attribute on pg_attribute.attrelid = pg_class.oid
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and attname = 'agency_id'
    and relname <> 'number_routing'
    and not (relrowsecurity and relforcerowsecurity)
""")

SEES_PAST_POLICIES = text("""
    select rolsuper or rolbypassrls
    from pg_roles
    where rolname = current_user
""")

# Servers before these let statistics show rows past row-level security (CVE-2025-8713), or cached plans of another
# role (CVE-2023-2455). Under Citus a binding that is not passed on to the shards makes every table look empty.
MISSING_LIMITS = text("""
    select current_user || ' has no ' || name || ': run persistence/roles.sql' as violation
    from pg_settings
    where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
    and setting = '0'
    union all
    select current_user || ' has the time zone ' || setting || ', not UTC: run persistence/roles.sql'
    from pg_settings
    where name = 'TimeZone'
    and setting not in ('UTC', 'Etc/UTC')
    union all
    select 'citus.propagate_set_commands is not local: run migrate --distributed'
    from pg_extension
    where extname = 'citus'
    and current_setting('citus.propagate_set_commands', true) is distinct from 'local'
    union all
    select 'PostgreSQL ' || current_setting('server_version') || ' is too old: 15.14, 16.10, 17.6 or 18 is needed'
    where not case current_setting('server_version_num')::integer / 10000
        when 15 then current_setting('server_version_num')::integer >= 150014
        when 16 then current_setting('server_version_num')::integer >= 160010
        when 17 then current_setting('server_version_num')::integer >= 170006
        else current_setting('server_version_num')::integer >= 180000
    end
""")


def violations(connection: UnboundConnection) -> list[str]:
    """What would let the roles that serve see another agency's rows; empty when nothing would."""
    return list(connection.execute(VIOLATIONS).scalars())


def sees_past_policies(connection: UnboundConnection) -> bool:
    """Whether row-level security does not bind the current role, whatever else it may do."""
    return bool(connection.execute(SEES_PAST_POLICIES).scalar_one())


def missing_limits(connection: UnboundConnection) -> list[str]:
    """What the current role or its server lacks, before it may serve."""
    return list(connection.execute(MISSING_LIMITS).scalars())
