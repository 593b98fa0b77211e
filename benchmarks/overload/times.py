"""How long answers took."""

from collections.abc import Sequence

from benchmarks.open_loop import Reply


def percentile(replies: Sequence[Reply], share: float) -> float:
    """In seconds; 0 where there are none."""
    seconds = sorted(reply.seconds for reply in replies)
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))] if seconds else 0.0


def times(replies: Sequence[Reply], *, most: bool = False) -> str:
    """The median, the 99th percentile and, where it is asked for, the longest."""
    figures = [f"{percentile(replies, share) * 1000:,.0f}" for share in (0.5, 0.99)]
    figures += [f"{max((reply.seconds for reply in replies), default=0) * 1000:,.0f}"] if most else []
    return " / ".join(figures) + " ms"
