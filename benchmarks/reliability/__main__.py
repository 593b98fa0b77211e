"""One command: an installation, traffic, kills, a verdict; exit status 1 when anything is not as it must be."""

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability import checker, faults, peers
from benchmarks.reliability.chaos import Chaos
from benchmarks.reliability.checker import Verdict
from benchmarks.reliability.installation import Installation, installed
from benchmarks.reliability.traffic import Traffic

SETTLE_SECONDS = 240.0
# With an automatic resend at most this share may stay unconfirmed.
MOST_UNCONFIRMED = 0.001
# What the worker's log calls an outcome that it does not know.
AMBIGUOUS = ("outcome_unknown", "worker_ended_during_call")


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    messages: int
    kills: int
    rate: float
    late: float
    workers: int
    concurrency: int
    control: int


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    verdict: Verdict
    struck: Counter[str]
    kills: int
    ambiguous: int
    control: int
    seconds: float


def run(plan: Plan, folder: Path) -> Result:
    """One installation from its first process to its last; `folder` keeps the logs and the carrier's record."""
    begin = time.monotonic()
    with installed(folder, workers=plan.workers, concurrency=plan.concurrency) as installation:
        traffic = Traffic(installation, plan.seed, plan.messages, plan.rate)
        traffic.open_conversations(max(24, min(600, plan.messages // 8)))
        installation.set_faults(faults.dice(plan.seed, late=plan.late))
        chaos = Chaos(installation, seed=plan.seed)
        sending = threading.Thread(target=traffic.run)
        sending.start()
        while sending.is_alive():
            _draw_bar(plan, traffic, chaos, begin)
            if chaos.kills * plan.messages < plan.kills * len(traffic.sent):
                chaos.strike()
            else:
                sending.join(0.02)
        chaos.end()
        messages = _settled(installation, traffic)
        verdict = checker.check(traffic, messages, installation.record)
        verdict.counts["stepped back"] = len(traffic.fell)
        verdict.counts["looks at a status"] = traffic.looks
        verdict.counts["requests repeated"] = traffic.repeats
    sys.stderr.write("\n")
    control = peers.doubles(folder, messages=plan.control, faults=faults.dice(plan.seed, late=plan.late))
    return Result(verdict, chaos.struck, chaos.kills, _ambiguous(folder), control, time.monotonic() - begin)


def _settled(installation: Installation, traffic: Traffic) -> dict[str, dict[str, object]]:
    """Every thread, once nothing is on its way any more and what is unconfirmed has had its time."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before: Counter[str] = Counter()
    quiet_since = time.monotonic()
    while True:
        messages = checker.read_threads(installation, traffic)
        statuses = Counter(message["status"] for message in messages.values())
        if statuses != before:
            before, quiet_since = statuses, time.monotonic()
        sys.stderr.write(f"\rsettling: {dict(statuses)}".ljust(120)[:120])
        # Late evidence and second looks come within the hold; in doubt it takes that long.
        if checker.has_settled(messages) and time.monotonic() - quiet_since > 20:
            return messages
        if time.monotonic() > deadline:
            return messages
        time.sleep(2)


def _draw_bar(plan: Plan, traffic: Traffic, chaos: Chaos, begin: float) -> None:
    done = len(traffic.sent) / plan.messages
    bar = "#" * int(done * 30)
    counts = f"{len(traffic.sent)}/{plan.messages} messages, {chaos.kills}/{plan.kills} kills"
    sys.stderr.write(f"\rseed {plan.seed} [{bar:<30}] {counts}, {time.monotonic() - begin:.0f} s ".ljust(110)[:110])
    sys.stderr.flush()


def _ambiguous(folder: Path) -> int:
    return sum(
        json.loads(line).get("event") in AMBIGUOUS
        for line in (folder / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("{") and any(event in line for event in AMBIGUOUS)
    )


def table(results: Sequence[Result], *, control_messages: int) -> str:
    """The figures of all runs together, each zero with its n beside it."""
    counts: Counter[str] = Counter()
    for result in results:
        counts += result.verdict.counts
    n = counts["messages"]
    default_n = counts["messages (default setting)"]
    resend_n = n - default_n
    resend = counts["unconfirmed"]
    default = counts["unconfirmed (default setting)"]
    rows = [
        ("messages acknowledged", f"{n:,}"),
        ("kills", f"{sum(result.kills for result in results):,}"),
        ("ambiguous outcomes", f"{sum(result.ambiguous for result in results):,}"),
        ("lost", f"{counts['lost']} of {n:,}"),
        ("silently doubled", f"{counts['silently doubled']} of {n:,}"),
        ("doubled and flagged", f"{counts['doubled and flagged']} of {n:,}"),
        ("unconfirmed, with automatic resend", f"{resend} of {resend_n:,} ({100 * resend / max(1, resend_n):.3f} %)"),
        ("unconfirmed, default setting", f"{default} of {default_n:,} ({100 * default / max(1, default_n):.3f} %)"),
        ("contacts' messages lost", f"{counts['inbound lost']} of {counts['inbound messages']:,}"),
        ("statuses that stepped back", f"{counts['stepped back']} of {counts['looks at a status']:,} looks"),
        ("sent before an earlier message of the same conversation", f"{counts['overtaken']} of {n:,}"),
        ("requests repeated by clients", f"{counts['requests repeated']:,}"),
        (
            "control, resending what it does not know: doubled",
            f"{sum(r.control for r in results)} of {control_messages:,}",
        ),
    ]
    struck: Counter[str] = Counter()
    for result in results:
        struck += result.struck
    rows += [(f"of the blows: {name}", f"{count:,}") for name, count in struck.most_common()]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def failures(results: Sequence[Result], *, late: float) -> list[str]:
    """What must not be, over all runs."""
    wrong = [f"{count} x {what}" for result in results for what, count in Counter(result.verdict.wrong).items()]
    if not all(result.control for result in results):
        wrong.append("the control shows no doubled message: the rig cannot see any")
    counts: Counter[str] = Counter()
    for result in results:
        counts += result.verdict.counts
    if not late and counts["doubled"]:
        wrong.append(f"{counts['doubled']} doubled, although the carrier accepted nothing after the grace")
    if not late and counts["overtaken"]:
        wrong.append(f"{counts['overtaken']} sent before an earlier message of their conversation")
    if counts["unconfirmed"] > max(1, MOST_UNCONFIRMED * (counts["messages"] - counts["messages (default setting)"])):
        wrong.append(f"{counts['unconfirmed']} unconfirmed with automatic resend")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, action="append", help="may be repeated: one run each (1, 2 and 3)")
    add("--messages", type=int, default=20_000, help="in all runs together (20000)")
    add("--kills", type=int, default=2_000, help="in all runs together (2000)")
    add("--rate", type=float, default=25.0, help="messages per second (25)")
    add("--late", type=float, default=0.0, help="share of calls that are accepted after the grace (0)")
    add("--workers", type=int, default=3)
    add("--concurrency", type=int, default=8, help="calls that one worker has under way (8)")
    add("--control", type=int, default=500, help="messages of each control (500)")
    add("--folder", type=Path, help="keeps logs and records; a temporary one otherwise")
    options = parser.parse_args(arguments)
    seeds = options.seed or [1, 2, 3]
    results = []
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix="faro-chaos-", dir=options.folder))
        folder.chmod(0o711)
        plan = Plan(
            seed=seed,
            messages=math.ceil(options.messages / len(seeds)),
            kills=math.ceil(options.kills / len(seeds)),
            rate=options.rate,
            late=options.late,
            workers=options.workers,
            concurrency=options.concurrency,
            control=options.control,
        )
        results.append(run(plan, folder))
        sys.stdout.write(f"seed {seed}: {results[-1].seconds:.0f} s, logs and record in {folder}\n")
        sys.stdout.write(table(results[-1:], control_messages=options.control) + "\n\n")
        sys.stdout.flush()
    sys.stdout.write(table(results, control_messages=options.control * len(seeds)) + "\n")
    wrong = failures(results, late=options.late)
    sys.stdout.write("".join(f"WRONG: {line}\n" for line in wrong) or "all as it must be\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
