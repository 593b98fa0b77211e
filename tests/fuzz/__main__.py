"""The long run: `make fuzz`. Schemathesis and damaged requests in turns, until REQUESTS (200,000) have been answered.

python -m tests.fuzz --requests 200000
"""

import argparse
import logging
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from conversations_api import migrating
from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.conftest import urls_of
from tests.fuzz import raw_requests
from tests.fuzz.campaign import run_schemathesis, target

SECONDS_A_TURN = 120
RAW_A_TURN = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed, started, turn = 0, time.monotonic(), 0
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres.ephemeral(fsync=False))
        server.create_database("faro_fuzzed")
        migrating.migrate(server.url("faro_owner", "faro_fuzzed"))
        live = stack.enter_context(target(urls_of(server, "faro_fuzzed")))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        while live.counting.total < options.requests and not failed:
            turn += 1
            result = run_schemathesis(live, folder, "--max-time", str(SECONDS_A_TURN))
            if result.returncode:
                failed += 1
                print(result.stdout, result.stderr, sep="\n")
            raw_requests.fire(live, RAW_A_TURN, seed=random.randrange(10**9))
            minutes = (time.monotonic() - started) / 60
            print(
                f"{live.counting.total:,} of {options.requests:,} requests after {minutes:.0f} minutes, "
                f"{live.counting.server_errors} server errors",
                flush=True,
            )
    by_status: dict[int, int] = {}
    for (_, status), number in live.counting.answers.items():
        by_status[status] = by_status.get(status, 0) + number
    print("\n".join(f"{number:9,}  {status}" for status, number in sorted(by_status.items())))
    print(
        f"server errors: {live.counting.server_errors}, findings of schemathesis: {failed} "
        f"in {live.counting.total:,} requests, {turn} runs with all checks"
    )
    return 1 if failed or live.counting.server_errors else 0


if __name__ == "__main__":
    sys.exit(main())
