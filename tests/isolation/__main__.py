"""The long run: `make isolation`. STEPS (100,000) steps of the play, then TIMING_PAIRS (2,000) pairs by the clock.

python -m tests.isolation --steps 100000 --pairs 2000
"""

import argparse
import logging
import sys
import time
from collections import Counter
from contextlib import ExitStack

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


def play(api: Api, steps: int) -> Counter[str]:
    """At least so many steps, with a line of progress now and then. A step that finds a leak raises."""
    machine = isolation_over(api)
    started = spoken = time.monotonic()
    while machine.counts["steps"] < steps:
        run_state_machine_as_test(machine, settings=LONG)
        if time.monotonic() - spoken > 10:
            spoken = time.monotonic()
            done = machine.counts["steps"]
            print(f"{done:,} of {steps:,} steps, {done / (spoken - started):.0f} a second", flush=True)
    return machine.counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.isolation", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=2_000)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.ephemeral(fsync=False))
        server.create_database("faro_isolation")
        migrating.migrate(server.url("faro_owner", "faro_isolation"))
        api = stack.enter_context(served(urls_of(server, "faro_isolation")))
        print(timing.HEADING)
        comparisons = []
        for comparison in timing.compare(api, options.pairs):
            print(comparison, flush=True)
            comparisons.append(comparison)
        counts = play(api, options.steps)
    answers = {name: number for name, number in sorted(counts.items()) if " " in name}
    print("\n".join(f"{number:8,}  {name}" for name, number in answers.items()))
    told_apart = [comparison.name for comparison in comparisons if abs(comparison.z) > timing.LIMIT]
    print(f"foreign bytes: 0 in {counts['requests']:,} answers of {counts['steps']:,} steps")
    print(f"told apart by time: {len(told_apart)} of {len(comparisons)} kinds, {options.pairs:,} pairs each")
    return 1 if told_apart else 0


if __name__ == "__main__":
    sys.exit(main())
