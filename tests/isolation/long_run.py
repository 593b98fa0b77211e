"""The parts of the long run, each with a PostgreSQL and an API of its own."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.api_client import Api
from tests.conftest import urls_of
from tests.isolation import timing
from tests.isolation.test_isolation import SHORT, isolation_over
from tests.serving import served

PLAYS_AT_A_TIME = 20
LONG = settings(SHORT, max_examples=PLAYS_AT_A_TIME, stateful_step_count=50)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def installation() -> Iterator[Api]:
    """An API over a PostgreSQL of its own."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.ephemeral(fsync=False))
        server.create_database("faro_isolation")
        migrating.migrate(server.url("faro_owner", "faro_isolation"))
        yield stack.enter_context(served(urls_of(server, "faro_isolation")))


def play(number: int, steps: int) -> Counter[str]:
    """At least so many steps, with a line of progress now and then. A step that finds a leak raises."""
    logging.disable(logging.ERROR)
    with installation() as api:
        machine = isolation_over(api)
        started = spoken = time.monotonic()
        while machine.counts["steps"] < steps:
            run_state_machine_as_test(machine, settings=LONG)
            if time.monotonic() - spoken > 10:
                spoken = time.monotonic()
                done = machine.counts["steps"]
                rate = done / (spoken - started)
                tell(f"play {number}: {done:,} of {steps:,} steps, {rate:.0f} a second")
        return machine.counts


def compare(pairs: int) -> list[timing.Comparison]:
    """Each kind of request by the clock."""
    comparisons = []
    with installation() as api:
        tell(timing.HEADING)
        for comparison in timing.compare(api, pairs):
            tell(str(comparison))
            comparisons.append(comparison)
    return comparisons
