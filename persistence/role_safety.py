"""Whether row-level security binds the role that a process runs as; a process does not start when it does not."""

from sqlalchemy import text

from persistence.connection import UnboundConnection

VIOLATIONS = text("""
    select 'is a superuser' as violation
    from pg_roles
    where rolname = current_user
    and rolsuper
    union all
    select 'has BYPASSRLS'
    from pg_roles
    where rolname = current_user
    and rolbypassrls
    union all
    select 'can become a superuser, or a role with BYPASSRLS'
    where exists (
        select 1
        from pg_roles
        where rolname <> current_user
        and (rolsuper or rolbypassrls)
        and pg_has_role(current_user, oid, 'member'))
    union all
    select 'owns, or is a member of the owner of, ' || relname
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p', 'v', 'm')
    and pg_has_role(current_user, relowner, 'member')
    union all
    select 'may truncate ' || relname
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


def violations(connection: UnboundConnection) -> list[str]:
    """What would let the current role see another agency's rows; empty when nothing would."""
    return list(connection.execute(VIOLATIONS).scalars())
