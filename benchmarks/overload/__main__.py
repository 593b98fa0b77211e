"""Ask the real `serve` for twice of what it can do, and look what becomes of everybody.

    python -m benchmarks.overload --seconds 300

PostgreSQL, `serve` and this client share the machine. First clients that wait for their answers find out how much there
is to be had; then requests come at a multiple of that rate, whether or not they are answered, while Twilio posts what
contacts write. Then, on another installation, one agency asks as little as before, while another one floods, and while
connections idle and drip. What is printed was measured by this client, but for the line that names the server's own
clock.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.overload.findings import table
from benchmarks.overload.plan import Plan
from benchmarks.overload.run import run


def main() -> int:
    """Print the figures; 1 when something was lost, or refused without a word."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=(__doc__ or "").splitlines()[0])
    defaults = Plan()
    parser.add_argument(
        "--seconds",
        type=float,
        default=defaults.seconds,
        help="for the phases of overload; the neighbours take a third more (default 300)",
    )
    parser.add_argument("--factor", type=float, default=defaults.factor, help="times of what it can do (default 2)")
    parser.add_argument("--webhooks", type=float, default=defaults.webhooks, help="a second, besides (default 20)")
    parser.add_argument("--processes", type=int, default=defaults.processes, help="WEB_CONCURRENCY (default 2)")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="HANDLER_THREADS (default 10)")
    parser.add_argument(
        "--limit", type=int, default=defaults.limit, help="of an agency's requests in a minute (default 6000)"
    )
    parser.add_argument("--slow", type=int, default=defaults.slow, help="idle and slow connections (default 900)")
    options = parser.parse_args()

    def show(line: str) -> None:
        sys.stderr.write(f"\r{line}".ljust(110)[:110])
        sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="faro-overload-") as folder:
        found = run(Plan(**vars(options)), Path(folder), show)
    sys.stderr.write("\n")
    wrong = found.wrong()
    sys.stdout.write("\n".join([table(found), *wrong, ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
