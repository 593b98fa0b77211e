"""pgbench, prepared statements, the list's SQL in its transaction: what is left when there is no server at all.

One script for each agency, because pgbench has no text that it could draw; it takes 128 at most. The total is read from
the counters where the schema has them, as ours does: the same SQL.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from benchmarks.peers import statements

MOST_SCRIPTS = 100

COUNT = statements.COUNT
COUNT_BY_COUNTERS = """
    select coalesce(sum(conversations), 0)
    from conversation_counts
    where agency_id = cast(:agency_id as uuid)
"""


def binary() -> Path | None:
    """Debian's, which is not on PATH; the newest one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3]))
    return found[-1] if found else None


def write_scripts(folder: Path, agency_ids: Sequence[UUID], *, counters: bool) -> list[Path]:
    paths = []
    for number, agency_id in enumerate(agency_ids[:MOST_SCRIPTS]):
        parts = [statements.BIND, statements.LIST_FIRST, COUNT_BY_COUNTERS if counters else COUNT]
        script = "".join(
            re.sub(r":agency_id", f"'{agency_id}'", part).replace(":limit", "21").rstrip() + ";\n" for part in parts
        )
        paths.append(folder / f"pgbench-{number}.sql")
        paths[-1].write_text(f"begin;\n{script}commit;\n", encoding="utf-8")
    return paths


def run(dsn: str, scripts: Sequence[Path], *, clients: int, seconds: int) -> tuple[int, float, float]:
    """(transactions, per second, average latency in milliseconds). Raises subprocess.CalledProcessError."""
    program = binary()
    if program is None:
        raise FileNotFoundError("pgbench is not installed (Debian: apt install postgresql)")
    command = [str(program), "--no-vacuum", "--protocol=prepared", "--client", str(clients), "--jobs", "1"]
    command += ["--time", str(seconds), *(f"--file={path}" for path in scripts), dsn]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return (
        int(_number(r"number of transactions actually processed: (\d+)", output)),
        _number(r"tps = ([\d.]+) \(without", output),
        _number(r"latency average = ([\d.]+) ms", output),
    )


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"pgbench said nothing of {pattern}")
    return float(found[1])
