# ruff: noqa: S608 - statements are put together from the names of our own tables
"""Every table × role × command × binding, on real logins: whose rows are reached, and what is said when none is.

No statement here names the agency, and every row has look-alikes with the same key in other agencies: what keeps them
apart is the database alone.
"""

import pytest

from tests.tenancy.rls import rows
from tests.tenancy.rls.probes import CASES, Case, check_case
from tests.tenancy.rls.world import Logins

TENANT_TABLES = """
    select relname
    from pg_class
    join pg_attribute on attrelid = pg_class.oid and attname = 'agency_id'
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and relname <> 'number_routing'
"""

# Values that all three agencies share, column by column of each unique index but for the agency.
UNIQUE_KEYS = """
    select indrelid::regclass::text, array_agg(attname::text order by position)
    from pg_index
    cross join lateral unnest(indkey::int2[]) with ordinality as columns (number, position)
    join pg_attribute on attrelid = indrelid and attnum = number
    where indisunique
    and indrelid in (select attrelid from pg_attribute where attname = 'agency_id' and attnotnull)
    and indrelid::regclass::text not in ('number_routing', 'agencies')
    and indrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
    group by indexrelid, indrelid
"""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_statement_reaches_the_bound_agencys_rows_only(logins: Logins, case: Case) -> None:
    check_case(logins, case)


def test_a_new_table_has_look_alike_rows_and_declared_rights(logins: Logins) -> None:
    with logins.acting(None, None) as cursor:
        cursor.execute(TENANT_TABLES)
        tables = {name for (name,) in cursor.fetchall()}
        assert tables == rows.RIGHTS.keys() == rows.CHANGEABLE.keys()
        for table in tables:
            cursor.execute(f"select agency_id::text, count(*) from {table} group by 1")
            kinds = 1 if table == "agencies" else len(rows.STORED)
            assert dict(cursor.fetchall()) == {str(agency): kinds for agency in rows.AGENCIES}


def test_every_unique_value_of_an_agency_is_found_in_the_others_too(logins: Logins) -> None:
    with logins.acting(None, None) as cursor:
        cursor.execute(UNIQUE_KEYS)
        keys = cursor.fetchall()
        assert len(keys) >= len(rows.RIGHTS)
        for table, columns in keys:
            rest = ", ".join(column for column in columns if column != "agency_id")
            cursor.execute(f"select 1 from {table} group by {rest} having count(distinct agency_id) = 3")
            assert cursor.fetchall(), f"{table}: no two agencies have the same {rest}"


def test_a_new_reference_between_tables_is_asked_about(logins: Logins) -> None:
    with logins.acting(None, None) as cursor:
        cursor.execute("""
            select conrelid::regclass::text, attname, confrelid::regclass::text
            from pg_constraint
            join pg_attribute on attrelid = conrelid and attnum = conkey[2]
            where contype = 'f'
            and array_length(conkey, 1) = 2
        """)
        assert {(child, column): parent for child, column, parent in cursor.fetchall()} == rows.REFERENCES
        cursor.execute("select count(*) from pg_constraint where contype = 'f' and array_length(conkey, 1) > 2")
        assert cursor.fetchone() == (0,)
