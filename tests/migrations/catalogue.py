"""Everything that a migration can leave behind in a database, as text to compare."""

import sqlalchemy
from sqlalchemy import text

# Rights are listed one by one: their order in the catalogue is that of the grants. MAINTAIN came with PostgreSQL 17,
# and NOT NULL became a constraint of its own with 18; the columns say it as well.
STATEMENTS = {
    "relations": """
        select relname, relkind, relrowsecurity, relforcerowsecurity, relowner::regrole, reloptions, relpersistence
        from pg_class
        where relnamespace = 'public'::regnamespace
        and relkind <> 'i'
    """,
    "columns": """
        select relname, row_number() over (partition by relname order by attnum), attname,
            format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid)
        from pg_attribute
        join pg_class on pg_class.oid = attrelid
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where relnamespace = 'public'::regnamespace
        and relkind <> 'i'
        and attnum > 0
        and not attisdropped
    """,
    "constraints": """
        select conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated
        from pg_constraint
        where connamespace = 'public'::regnamespace
        and contype <> 'n'
    """,
    "indexes": """
        select pg_get_indexdef(indexrelid), indisvalid
        from pg_index
        join pg_class on pg_class.oid = indexrelid
        where relnamespace = 'public'::regnamespace
    """,
    "policies": "select tablename, policyname, permissive, roles, cmd, qual, with_check from pg_policies",
    "rights on relations": """
        select relname, grantee::regrole, privilege_type, is_grantable
        from pg_class
        cross join lateral aclexplode(relacl)
        where relnamespace = 'public'::regnamespace
        and privilege_type <> 'MAINTAIN'
    """,
    "rights on columns": """
        select attrelid::regclass, attname, grantee::regrole, privilege_type, is_grantable
        from pg_attribute
        cross join lateral aclexplode(attacl)
        where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
    """,
    "rights by default": """
        select defaclrole::regrole, defaclnamespace, defaclobjtype, grantee::regrole, privilege_type
        from pg_default_acl
        cross join lateral aclexplode(defaclacl)
    """,
    "rights on the schema": """
        select grantee::regrole, privilege_type
        from pg_namespace
        cross join lateral aclexplode(nspacl)
        where nspname = 'public'
    """,
    "schemas": "select nspname from pg_namespace where nspname !~ '^pg_(toast|temp)'",
    "functions": """
        select pg_get_functiondef(oid), proacl
        from pg_proc
        where pronamespace = 'public'::regnamespace
    """,
    "triggers": "select tgrelid::regclass, tgname, tgenabled from pg_trigger where not tgisinternal",
    "types": """
        select typname, typtype
        from pg_type
        where typnamespace = 'public'::regnamespace
        and typtype <> 'c'
        and typelem = 0
    """,
}


def snapshot(owner_url: str) -> dict[str, list[str]]:
    """The whole catalogue, part by part, in an order of its own."""
    engine = sqlalchemy.create_engine(owner_url)
    with engine.connect() as connection:
        found = {
            part: sorted(" | ".join(map(str, row)) for row in connection.execute(text(statement)))
            for part, statement in STATEMENTS.items()
        }
    engine.dispose()
    return found
