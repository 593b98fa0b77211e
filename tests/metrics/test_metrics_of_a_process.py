"""What is counted inside one process, where a test can bring about what an installation rarely meets."""

import asyncio
import re
from uuid import uuid4

import pytest
from prometheus_client import generate_latest
from sqlalchemy import text

from conversations_api import metrics, metrics_server
from conversations_api.web.lanes import Lane, Limits, Places
from delivery import metrics as delivery_metrics
from delivery.outcomes import Rejected
from handlers.problems import Problem
from tenancy.transaction import Database, DatabaseUnavailable, unbound_transaction
from tests.agencies import Urls
from tests.metrics.scraping import Page, read, wait_until
from tests.serving import make_settings, served

CHECKS = text("select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'outbox'::regclass")


def page() -> Page:
    return read(generate_latest(delivery_metrics.REGISTRY).decode("utf-8"))


def test_a_request_that_is_shed_is_counted_by_operation(urls: Urls) -> None:
    before = page()
    with served(urls, limits=Limits(bodies=0)) as api:
        agency = api.new_agency()
        assert api.of(agency).post(f"/messages/{uuid4()}/resend").refusal == (503, "overloaded")
        assert api.of(agency).get("/conversations").status == 200
        assert api.ask("GET", "/nowhere").refusal == (404, "route_not_found")
    after = page()
    shed = "faro_http_requests_shed_total"
    assert after.value(shed, operation="resendMessage") - before.value(shed, operation="resendMessage") == 1
    assert after.value(shed) - before.value(shed) == 1


def test_how_long_requests_wait_for_a_place_is_counted_by_what_came_of_it() -> None:
    async def scenario() -> None:
        one = Lane(Places(1), running=1, queued=9, limits=Limits(queue_seconds=0.3))
        await one.enter()  # at once, and not counted
        with pytest.raises(Problem):
            await one.enter()
        waiting = asyncio.create_task(one.enter())
        await asyncio.sleep(0.1)
        one.leave()
        await asyncio.wait_for(waiting, 30)

    before = page()
    asyncio.run(scenario())
    after = page()

    def counted(sample: str, **labels: str) -> float:
        name = f"faro_http_queue_seconds_{sample}"
        return after.value(name, **labels) - before.value(name, **labels)

    assert [counted("count", outcome=outcome) for outcome in ("admitted", "shed")] == [1, 1]
    assert counted("bucket", outcome="admitted", le="0.05") == counted("bucket", outcome="shed", le="0.25") == 0


@pytest.mark.parametrize(
    ("code", "code_class"),
    [(20003, "20xxx"), (21610, "21xxx"), (30007, "30xxx"), (63016, "63xxx"), (7, "other"), (1234567890, "other")],
)
def test_codes_of_the_carrier_are_counted_by_their_thousands(code: int, code_class: str) -> None:
    before = page()
    delivery_metrics.sent(Rejected(code, "to +12025550147", 400), 0.1)
    counted = {"outcome": "rejected", "code_class": code_class}
    assert page().value("faro_sends_total", **counted) - before.value("faro_sends_total", **counted) == 1


def test_a_report_about_no_call_of_ours_has_no_lag() -> None:
    before = page().value("faro_callback_lag_seconds_count")
    delivery_metrics.reported("delivered", None)
    assert page().value("faro_callback_lag_seconds_count") == before


def test_the_states_of_the_queue_are_those_of_the_schema(worker_database: Database) -> None:
    with unbound_transaction(worker_database, read_only=True) as connection:
        rules = [row[0] for row in connection.execute(CHECKS)]
    rule = next(rule for rule in rules if "calling" in rule)
    assert set(re.findall(r"'(\w+)'", rule)) == set(metrics.QUEUE_STATES)


def test_gauges_stand_still_while_the_database_is_away_and_the_sampling_goes_on(urls: Urls) -> None:
    taken = []

    def sample() -> None:
        taken.append(1)
        raise DatabaseUnavailable if len(taken) < 3 else RuntimeError

    settings = make_settings(urls, METRICS_PORT="9464")
    with metrics_server.sampling(settings, sample, 0.01):
        wait_until(lambda: len(taken) > 5)


def test_nothing_is_sampled_when_metrics_are_not_asked_for(urls: Urls) -> None:
    def sample() -> None:
        raise AssertionError

    assert metrics_server.listen(make_settings(urls)) is None
    with metrics_server.sampling(make_settings(urls), sample, 0.01):
        pass
