"""What Prometheus reads from `serve` with two processes and from a worker, and that it moves as the world does."""

import http.client
import re
import signal
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from typing import Any

import psutil
import pytest

from conversations_api.demo.invented_agencies import Agency
from delivery.metrics import NOT_APPLIED
from tests.commands import refusal, run
from tests.metrics.conftest import Observed
from tests.metrics.scraping import Page, wait_until
from tests.stack import BASE_PATH, INBOUND

REQUESTS = "faro_http_request_duration_seconds_count"
# Every label there may be, so that a new one is a decision.
LABELS = {"operation", "method", "status", "outcome", "code_class", "result", "source", "repeated", "reason", "state"}
LABELS |= {"le"}
BUILD_LABELS = {"version", "schema"}


def conversation_of(observed: Observed, agency: Agency, phone: str) -> dict[str, Any]:
    """A contact writes, and the conversation is there."""
    _, status = observed.stack.write(agency.channels[1], phone, "Is there a table for two?")
    assert status == 200
    return next(one for one in observed.stack.conversations(agency) if one["contact_phone"] == phone)


def send(observed: Observed, agency: Agency, conversation_id: str) -> str:
    """The id of a message that a user sends."""
    answer = observed.stack.post(agency, f"/conversations/{conversation_id}/messages", {"content": "Yes, at eight."})
    assert answer.status == 201
    return str(answer.json["id"])


def status_of(observed: Observed, agency: Agency, message_id: str) -> str:
    return str(observed.stack.get(agency, f"/messages/{message_id}").json["status"])


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_every_scrape_adds_up_what_both_processes_have_answered(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    asked = {"operation": "listConversations", "method": "GET", "status": "200"}
    before = observed.api().value(REQUESTS, **asked)
    headers = {"Authorization": f"Bearer {observed.stack.token(agency)}"}
    for _ in range(40):  # a connection each, so that neither process has all of them
        connection = http.client.HTTPConnection("127.0.0.1", observed.stack.port, timeout=30)
        connection.request("GET", f"{BASE_PATH}/conversations", headers=headers)
        assert connection.getresponse().status == 200
        connection.close()
    pages = [observed.api() for _ in range(6)]
    assert [page.value(REQUESTS, **asked) - before for page in pages] == [40] * 6
    assert {page.value("faro_http_request_duration_seconds_bucket", le="+Inf", **asked) for page in pages} == {
        before + 40
    }
    assert pages[0].value("faro_http_request_duration_seconds_sum", **asked) > 0.0


@pytest.mark.parametrize(
    ("method", "target", "labels"),
    [
        ("GET", "/conversations/01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90", ("getConversation", "GET", "404")),
        ("GET", "/conversations/nonsense", ("getConversation", "GET", "400")),
        ("HEAD", "/conversations", ("listConversations", "HEAD", "200")),
        ("DELETE", "/conversations", ("none", "DELETE", "405")),
        ("PROPFIND", "/conversations", ("none", "other", "405")),
        ("GET", "/nowhere", ("none", "GET", "404")),
    ],
)
def test_a_request_is_counted_under_its_operation_its_method_and_its_status(
    observed: Observed, method: str, target: str, labels: tuple[str, str, str]
) -> None:
    counted = dict(zip(("operation", "method", "status"), labels, strict=True))
    before = observed.api().value(REQUESTS, **counted)
    token = observed.stack.token(observed.stack.agencies[0])
    answer = observed.stack.ask(method, BASE_PATH + target, [("Authorization", f"Bearer {token}")])
    assert str(answer.status) == counted["status"]
    assert observed.api().value(REQUESTS, **counted) == before + 1


def test_a_request_without_a_token_is_counted_too(observed: Observed) -> None:
    counted = {"operation": "listConversations", "method": "GET", "status": "401"}
    before = observed.api().value(REQUESTS, **counted)
    assert observed.stack.ask("GET", f"{BASE_PATH}/conversations").status == 401
    assert observed.api().value(REQUESTS, **counted) == before + 1


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message_is_counted_where_it_is_received_sent_and_reported(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    api, worker = observed.api(), observed.worker()
    conversation = conversation_of(observed, agency, "+12025550161")
    message_id = send(observed, agency, conversation["id"])
    wait_until(lambda: status_of(observed, agency, message_id) == "delivered")
    after, sent = observed.api(), observed.worker()
    assert rise(api, after, "faro_inbound_messages_total", source="webhook", repeated="false") == 1
    assert rise(worker, sent, "faro_sends_total", outcome="accepted", code_class="") == 1
    assert rise(worker, sent, "faro_send_duration_seconds_count", outcome="accepted") == 1
    assert rise(api, after, "faro_callback_lag_seconds_count", status="delivered") == 1
    assert 0.0 < rise(api, after, "faro_callback_lag_seconds_sum", status="delivered") < 60.0


def test_a_rejected_message_is_counted_by_the_class_of_its_code(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    conversation = conversation_of(observed, agency, "+12025550162")
    before = observed.worker()
    observed.stack.simulator.set_faults({"script": [{"kind": "reject", "code": 21614}]})
    message_id = send(observed, agency, conversation["id"])
    wait_until(lambda: status_of(observed, agency, message_id) == "failed")
    assert rise(before, observed.worker(), "faro_sends_total", outcome="rejected", code_class="21xxx") == 1


def test_a_lost_answer_is_unknown_and_then_found_at_the_carrier(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    conversation = conversation_of(observed, agency, "+12025550163")
    before = observed.worker()
    lost = ["callback_lost"] * 6  # so that only the carrier's list tells
    observed.stack.simulator.set_faults({"script": ["close_after_accepting", *lost]})
    message_id = send(observed, agency, conversation["id"])
    wait_until(lambda: status_of(observed, agency, message_id) in ("sent", "delivered"))
    after = observed.worker()
    observed.stack.simulator.set_faults({})
    assert rise(before, after, "faro_sends_total", outcome="unknown") == 1
    assert rise(before, after, "faro_reconciler_results_total", result="found_at_carrier") == 1


def test_a_message_that_the_carrier_took_twice_raises_the_counter_of_duplicates(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    conversation = conversation_of(observed, agency, "+12025550164")
    message_id = send(observed, agency, conversation["id"])
    wait_until(lambda: status_of(observed, agency, message_id) == "delivered")
    before = observed.api()
    account_sid = agency.channels[1].account_sid
    form = [("AccountSid", account_sid), ("MessageSid", f"SM{uuid.uuid4().hex}"), ("MessageStatus", "sent")]
    path = f"{BASE_PATH}/webhooks/twilio/status/{agency.id}/{message_id}/1"
    for _ in range(2):  # the repetition is no further duplicate
        assert observed.stack.post_signed(path, form, account_sid).status == 200
    assert observed.stack.get(agency, f"/messages/{message_id}").json["duplicate_detected"] is True
    assert rise(before, observed.api(), "faro_duplicates_detected_total") == 1


@pytest.mark.parametrize("reason", ["unknown_agency", "unknown_message", "unknown_status"])
def test_a_report_that_fits_no_message_is_counted_by_why(observed: Observed, reason: str) -> None:
    agency, other = observed.stack.new_agency(), observed.stack.new_agency()
    conversation = conversation_of(observed, agency, "+12025550166")
    theirs = send(observed, other, conversation_of(observed, other, "+12025550166")["id"])
    message_id = send(observed, agency, conversation["id"])
    account_sid = agency.channels[1].account_sid
    named = {"unknown_agency": (uuid.uuid4(), message_id), "unknown_message": (agency.id, theirs)}
    agency_id, reported = named.get(reason, (agency.id, message_id))
    status = "teleported" if reason == "unknown_status" else "sent"
    form = [("AccountSid", account_sid), ("MessageSid", f"SM{uuid.uuid4().hex}"), ("MessageStatus", status)]
    before = observed.api()
    path = f"{BASE_PATH}/webhooks/twilio/status/{agency_id}/{reported}/1"
    assert observed.stack.post_signed(path, form, account_sid).status == 200
    after = observed.api()
    counted = {one: rise(before, after, "faro_reports_not_applied_total", reason=one) for one in NOT_APPLIED}
    assert counted == {one: float(one == reason) for one in NOT_APPLIED}


def test_a_webhook_that_is_repeated_is_counted_as_repeated(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    channel = agency.channels[1]
    form = [("AccountSid", channel.account_sid), ("MessageSid", f"SM{uuid.uuid4().hex}"), ("NumMedia", "0")]
    form += [("From", "+12025550165"), ("To", channel.twilio_address), ("Body", "Twice?")]
    before = observed.api()
    for _ in range(2):
        assert observed.stack.post_signed(INBOUND, form, channel.account_sid).status == 200
    after = observed.api()
    assert rise(before, after, "faro_inbound_messages_total", source="webhook", repeated="false") == 1
    assert rise(before, after, "faro_inbound_messages_total", source="webhook", repeated="true") == 1


def rise(before: Page, after: Page, name: str, **labels: str) -> float:
    return after.value(name, **labels) - before.value(name, **labels)


# --- Processes --------------------------------------------------------------------------------------------------------


def test_the_gauges_say_how_the_processes_are(observed: Observed) -> None:
    api, worker = observed.api(), observed.worker()
    assert api.value("faro_database_connections_max") == 2 * 11
    assert 0 <= api.value("faro_database_connections_in_use") <= 22
    assert worker.value("faro_database_connections_max") == 20
    wait_until(lambda: observed.worker().value("faro_queue_sampled_timestamp_seconds") > time.time() - 30)
    assert worker.value("faro_worker_heartbeat_timestamp_seconds") > time.time() - 30
    assert api.value("faro_build_info") == worker.value("faro_build_info") == 1
    states = {"waiting", "queued", "calling", "unknown", "accepted"}
    assert states <= worker.label_values("state")


def test_the_queue_is_seen_growing_and_how_long_it_has_waited(observed: Observed) -> None:
    agency = observed.stack.new_agency()
    conversation = conversation_of(observed, agency, "+12025550166")
    observed.stack.simulator.set_faults(
        {"dice": [{"kind": "too_many_requests", "probability": 1.0, "retry_after": 3600}]}
    )
    before = observed.worker()
    send(observed, agency, conversation["id"])
    send(observed, agency, conversation["id"])
    wait_until(lambda: observed.worker().value("faro_queue_messages", state="waiting") >= 1)
    after = observed.worker()
    observed.stack.simulator.set_faults({})
    assert after.value("faro_queue_messages", state="queued") >= 1
    assert after.value("faro_queue_oldest_due_seconds", state="waiting") > 0.0
    assert after.value("faro_queue_oldest_due_seconds", state="queued") == 0.0  # not before an hour
    assert rise(before, after, "faro_sends_total", outcome="not_processed") == 1


def test_a_process_that_is_killed_takes_nothing_from_the_counters(observed: Observed) -> None:
    before = observed.api().value(REQUESTS)
    master = psutil.Process(observed.stack.children["serve"].process.pid)
    killed = master.children()[0]
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    wait_until(lambda: len(master.children()) == 2)
    # The connection that was kept open may have been the killed process's.
    with suppress(OSError, http.client.HTTPException):
        observed.stack.ask("GET", f"{BASE_PATH}/healthz")
    assert observed.stack.ask("GET", f"{BASE_PATH}/healthz").status == 200
    wait_until(lambda: observed.api().value("faro_database_connections_max") == 22)
    assert observed.api().value(REQUESTS) >= before + 1


# --- What is not told, and to whom ------------------------------------------------------------------------------------


def test_metrics_are_not_on_the_public_port_and_nothing_else_is_on_theirs(observed: Observed) -> None:
    assert observed.stack.ask("GET", "/metrics").status == 404
    assert observed.stack.ask("GET", f"{BASE_PATH}/metrics").status == 404
    for port in (observed.api_port, observed.worker_port):
        for path in ("/", f"{BASE_PATH}/conversations", "/metrics/../x"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10)
            assert refused.value.code == 404


def test_no_label_holds_an_id_a_number_or_a_word_of_anybody(observed: Observed) -> None:
    agency = observed.stack.agencies[0]
    for page in (observed.api(), observed.worker()):
        named = {(label, value) for _, given in page.samples for label, value in given}
        assert {label for label, _ in named} <= LABELS | BUILD_LABELS
        values = {value for label, value in named if label not in BUILD_LABELS | {"le"}}
        assert len(values) > 5
        assert [value for value in values if re.search(r"\d{6}|[0-9a-f]{8}-|^(AC|SM|MM|MG)[0-9a-f]{6}", value)] == []
        assert values & {agency.name, str(agency.id), "user_1"} == set()


def test_what_a_client_sends_makes_no_series(observed: Observed) -> None:
    agency = observed.stack.new_agency()

    def storm(number: int) -> None:
        for method in ("GET", "POST", f"X{number}"):
            observed.stack.ask(method, f"/{uuid.uuid4()}?{uuid.uuid4()}", body=b"x" if method == "POST" else None)
        observed.stack.get(agency, f"/conversations/{uuid.uuid4()}")
        observed.stack.get(agency, f"/messages/{uuid.uuid4()}/x")
        observed.stack.ask("GET", f"{BASE_PATH}/conversations", [("Authorization", f"Bearer {uuid.uuid4()}")])
        observed.stack.ask("POST", f"{BASE_PATH}/webhooks/twilio/status/{uuid.uuid4()}/{uuid.uuid4()}/{number + 1}")

    storm(0)
    before = set(observed.api().samples)
    for number in range(1, 30):
        storm(number)
    assert set(observed.api().samples) == before


def test_a_page_of_metrics_stays_small(observed: Observed) -> None:
    assert len(observed.api().samples) < 2000
    assert len(observed.worker().samples) < 300


def test_the_files_of_the_processes_lie_in_a_folder_that_goes_with_them(observed: Observed) -> None:
    assert [path.name.startswith("conversations-api-metrics-") for path in observed.temporary.iterdir()] == [True]
    observed.stack.stop("serve")
    assert list(observed.temporary.iterdir()) == []
    observed.start_serve()


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_or_public_is_refused_in_one_line(observed: Observed) -> None:
    environment = observed.stack.environment
    worker = run("worker", environment=environment)
    assert refusal(worker).startswith("conversations-api worker: cannot listen on port ")
    assert refusal(worker).endswith("METRICS_PORT names another")
    serve = run("serve", environment={**environment, "METRICS_PORT": environment["PORT"]})
    assert (serve.returncode, refusal(serve)) == (
        2,
        "conversations-api serve: METRICS_PORT must not be PORT: metrics are not for the public",
    )
