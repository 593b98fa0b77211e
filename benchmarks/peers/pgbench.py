"""pgbench, prepared statements, the list's SQL in its transaction: what is left when there is no server at all.

Twice: with the statement that our server asks for, in which PostgreSQL writes the page as JSON, and with the plain rows
that the peers ask for, their total read from the counters as ours is. One script for each agency, because pgbench has
no text that it could draw; it takes 128 at most.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from benchmarks.peers import statements
from persistence import conversations, prepared

MOST_SCRIPTS = 100

COUNT_BY_COUNTERS = """
    select coalesce(sum(conversations), 0)
    from conversation_counts
    where agency_id = cast(:agency_id as uuid)
"""


def binary() -> Path | None:
    """Debian's, which is not on PATH; the newest one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3]))
    return found[-1] if found else None


def our_list() -> list[str]:
    """What our server sends for the first page: the binding, and the statement in the form that it prepares."""
    asked = {"conversation_id": None, "location_id": None, "status": None, "before_at": None, "before_id": None}
    statement = prepared.find(conversations.LIST_PAGE, {**asked, "limit": 20, "offset": 0})
    if statement is None or set(re.findall(r"\$\d+", statement.prepare)) != {"$1"}:
        raise ValueError("the first page asks for more than the agency")
    # In the formats of times it would take what follows a colon for a variable.
    sql = re.sub(r"'(YYYY[^']*)'", lambda found: "E'" + found[1].replace(":", r"\x3a") + "'", statement.prepare)
    sql = sql.partition(" AS ")[2].replace("$1", "cast(:agency_id as uuid)")
    return ["set local app.agency_id = :agency_id", sql]


def plain_list() -> list[str]:
    """The peers' statements: the same page as rows, one more than is shown."""
    return [statements.BIND, statements.LIST_FIRST.replace(":limit", "21"), COUNT_BY_COUNTERS]


def write_scripts(folder: Path, agency_ids: Sequence[UUID], parts: Sequence[str]) -> list[Path]:
    """One script for each agency, a transaction of these statements."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, agency_id in enumerate(agency_ids[:MOST_SCRIPTS]):
        script = "".join(part.replace(":agency_id", f"'{agency_id}'").rstrip() + ";\n" for part in parts)
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
