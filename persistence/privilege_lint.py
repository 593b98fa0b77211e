"""What the roles that serve may do, beyond which rows they see: only what the service needs, and nothing by default."""

from sqlalchemy import text

from persistence.connection import UnboundConnection

# TRUNCATE is not subject to row-level security; REFERENCES and TRIGGER run checks and code in another's name.
ON_TABLES = text("""
    with granted as (
        select pg_class.oid as relation, relname, relispartition, rolname, grantee, privilege_type, is_grantable
        from pg_class
        join pg_roles on rolname in ('faro_app', 'faro_worker', current_user)
        cross join lateral (
            select grantee, privilege_type, is_grantable
            from aclexplode(relacl)
            union
            select grantee, privilege_type, is_grantable
            from pg_attribute
            cross join lateral aclexplode(attacl)
            where attrelid = pg_class.oid
        ) as acl
        where relnamespace = 'public'::regnamespace
        and not rolsuper
        and (grantee = 0 or pg_has_role(pg_roles.oid, grantee, 'member'))
        and not exists (
            select 1
            from pg_depend
            where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    )
    select distinct relname || ': ' || privilege_type || ' is granted to ' || rolname as violation
    from granted
    where privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    union all
    select distinct relname || ': ' || privilege_type || ' is granted to everybody'
    from granted
    where grantee = 0
    union all
    select distinct relname || ': ' || rolname || ' may pass on ' || privilege_type
    from granted
    where is_grantable
    union all
    select distinct relname || ': ' || rolname || ' may go past the parent of this partition, and its policy'
    from granted
    where relispartition
    union all
    select distinct relname || ': ' || rolname || ' may only read it, and has ' || privilege_type
    from granted
    where relname in ('number_routing', 'alembic_version')
    and privilege_type <> 'SELECT'
    union all
    select distinct relname || ': ' || rolname || ' may only add to it, and has ' || privilege_type
    from granted
    where relname = 'audit_records'
    and privilege_type <> 'INSERT'
    union all
    select relname || ': ' || rolname || ' may give a row to another agency'
    from pg_class
    join pg_attribute on attrelid = pg_class.oid and attname = 'agency_id'
    join pg_roles on rolname in ('faro_app', 'faro_worker', current_user)
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and not rolsuper
    and has_column_privilege(pg_roles.oid, pg_class.oid, attnum, 'update')
""")

# The names of temporary tables hide those of others; whoever creates objects can shadow what others call.
ON_PLACES = text("""
    select rolname || ' may create objects in the database, or temporary tables' as violation
    from pg_roles
    where rolname in ('faro_app', 'faro_worker', current_user)
    and not rolsuper
    and (has_database_privilege(pg_roles.oid, current_database(), 'create')
        or has_database_privilege(pg_roles.oid, current_database(), 'temporary'))
    union all
    select rolname || ' may create objects in the schema public'
    from pg_roles
    where rolname in ('faro_app', 'faro_worker', current_user)
    and not rolsuper
    and has_schema_privilege(pg_roles.oid, 'public', 'create')
    union all
    select rolname || ' may use the schema ' || nspname
    from pg_roles
    cross join pg_namespace
    where rolname in ('faro_app', 'faro_worker', current_user)
    and not rolsuper
    and nspname not in ('public', 'pg_catalog', 'information_schema')
    and has_schema_privilege(pg_roles.oid, pg_namespace.oid, 'usage')
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_namespace'::regclass and objid = pg_namespace.oid and deptype = 'e')
""")

# What the next migration creates belongs to nobody but the owner until it says otherwise.
BY_DEFAULT = text("""
    select 'new objects of ' || defaclrole::regrole || ' are open to '
        || case grantee when 0 then 'everybody' else grantee::regrole::text end as violation
    from pg_default_acl
    cross join lateral aclexplode(defaclacl)
    where grantee = 0
    or grantee in (select oid from pg_roles where rolname in ('faro_app', 'faro_worker', current_user))
    union all
    select 'new functions of ' || relowner::regrole || ' are open to everybody'
    from (select distinct relowner from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p'))
        as owners
    where not exists (
        select 1
        from pg_default_acl
        where defaclrole = relowner
        and defaclobjtype = 'f'
        and defaclnamespace = 0)
""")


def violations(connection: UnboundConnection) -> list[str]:
    """Every right of the application and the worker that they should not have."""
    return [
        *connection.execute(ON_TABLES).scalars(),
        *connection.execute(ON_PLACES).scalars(),
        *connection.execute(BY_DEFAULT).scalars(),
    ]
