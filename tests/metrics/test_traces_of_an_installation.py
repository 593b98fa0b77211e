"""Both programs hand traces to a collector as OpenTelemetry's variables say, and do not wait for one that is away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from conversations_api import addresses
from tests.agencies import Urls
from tests.commands import refusal, run
from tests.metrics.scraping import wait_until
from tests.stack import running


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector: its URL, and what it was handed."""
    handed: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                handed.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handed
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def names(handed: list[ExportTraceServiceRequest]) -> set[tuple[str, str]]:
    """(service, span) of all that was handed over."""
    return {
        (attribute.value.string_value, span.name)
        for request in handed
        for resource in request.resource_spans
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_a_collector_is_handed_the_spans_under_the_name_that_the_environment_gives(urls: Urls, tmp_path: Path) -> None:
    with collector() as (url, handed):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with running(urls, tmp_path, **variables, OTEL_SERVICE_NAME="inbox") as stack:
            agency = stack.agencies[0]
            assert stack.get(agency, "/conversations").status == 200
            stack.write(agency.channels[1], "+12025550171", "Hello?")
            [conversation] = stack.conversations(agency)
            body = {"content": "Hello."}
            assert stack.post(agency, f"/conversations/{conversation['id']}/messages", body).status == 201
            wait_until(lambda: {("inbox", "listConversations"), ("inbox", "twilio create")} <= names(handed))
    assert b"12025550171" not in b"".join(request.SerializeToString() for request in handed)


def test_what_has_not_been_handed_over_yet_is_at_the_end(urls: Urls, tmp_path: Path) -> None:
    with collector() as (url, handed):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with running(urls, tmp_path, **variables) as stack:
            assert stack.get(stack.agencies[0], "/conversations").status == 200
            assert handed == []
        assert ("faro-conversations-serve", "listConversations") in names(handed)


def test_a_collector_that_is_away_delays_neither_requests_nor_the_end(urls: Urls, tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{addresses.free_port()}"
    with running(urls, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=away, OTEL_BSP_SCHEDULE_DELAY="100") as stack:
        assert stack.get(stack.agencies[0], "/conversations").status == 200
        processes = {name: child.process for name, child in stack.children.items()}
        began = time.monotonic()
        stack.stop("serve", "worker", seconds=15.0)
        assert {name: process.returncode for name, process in processes.items()} == {"serve": 0, "worker": 0}
        assert time.monotonic() - began < 15.0


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_traces_without_their_libraries_are_refused_in_one_line(command: str, urls: Urls, tmp_path: Path) -> None:
    # As if they were not installed: a package of that name that is found first, and is empty.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    with running(urls, tmp_path, commands=()) as stack:
        environment = {**stack.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
        result = run(command, environment={**environment, "PYTHONPATH": str(tmp_path)})
    assert (result.returncode, refusal(result)) == (
        1,
        f"conversations-api {command}: OTEL_EXPORTER_OTLP_ENDPOINT needs the extra: "
        "pip install 'faro-conversations[tracing]'",
    )
