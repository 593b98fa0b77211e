"""Whether the whole schema keeps agencies apart; a process does not start on one that does not.

The rules are general: a new table, policy, key, view, function or grant falls under them without being named here.
What is exempt is named: `number_routing`, which finds an agency before one is bound, `workers` and `alembic_version`,
which hold no agency's rows, and the policy that shows the worker all of the outbox. What an extension brings is its
own. Each rule is one statement over the catalogue, and gives its findings as sentences.
"""

from sqlalchemy import text

from persistence import privilege_lint, role_safety
from persistence.connection import UnboundConnection

TABLES = text("""
    select relname || ': agency_id is missing, or is not a uuid that is never null' as violation
    from pg_class
    left join pg_attribute on attrelid = pg_class.oid and attname = 'agency_id' and not attisdropped
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and relname not in ('workers', 'alembic_version')
    and (attnotnull and atttypid = 'uuid'::regtype) is not true
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    union all
    select relname || ': row-level security is not both enabled and forced'
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and relname not in ('number_routing', 'workers', 'alembic_version')
    and not (relrowsecurity and relforcerowsecurity)
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
""")

# Permissive policies widen each other: with a second one, a row that either lets through is seen. Restrictive ones
# only narrow.
POLICIES_PER_ROLE = text("""
    select relname || ': ' || count(pg_policy.oid) || ' permissive policies apply to ' || rolname || ', not one'
    from pg_class
    join pg_roles on rolname in ('faro_app', 'faro_worker', current_user) or pg_roles.oid = relowner
    left join pg_policy on polrelid = pg_class.oid and polpermissive
        and (polroles = '{0}'
            or exists (select 1 from unnest(polroles) as role where pg_has_role(pg_roles.oid, role, 'usage')))
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and relname not in ('number_routing', 'workers', 'alembic_version')
    and not relispartition
    and not rolsuper
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    group by relname, rolname
    having count(pg_policy.oid) <> 1
""")

POLICIES = text("""
    select relname || ': the policy ' || polname || ' is not the one that compares agency_id with the binding'
    from pg_policy
    join pg_class on pg_class.oid = polrelid
    where relnamespace = 'public'::regnamespace
    and polpermissive
    and not (polcmd = '*'
        and coalesce(pg_get_expr(polqual, polrelid), '') = :expression
        and coalesce(pg_get_expr(polwithcheck, polrelid), '') = :expression)
    and not (relname = 'outbox'
        and polroles = array[(select oid from pg_roles where rolname = 'faro_worker')]
        and pg_get_expr(polqual, polrelid) = 'true'
        and pg_get_expr(polwithcheck, polrelid) = 'true')
""")

EXPRESSION = "(agency_id = (NULLIF(current_setting('app.agency_id'::text, true), ''::text))::uuid)"

# A unique index over all agencies tells one that another has the value; a foreign key that leaves the agency out lets
# one point at, probe and hold another's rows, since the check of it sees past row-level security.
KEYS = text("""
    select indrelid::regclass || ': the unique index ' || indexrelid::regclass || ' does not begin with agency_id'
    from pg_index
    join pg_class on pg_class.oid = indrelid
    left join pg_attribute on attrelid = indrelid and attnum = indkey[0]
    where relnamespace = 'public'::regnamespace
    and relname not in ('number_routing', 'workers', 'alembic_version')
    and (indisunique or indisexclusion)
    and attname is distinct from 'agency_id'
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    union all
    select relname || ' has no primary key'
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and not exists (select 1 from pg_index where indrelid = pg_class.oid and indisprimary)
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    union all
    select conrelid::regclass || ': the foreign key ' || conname || ' does not begin with agency_id on both sides'
    from pg_constraint
    left join pg_attribute here on here.attrelid = conrelid and here.attnum = conkey[1]
    left join pg_attribute there on there.attrelid = confrelid and there.attnum = confkey[1]
    where connamespace = 'public'::regnamespace
    and contype = 'f'
    and (here.attname = 'agency_id' and there.attname = 'agency_id') is not true
    union all
    select conrelid::regclass || ': the constraint ' || conname || ' was never checked'
    from pg_constraint
    where connamespace = 'public'::regnamespace
    and not convalidated
    union all
    select 'number_routing: nothing keeps two agencies from claiming one address of an account'
    where not exists (
        select 1
        from pg_index
        join pg_attribute account_sid on account_sid.attrelid = indrelid and account_sid.attname = 'account_sid'
        join pg_attribute address on address.attrelid = indrelid and address.attname = 'address'
        where indrelid = to_regclass('public.number_routing')
        and indisunique and indisvalid and indimmediate and indpred is null and indnkeyatts = 2
        and indkey::int2[] @> array[account_sid.attnum, address.attnum])
""")

OBJECTS = text("""
    select relname || ' is a ' || case relkind when 'v' then 'view' when 'm' then 'materialised view'
        when 'f' then 'foreign table' else 'sequence' end || ': only tables may be here'
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('v', 'm', 'f', 'S')
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    union all
    select 'the function ' || pg_proc.oid::regprocedure
        || case when prosecdef then ' runs with the rights of its owner' else ' may not be here' end
    from pg_proc
    where (pronamespace = 'public'::regnamespace
        or prosecdef and pg_proc.oid >= 16384 and exists (
            select 1
            from pg_roles
            where rolname in ('faro_app', 'faro_worker', current_user)
            and has_function_privilege(pg_roles.oid, pg_proc.oid, 'execute')
            and has_schema_privilege(pg_roles.oid, pronamespace, 'usage')))
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_proc'::regclass and objid = pg_proc.oid and deptype = 'e')
    union all
    select tgrelid::regclass || ': the trigger ' || tgname
        || case when tgisinternal then ' of a foreign key is switched off' else ' may not be here' end
    from pg_trigger
    join pg_class on pg_class.oid = tgrelid
    where relnamespace = 'public'::regnamespace
    and (not tgisinternal or tgenabled <> 'O')
    and not exists (
        select 1
        from pg_depend
        where classid = 'pg_proc'::regclass and objid = tgfoid and deptype = 'e')
    union all
    select ev_class::regclass || ': the rule ' || rulename || ' may not be here'
    from pg_rewrite
    join pg_class on pg_class.oid = ev_class
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
""")


def violations(connection: UnboundConnection) -> list[str]:
    """What would let one agency see, touch or probe another's rows, now or with the next change; empty when nothing."""
    return [
        *role_safety.violations(connection),
        *role_safety.missing_limits(connection),
        *privilege_lint.violations(connection),
        *connection.execute(TABLES).scalars(),
        *connection.execute(POLICIES_PER_ROLE).scalars(),
        *connection.execute(POLICIES, expression=EXPRESSION).scalars(),
        *connection.execute(KEYS).scalars(),
        *connection.execute(OBJECTS).scalars(),
    ]
