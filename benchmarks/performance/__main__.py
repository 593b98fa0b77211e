"""One command: data set, servers, load, and a page of figures. `make bench`, `make bench-quick`, `make bench-soak`."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.performance import data_set, machine, report, run, soak
from benchmarks.performance.data_set import ROOT
from benchmarks.performance.run import FULL, PARTS, QUICK, Plan

DATA_FOLDER = ROOT / ".data-bench"
RESULTS = ROOT / "benchmarks/results"
DOCS = ROOT / "docs/performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    command = shlex.join(["python", "-m", "benchmarks.performance", *given])
    results_folder = options.results or (DATA_FOLDER / "results" if options.quick else RESULTS)
    plan = _plan(options)
    with data_set.running_postgres(DATA_FOLDER) as postgres:
        folder = data_set.empty_folder(DATA_FOLDER)
        if options.soak:
            description = machine.describe(postgres)
            looks = list(soak.measure(postgres, plan.size, requests=options.requests, folder=folder, tell=Progress()))
            written = soak.write(looks, description, results_folder, command=command)
            if options.results is None and not options.quick:
                report.show(DOCS, "soak", soak.headline(looks, command))
        else:
            results = run.measure(plan, postgres, folder=folder, command=command, tell=Progress())
            written = report.write(results, results_folder)
            if options.results is None and plan.parts == PARTS and not options.quick:
                report.show(DOCS, "summary", report.headline(results))
            sys.stdout.write("\n" + "\n".join(report.summary(results)))
    sys.stdout.write("\n" + "".join(f"{os.path.relpath(path)}\n" for path in written))
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return replace(
        plan,
        parts=tuple(options.part or PARTS),
        rounds=options.rounds or plan.rounds,
        seconds=options.seconds or plan.seconds,
    )


class Progress:
    """One line that says what is being measured, and for how long already."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, what: str) -> None:
        sys.stderr.write(f"\r[{time.monotonic() - self._begin:4.0f} s] {what}".ljust(110)[:110])
        sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a small data set and short rounds; about two minutes")
    add("--part", choices=PARTS, action="append", help="may be repeated; all of them otherwise")
    add("--rounds", type=int, help="interleaved rounds of the comparisons")
    add("--seconds", type=int, help="seconds of each server in one round")
    add("--results", type=Path, help="where page and pictures go")
    add("--soak", action="store_true", help="watch the memory over a million requests instead")
    add("--requests", type=int, default=1_000_000, help="of the soak (1000000)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
