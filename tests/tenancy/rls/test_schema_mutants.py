"""The tests of the schema are themselves tested: every damage to it makes some question come out wrong.

What counts is behaviour: rows seen, taken or refused as they should not be. That the lint names the damage as well is
asserted beside it, since the lint is what a service checks before it starts.
"""

import psycopg2
import pytest
import sqlalchemy

from persistence import role_safety, schema_lint
from tests.tenancy.rls import rows
from tests.tenancy.rls.mutants import Mutant, mutants
from tests.tenancy.rls.probes import probes
from tests.tenancy.rls.world import Rehearsal, rehearsal

MUTANTS = mutants()
PROBES = list(probes())


def first_failure(world: Rehearsal, mutant: Mutant | None) -> str | None:
    """The first question that comes out wrong; the likeliest are asked first."""
    about, cases_first = (mutant.table, mutant.of_policy) if mutant else (None, True)
    for probe in sorted(PROBES, key=lambda probe: (probe.table != about, probe.is_case != cases_first)):
        try:
            probe.check(world)
        except (AssertionError, psycopg2.Error) as error:
            return f"{probe.name}: {error}"
    return None


def lint(world: Rehearsal) -> set[str]:
    """What the application's start would say. Its time limits belong to its own login, which this is not."""
    with world.unbound("faro_app") as connection:
        return set(schema_lint.violations(connection)) - set(role_safety.missing_limits(connection))


def test_the_schema_as_it_is_answers_every_question_rightly(empty_engine: sqlalchemy.Engine) -> None:
    with rehearsal(empty_engine) as world:
        world.store()
        assert first_failure(world, None) is None
        assert lint(world) == set()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_damaged_schema_is_noticed_and_no_service_starts_on_it(
    empty_engine: sqlalchemy.Engine, mutant: Mutant
) -> None:
    with rehearsal(empty_engine) as world:
        if mutant.after:
            world.store(mutant.kinds)
        world.change(mutant.damage)
        findings = lint(world)
        try:
            if not mutant.after:
                world.store(mutant.kinds)
        except psycopg2.errors.UniqueViolation as error:
            failure: str | None = f"two agencies cannot have rows that look alike: {error}"
        else:
            failure = first_failure(world, mutant)
    assert failure is not None
    assert bool(findings) == mutant.lint_sees_it, f"noticed by {failure}, found by the lint: {findings}"


def test_every_table_is_damaged_in_every_way() -> None:
    assert len(MUTANTS) >= 200
    for table in rows.RIGHTS:
        assert len([mutant for mutant in MUTANTS if mutant.table == table]) >= 20
