"""The long run: `make isolation`. 2,000 pairs of requests by the clock, then 100,000 steps of the play.

python -m tests.isolation --steps 100000 --pairs 2000 --plays 2

Nothing else runs beside the clock. The steps are shared by several plays at a time, each a process with a PostgreSQL
and an API of its own.
"""

import argparse
import logging
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

from tests.isolation import timing
from tests.isolation.long_run import compare, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.isolation", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--plays", type=int, default=2, help="at a time")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    comparisons = compare(options.pairs)
    numbers = range(1, options.plays + 1)
    # Spawned: forked ones would throw the same dice.
    with ProcessPoolExecutor(options.plays, mp_context=get_context("spawn")) as pool:
        counts = sum(pool.map(play, numbers, repeat(-(-options.steps // options.plays))), Counter[str]())
    answers = {name: number for name, number in sorted(counts.items()) if " " in name}
    print("\n".join(f"{number:8,}  {name}" for name, number in answers.items()))
    told_apart = [comparison.name for comparison in comparisons if abs(comparison.z) > timing.LIMIT]
    print(f"foreign bytes: 0 in {counts['requests']:,} answers of {counts['steps']:,} steps")
    print(f"told apart by time: {len(told_apart)} of {len(comparisons)} kinds, {options.pairs:,} pairs each")
    return 1 if told_apart else 0


if __name__ == "__main__":
    sys.exit(main())
