"""What was measured as a Markdown page and pictures, written beside each other."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.performance import results as results_module
from benchmarks.performance import svg
from benchmarks.performance.asked import LIST, MESSAGES
from benchmarks.performance.comparison import PGBENCH, PGBENCH_PLAIN, Comparison
from benchmarks.performance.growth import DEPTHS, Point
from benchmarks.performance.results import Results
from benchmarks.performance.sending import Sending
from benchmarks.performance.servers import OURS
from benchmarks.performance.svg import Bar


def write(results: Results, folder: Path) -> list[Path]:
    """`performance.md` and its pictures; what is there of an earlier run is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = dict(_pictures(results))
    for name, picture in pictures.items():
        (folder / name).write_text(picture, encoding="utf-8")
    page = folder / "performance.md"
    page.write_text("\n".join(_page(results, list(pictures))) + "\n", encoding="utf-8")
    return [page, *(folder / name for name in pictures)]


def show(docs_page: Path, name: str, lines: Iterable[str]) -> None:
    """Put what was measured between two comments of a page, in place of what stands there: nobody copies figures.

    Raises ValueError where the page has no such place.
    """
    begin, end = f"<!-- measured: {name} -->", "<!-- end -->"
    before, found, rest = docs_page.read_text(encoding="utf-8").partition(begin)
    if not found:
        raise ValueError(f"{docs_page.name} has no place for {name}")
    after = rest.partition(end)[2]
    text = "\n".join(lines).strip()
    docs_page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def headline(results: Results) -> Iterator[str]:
    """For docs/performance.md: what was measured on, by which command, and the table."""
    machine = results.machine
    yield f"`{results.command}`, {machine['date']}, on {machine['processor']}, {machine['memory']} of memory,"
    yield f"PostgreSQL {machine['PostgreSQL']}, Python {machine['Python']}; load averages before the run"
    yield f"{machine['load before the run']}. Everything else, with the figures of each server, is in"
    yield "[benchmarks/results/performance.md](../benchmarks/results/performance.md).\n"
    yield from summary(results)


def summary(results: Results) -> Iterator[str]:
    """What was to be reached, and what was."""
    yield from table(
        ["what", "target", "measured", "from .. to", "reached"],
        (
            [
                row.what,
                row.target,
                f"**{_shown(row.median)}{row.unit}**",
                f"{_shown(min(row.values))} .. {_shown(max(row.values))}" if len(row.values) > 1 else "",
                "yes" if row.reached else "no",
            ]
            for row in results_module.rows(results)
        ),
    )


def _page(results: Results, pictures: Sequence[str]) -> Iterator[str]:
    yield "# Performance, as measured\n"
    yield f"`{results.command}` wrote this page. What it means is said in docs/performance.md.\n"
    yield from table(["", ""], ([name, value] for name, value in results.machine.items()))
    yield f"Data set: {results.data_set}.\n"
    for what, why in results.left_out.items():
        yield f"Not measured: {what} ({why}).\n"
    yield "## What was to be reached\n"
    yield from summary(results)
    for name in pictures:
        yield f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})\n"
    for comparison in [*results.comparisons, *([results.writes] if results.writes else [])]:
        yield from _comparison(comparison)
    if results.growth:
        yield from _growth(results.growth)
    if results.sending:
        yield from _sending(results.sending)
    if results.memory:
        yield from _memory(results)


def _comparison(comparison: Comparison) -> Iterator[str]:
    rounds = len(comparison.samples[OURS])
    yield f"## {comparison.heading}\n"
    yield f"Medians of {rounds} interleaved rounds; ratios with the smallest and the largest of one round.\n"
    head = ["", "requests/s", "ours by it", "p50 ms", "p99 ms", "CPU ms", "ours by it", "PostgreSQL CPU ms"]
    yield from table(head, (_server(comparison, name) for name in comparison.samples))


def _server(comparison: Comparison, name: str) -> list[str]:
    def median(attribute: str) -> str:
        return _shown(comparison.median(name, attribute))

    def by(attribute: str) -> str:
        if name == OURS:
            return ""
        ratios = comparison.ratios(name, attribute)
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"

    rate = f"{comparison.median(name, 'rate'):,.0f}"
    # pgbench tells an average, and its own CPU is a client's.
    of_server = ["", "", ""] if name in (PGBENCH, PGBENCH_PLAIN) else [median("p99"), median("cpu"), by("cpu")]
    return [name, rate, by("rate"), median("p50"), *of_server, median("postgres_cpu")]


def _growth(points: Sequence[Point]) -> Iterator[str]:
    yield "## Growth: p50 over HTTP, one connection\n"
    for operation, what in ((LIST, "conversations of the agency"), (MESSAGES, "messages in the thread")):
        chosen = [point for point in points if point.operation == operation]
        sizes = sorted({point.size for point in chosen})
        p50s = {(point.size, point.depth): f"{point.p50:.2f} ms" for point in chosen}
        rows = ([f"{size:,}", *(p50s[size, depth] for depth in DEPTHS)] for size in sizes)
        yield from table([f"{operation}: {what}", *DEPTHS], rows)


def _sending(sending: Sending) -> Iterator[str]:
    yield f"## Worker: {sending.messages:,} messages in a round, carrier answering in 150 ms, concurrency 64\n"
    yield from table(
        ["", "messages/s"],
        (
            [name, f"{statistics.median(rates):,.0f} ({min(rates):,.0f} .. {max(rates):,.0f})"]
            for name, rates in (("worker", sending.worker_rates), ("bare client", sending.bare_rates))
        ),
    )
    yield (
        f"Messages under way: median {sending.under_way_median:g}, most {sending.under_way_most}. "
        f"CPU for a message: worker {sending.cpu.worker:.1f} ms, its start included, PostgreSQL "
        f"{sending.cpu.postgres:.1f} ms, carrier {sending.cpu.carrier:.1f} ms, together {sending.cpu.all:.1f} ms.\n"
    )


def _memory(results: Results) -> Iterator[str]:
    yield "## Memory after the comparison, MiB\n"
    yield from table(
        ["", "processes", "PSS, all", "PSS, largest process", "RSS, largest process"],
        (
            [
                name,
                str(len(sizes)),
                f"{sum(pss for pss, _ in sizes):.0f}",
                f"{max(pss for pss, _ in sizes):.0f}",
                f"{max(rss for _, rss in sizes):.0f}",
            ]
            for name, sizes in results.memory.items()
        ),
    )


def _pictures(results: Results) -> Iterator[tuple[str, str]]:
    if results.comparisons:
        yield "rate.svg", _bars("Requests per second (more is better)", results.comparisons, "rate", "/s")
        yield "latency.svg", _bars("Latency, p50 (less is better)", results.comparisons, "p50", "ms")
        yield "cpu.svg", _bars("CPU per request, without PostgreSQL (less is better)", results.comparisons, "cpu", "ms")
    for operation, what in ((LIST, "conversations of the agency"), (MESSAGES, "messages in the thread")):
        series = {
            depth: [(float(p.size), p.p50) for p in results.growth if p.operation == operation and p.depth == depth]
            for depth in DEPTHS
        }
        if series[DEPTHS[0]]:
            title = f"{operation}: p50 over HTTP as the data grows"
            name = f"growth-{operation.split()[1]}.svg"
            yield name, svg.lines(title, series, x_label=what, y_label="milliseconds")


def _bars(title: str, comparisons: Sequence[Comparison], attribute: str, unit: str) -> str:
    groups = {}
    for comparison in comparisons:
        bars = []
        for name, samples in comparison.samples.items():
            values = [getattr(sample, attribute) for sample in samples]
            if any(values):  # nobody told the CPU of a client
                bars.append(Bar(name, statistics.median(values), min(values), max(values)))
        groups[comparison.heading] = bars
    return svg.bars(title, groups, unit=unit)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
