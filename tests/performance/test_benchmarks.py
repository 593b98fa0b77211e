"""The benchmarks, in a few seconds: every peer still answers what ours answers, and every figure comes out.

How fast anything is, no test says: that depends on what else the machine does.
"""

import json
import re
import shutil
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import pgbench, statements
from benchmarks.performance import data_set, equality, report, run, servers, soak, svg
from benchmarks.performance import results as results_module
from benchmarks.performance.asked import LIST, MESSAGES
from benchmarks.performance.comparison import PGBENCH, PGBENCH_PLAIN, Comparison
from benchmarks.performance.load import Request, Sample
from benchmarks.performance.results import Results
from benchmarks.performance.servers import CONNEXION, HTTP_PEERS, OURS
from benchmarks.performance.svg import Bar
from benchmarks.performance.writes import WEBHOOK
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy import transaction
from tests.api_client import Api

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Everything that `make bench` does, on two agencies and a second of load each."""
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed (apt install wrk)")
    folder = tmp_path_factory.mktemp("bench")
    yield run.measure(run.TINY, postgres, folder=folder, command="a test", tell=lambda what: None)
    postgres.drop_database("bench_tiny")


def test_every_peer_answers_as_ours_does_and_is_measured(results: Results) -> None:
    # That the answers are the same was checked before: measuring ends with AnswersDiffer otherwise.
    measured = {comparison.title: set(comparison.samples) for comparison in results.comparisons}
    peers = {OURS, *HTTP_PEERS} - results.left_out.keys()
    without_server = {PGBENCH, PGBENCH_PLAIN} if pgbench.binary() else set()
    assert measured == {LIST: peers | without_server, MESSAGES: peers}
    assert all(
        sample.requests > 0 and sample.rate > 0
        for comparison in results.comparisons
        for samples in comparison.samples.values()
        for sample in samples
    )


def test_no_peer_is_left_out(results: Results) -> None:
    if results.left_out:
        pytest.skip("; ".join(f"{peer}: {why}" for peer, why in results.left_out.items()))
    assert set(results.memory) == {OURS, *HTTP_PEERS}


def test_sends_and_webhooks_are_measured_and_taken_back(results: Results, postgres: EmbeddedPostgres) -> None:
    assert results.writes is not None
    assert set(results.writes.samples) == {OURS, CONNEXION, WEBHOOK}
    left = "select (select count(*) from outbox) + (select count(*) from idempotency_keys)"
    assert data_set.query(postgres, "bench_tiny", left) == [(0,)]


def test_growth_is_measured_at_every_size_and_depth(results: Results) -> None:
    points = {(point.operation, point.size, point.depth) for point in results.growth}
    assert len(points) == 3 * (len(data_set.TINY.growth) + len(data_set.TINY.threads))


def test_the_worker_sends_every_message_of_its_queue(results: Results) -> None:
    assert results.sending is not None
    assert results.sending.messages == run.TINY.messages
    assert results.sending.under_way_most >= 1


def test_the_report_names_every_row_that_is_to_be_reached_and_shows_its_pictures(
    results: Results, tmp_path: Path
) -> None:
    page, *pictures = report.write(results, tmp_path)
    text = page.read_text(encoding="utf-8")
    rows = list(results_module.rows(results))
    assert len(rows) > 12
    assert [row.what for row in rows if f"| {row.what} |" not in text] == []
    assert [picture.name for picture in pictures if f"]({picture.name})" not in text] == []
    assert [xml.etree.ElementTree.parse(picture).getroot().tag for picture in pictures] == [  # noqa: S314  # our own
        "{http://www.w3.org/2000/svg}svg"
    ] * len(pictures)
    assert "/tmp" not in text  # noqa: S108


def test_the_soak_looks_at_the_memory_again_and_again(
    results: Results, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    looks = list(soak.measure(postgres, data_set.TINY, requests=400, folder=tmp_path, tell=lambda what: None))
    assert looks[-1].requests >= 400
    assert all(len(look.pss) == servers.PROCESSES for look in looks)
    page, picture = soak.write(looks, {}, tmp_path, command="a test")
    assert f"| {looks[-1].requests:,} |" in page.read_text(encoding="utf-8")
    assert picture.is_file()


# --- What the figures rest on ----------------------------------------------------------------------------------------

SAMPLE = {"requests": 100, "seconds": 1.0, "p50": 1.0, "p90": 1.0, "p99": 1.0, "cpu": 1.0, "postgres_cpu": 1.0}


def test_a_ratio_is_taken_within_a_round() -> None:
    fast, slow = Sample(**SAMPLE), Sample(**{**SAMPLE, "seconds": 2.0})  # type: ignore[arg-type]
    comparison = Comparison("GET", 1, {OURS: [fast, slow], CONNEXION: [slow, slow]})
    assert comparison.ratios(CONNEXION) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        ({"rows": [{"id": 1, "at": None}]}, None),
        ({"rows": [{"id": 2, "at": None}]}, "$.rows[0].id"),
        ({"rows": [{"id": 1.0, "at": None}]}, None),
        ({"rows": [{"id": 1.5, "at": None}]}, "$.rows[0].id"),
        ({"rows": [{"id": True, "at": None}]}, "$.rows[0].id"),
        ({"rows": [{"id": 1}]}, "$.rows[0]"),
        ({"rows": []}, "$.rows"),
        ({"rows": None}, "$.rows"),
    ],
)
def test_answers_that_differ_are_noticed(theirs: Any, place: str | None) -> None:
    found = equality.differ({"rows": [{"id": 1, "at": None}]}, theirs)
    assert (found and found.partition(": ")[0]) == place


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"at": "2026-01-02T03:04:05.100000Z"}', '{"at": "2026-01-02T03:04:05.1Z"}'),
        ('{"at": "2026-01-02T03:04:05+00:00"}', '{"at": "2026-01-02T03:04:05Z"}'),
        ('{"at": "2026-01-02T03:04:00.000000+00:00"}', '{"at": "2026-01-02T03:04:00Z"}'),
        ('{"content": "at 2026-01-02T03:04:05.100000Z"}', '{"content": "at 2026-01-02T03:04:05.100000Z"}'),
    ],
)
def test_spellings_of_one_instant_are_the_same(written: str, read: str) -> None:
    assert equality.one_spelling(written) == read


def test_every_peer_is_given_its_drivers_own_style_of_the_same_statement() -> None:
    statement = "select x::text from t where a = :agency_id and b = cast(:b as uuid) and c = :agency_id"
    assert statements.for_psycopg2(statement) == (
        "select x::text from t where a = %(agency_id)s and b = cast(%(b)s as uuid) and c = %(agency_id)s"
    )
    assert statements.for_asyncpg(statement, ["agency_id", "b"]) == (
        "select x::text from t where a = $1 and b = cast($2 as uuid) and c = $1"
    )


def test_pgbench_is_given_the_very_page_that_ours_answers_with(api: Api) -> None:
    agency = api.new_agency()
    api.converse(agency, "Hello")
    binding, statement = (part.replace(":agency_id", f"'{agency.id}'") for part in pgbench.our_list())
    with transaction.session(api.urls.app) as connection, connection.cursor() as cursor:
        cursor.execute(f"begin; {binding}")
        cursor.execute(statement)
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    page = api.of(agency).get("/conversations").json
    assert [json.loads(row["record"]) for row in rows] == page["conversations"]
    assert [row["total"] for row in rows] == [page["total"]] == [1]
    # What pgbench would take for a variable of its own.
    assert re.findall(r"(?<!:):[A-Za-z_]\w*", statement) == []


def test_a_request_is_one_line() -> None:
    request = Request("POST", "/a", "token", "application/json", (("Idempotency-Key", "{unique}"),), '{"a": 1}')
    assert request.line == 'POST\t/a\ttoken\tapplication/json\tIdempotency-Key:{unique}\t{"a": 1}'


def test_pictures_escape_what_they_name() -> None:
    picture = svg.bars("a < b", {"<group>": [Bar("x & y", 2.0, 1.0, 3.0)]}, unit="ms")
    assert "a &lt; b" in picture
    assert "x &amp; y" in picture


def test_the_lock_file_of_the_node_peer_names_no_registry() -> None:
    lock = (ROOT / "benchmarks/peers/postgraphile/package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock


def test_the_page_shows_the_figures_of_the_latest_run() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- measured: summary -->")[2].partition("<!-- end -->")[0]
    measured = (ROOT / "benchmarks/results/performance.md").read_text(encoding="utf-8")
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) > 12
    assert [row for row in rows if row not in measured.splitlines()] == []


def test_what_is_measured_takes_the_place_of_what_was_measured_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- measured: soak -->\nold\n<!-- end -->\n\nAfter\n", encoding="utf-8")
    report.show(page, "soak", ["new"])
    report.show(page, "soak", ["newer"])
    assert page.read_text(encoding="utf-8") == (
        "# Title\n\n<!-- measured: soak -->\n\nnewer\n\n<!-- end -->\n\nAfter\n"
    )
    with pytest.raises(ValueError, match="no place for summary"):
        report.show(page, "summary", ["new"])
