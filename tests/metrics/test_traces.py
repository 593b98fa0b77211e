"""One span per request and one per call of the carrier, and nothing in them that a customer wrote or is called by."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text
from sqlalchemy.exc import DataError

from conversations_api import tracing
from delivery.carrier import ListingUnavailable
from delivery.simulator.server import TwilioSimulator
from delivery.twilio_gateway import OutboundMessage, TwilioAccount
from tenancy.transaction import Database, unbound_transaction
from tests.agencies import ACCOUNT_SID, Agency, Urls
from tests.api_client import AUTH_TOKEN, BASE_PATH, Api
from tests.metrics.scraping import wait_until
from tests.serving import listening, make_app, make_settings

PHONE = "+12025550147"


@dataclass
class Traced:
    api: Api
    exporter: InMemorySpanExporter

    def requests(self, count: int) -> list[ReadableSpan]:
        """The spans of so many requests; one ends a moment after its answer has gone out."""
        wait_until(lambda: len(self._of(SpanKind.SERVER)) >= count)
        return self._of(SpanKind.SERVER)

    def statements(self) -> list[ReadableSpan]:
        return self._of(SpanKind.CLIENT)

    def forget(self, count: int) -> None:
        """Leave out what so many requests have left so far."""
        self.requests(count)
        self.exporter.clear()

    def _of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start_with(SimpleSpanProcessor(exporter), service_name="tests")
    yield exporter
    tracing.stop()


@pytest.fixture
def traced(urls: Urls, exporter: InMemorySpanExporter) -> Iterator[Traced]:
    with listening(tracing.Traced(make_app(make_settings(urls)))) as port:
        api = Api(port, urls)
        yield Traced(api, exporter)
        api.close()


def everything(spans: list[ReadableSpan]) -> str:
    return "\n".join(span.to_json() for span in spans)


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_each_request_is_one_span_that_says_what_it_was_and_what_became_of_it(traced: Traced) -> None:
    api, agency = traced.api, traced.api.new_agency()
    conversation_id = api.converse(agency)
    traced.forget(1)
    assert api.of(agency).get("/conversations").status == 200
    assert api.of(agency).get(f"/conversations/{secrets.token_hex(4)}-0000-0000-0000-000000000000").status == 404
    assert api.of(agency).send(conversation_id).status == 201
    assert api.ask("GET", f"{BASE_PATH}/conversations").status == 401
    assert api.ask("DELETE", f"{BASE_PATH}/conversations").status == 405
    assert api.ask("GET", "/nowhere").status == 404
    requests = traced.requests(6)
    assert [(span.name, attributes(span)["http.response.status_code"]) for span in requests] == [
        ("listConversations", 200),
        ("getConversation", 404),
        ("sendMessage", 201),
        ("listConversations", 401),
        ("DELETE", 405),
        ("GET", 404),
    ]
    known = attributes(requests[1])
    assert known["http.request.method"] == "GET"
    assert known["http.route"] == f"{BASE_PATH}/conversations/{{conversation_id}}"
    assert known["faro.problem"] == "conversation_not_found"
    assert known["faro.agency_id"] == str(agency.id)
    assert {span.status.status_code for span in requests} == {StatusCode.UNSET}


def test_the_statements_of_a_request_lie_in_its_span_as_they_are_written_in_the_code(traced: Traced) -> None:
    agency = traced.api.new_agency()
    assert traced.api.of(agency).get("/conversations", limit=20).status == 200
    [request] = traced.requests(1)
    statements = traced.statements()
    assert request.context is not None
    assert {span.parent.span_id for span in statements if span.parent} == {request.context.span_id}
    assert all(span.parent for span in statements)
    assert "select conversation_counts" in [span.name for span in statements]
    texts = [str(attributes(span).get("db.query.text")) for span in statements]
    assert any("agency_id = %(agency_id)s" in text for text in texts)


def test_no_span_holds_what_was_written_or_who_wrote_it(traced: Traced) -> None:
    api, agency = traced.api, traced.api.new_agency()
    words = secrets.token_hex(12)
    conversation_id = api.converse(agency, f"hello {words}", phone=PHONE)
    caller = api.of(agency)
    assert caller.send(conversation_id, f"answer {words}", key=f"key-{words}").status == 201
    assert caller.get("/conversations", cursor=f"{words}").status == 400
    assert caller.get(f"/conversations/{words}").status == 400
    assert api.ask("GET", f"/{words}?q={words}").status == 404
    assert api.receive(agency, words, From=PHONE, MessageSid="SM" + words).status == 200
    assert len(traced.requests(6)) == 6
    told = everything(list(traced.exporter.get_finished_spans()))
    assert words not in told
    assert PHONE.removeprefix("+") not in told
    assert caller.token not in told


def test_a_statement_that_fails_is_marked_without_the_words_of_the_error(
    exporter: InMemorySpanExporter, database: Database
) -> None:
    words = secrets.token_hex(12)
    with pytest.raises(DataError, match=words), tracing._call("work"), unbound_transaction(database) as connection:
        connection.execute(text("select cast(:words as integer)"), words=words)
    prepare, statement, rollback, _ = exporter.get_finished_spans()
    assert (prepare.name, statement.name, rollback.name) == ("prepare", "select", "rollback")
    assert statement.status.status_code is StatusCode.ERROR
    assert attributes(statement)["error.type"] == "InvalidTextRepresentation"
    assert words not in everything(list(exporter.get_finished_spans()))


def test_the_trace_of_a_client_is_linked_to_and_not_joined(traced: Traced) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    # Not sampled, says the client: it shall not be able to hide.
    traced.api.ask("GET", f"{BASE_PATH}/healthz", headers=[("traceparent", f"00-{theirs}-b7ad6b7169203331-00")])
    traced.api.ask("GET", f"{BASE_PATH}/healthz", headers=[("traceparent", "nonsense")])
    linked, unlinked = traced.requests(2)
    assert [format(link.context.trace_id, "032x") for link in linked.links] == [theirs]
    assert linked.parent is None
    assert linked.context is not None
    assert format(linked.context.trace_id, "032x") != theirs
    assert list(unlinked.links) == []


def test_a_call_of_the_carrier_is_a_span_with_its_outcome(exporter: InMemorySpanExporter) -> None:
    words = secrets.token_hex(12)
    with TwilioSimulator({ACCOUNT_SID: AUTH_TOKEN}) as simulator:
        gateway = tracing.TracedGateway(
            base_url=simulator.url, connect_timeout_seconds=2.0, total_deadline_seconds=10.0, max_concurrency=2
        )
        account = TwilioAccount(ACCOUNT_SID, AUTH_TOKEN)
        gateway.create_message(account, message(words))
        gateway.list_messages(account, to=PHONE)
        with pytest.raises(ListingUnavailable):
            gateway.fetch_message(account, "SM" + "0" * 32)
    created, listed, fetched = exporter.get_finished_spans()
    assert (created.name, attributes(created)) == ("twilio create", {"faro.outcome": "accepted"})
    assert (listed.name, attributes(listed)) == ("twilio list", {"faro.listed": 1})
    assert (fetched.name, attributes(fetched)) == ("twilio fetch", {"error.type": "ListingUnavailable"})
    assert fetched.status.status_code is StatusCode.ERROR
    told = everything([created, listed, fetched])
    assert words not in told
    assert PHONE.removeprefix("+") not in told


def message(content: str) -> OutboundMessage:
    return OutboundMessage(
        sender="+12025550100",
        recipient=PHONE,
        channel="sms",
        content=content,
        media_urls=(),
        content_sid=None,
        content_variables=None,
        status_callback_url="http://127.0.0.1:9/status",
        validity_period_seconds=60,
    )


def test_nothing_is_traced_unless_it_is_asked_for(api: Api, urls: Urls) -> None:
    agency: Agency = api.new_agency()
    assert api.of(agency).get("/conversations").status == 200
    assert make_settings(urls).trace_collector is None
    tracing.start(make_settings(urls), "serve")
    assert tracing._provider is None
    assert json.loads(api.ask("GET", f"{BASE_PATH}/healthz").body) == {"status": "ok"}
