"""The real `serve`, asked for several times of what it can do. `make overload` does it for long and prints the figures.

No time is asserted: it is the machine's.
"""

from pathlib import Path

import pytest

from benchmarks.open_loop import NOT_SENT, Reply
from benchmarks.overload.findings import Findings, table
from benchmarks.overload.neighbours import Neighbours
from benchmarks.overload.plan import Plan
from benchmarks.overload.run import run
from benchmarks.overload.service import Shed

# A machine that stands still for more than a second sheds webhooks, too, and here other tests run beside this one. The
# long run allows none.
TRIES = 3
PLAN = Plan(seconds=12, factor=4, webhooks=4, processes=1, threads=4, limit=60, quiet=10, slow=200)
MOST_WEBHOOKS = 0.9


def test_what_is_shed_is_told_when_to_come_again_and_webhooks_are_taken(tmp_path: Path) -> None:
    for _ in range(TRIES):
        found = run(PLAN, tmp_path)
        assert found.refused
        assert all(reply.retry_after for reply in found.refused)
        assert found.accepted
        assert {reply.status for reply in found.api} <= {200, 201, 503, NOT_SENT}  # the client's own bound
        assert found.shed.all >= len(found.refused)
        assert found.shed.all >= found.shed.at_once + found.shed.waited_and_told
        assert len(found.webhooks) > 30
        assert_a_neighbour_is_served(found.neighbours)
        assert {reply.status for reply in found.webhooks} <= {200, 503}
        taken = sum(reply.status == 200 for reply in found.webhooks)
        if taken >= MOST_WEBHOOKS * len(found.webhooks):
            return
    pytest.fail("many webhooks were shed in each of the runs")


def assert_a_neighbour_is_served(neighbours: Neighbours) -> None:
    """The agency that floods is limited, and the one beside it is not."""
    assert {reply.status for reply in neighbours.flood} >= {429}
    for replies in (neighbours.alone, neighbours.doubled, neighbours.flooded, neighbours.slowed):
        assert {reply.status for reply in replies} <= {200, 201, 503}
        assert any(reply.status in (200, 201) for reply in replies)


@pytest.mark.parametrize(
    ("status", "retry_after", "webhook", "word"),
    [
        (503, True, 200, None),
        (503, False, 200, "without Retry-After"),
        (500, True, 200, "neither good nor 503"),
        (0, False, 200, "neither good nor 503"),
        (200, False, 503, "not taken"),
    ],
)
def test_a_run_fails_when_it_should(status: int, retry_after: bool, webhook: int, word: str | None) -> None:
    replies = [Reply("api", 200, 0.1, False, 0.0), Reply("api", status, 0.1, retry_after, 0.0)]
    webhooks = [Reply("webhook", webhook, 0.1, False, 0.0)]
    found = Findings(Plan(), 1.0, [], replies, webhooks, [1.0], 0.1, 0.0, Shed(1, 1, 0, 0), Neighbours())
    assert [word in line for line in found.wrong()] == ([True] if word else [])
    assert "| webhooks taken | " in table(found)


def test_a_run_fails_when_a_quiet_agency_is_limited_for_a_loud_one() -> None:
    good, limited = Reply("api", 200, 0.1, False, 0.0), Reply("api", 429, 0.1, True, 0.0)
    assert Neighbours([good], [good], [good], [good], [limited], 1).wrong() == []
    assert ["429" in line for line in Neighbours([good], [good], [good, limited], [good], [limited], 1).wrong()] == [
        True
    ]
    assert (
        "p99 1.00 times of by itself; 1 of 2 accepted"
        in Neighbours([good], [good], [good, limited]).rows()["beside one that floods"]
    )
