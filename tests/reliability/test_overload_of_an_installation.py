"""The real `serve`, asked for several times of what it can do. `make overload` does it for long and prints the figures.

No time is asserted: it is the machine's.
"""

from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.open_loop import Reply
from benchmarks.overload import Findings, Plan

TRIES = 3  # a machine that stands still for more than a second sheds a webhook, too


def test_what_is_shed_is_told_when_to_come_again_and_every_webhook_is_taken(tmp_path: Path) -> None:
    for _ in range(TRIES):
        found = overload.run(Plan(seconds=12, factor=4, webhooks=4, processes=1, threads=4), tmp_path)
        assert found.refused
        assert all(reply.retry_after for reply in found.refused)
        assert found.accepted
        assert {reply.status for reply in found.api} <= {200, 201, 503}
        assert found.shed >= len(found.refused)
        assert len(found.webhooks) > 30
        if {reply.status for reply in found.webhooks} == {200}:
            return
    pytest.fail("webhooks were shed in each of the runs")


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
    found = Findings(Plan(), 1.0, [], replies, webhooks, [1.0], 0.1, 0.0, 1, 1)
    assert [word in line for line in found.wrong()] == ([True] if word else [])
    assert "| webhooks taken | " in overload.table(found)
