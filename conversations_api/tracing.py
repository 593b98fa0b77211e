"""Traces, when OTEL_EXPORTER_OTLP_ENDPOINT names a collector: a span for each request and each call of the carrier.

The libraries' own instrumentations are not used: they put query strings and addresses of clients into attributes, the
one for Flask misses what is refused before it, and the one for SQLAlchemy does not know 2.1. What a span holds is named
here: no query, no header, no parameter of a statement, no text of an exception.

A client may say which trace it belongs to, but not decide whether or as what it is traced: its trace is linked to.
"""

import asyncio
import importlib.util
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conversations_api.settings import Settings
from delivery.metrics import OUTCOMES
from delivery.outcomes import Outcome
from delivery.twilio_gateway import ListedMessage, TwilioGateway
from persistence.connection import SHOWN

if TYPE_CHECKING:  # an extra: imported when tracing starts
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

# A collector that is away holds up no one's end.
STOP_SECONDS = 1.5
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_TABLE = re.compile(r"\b(?:from|into|update)\s+([a-z_]+)", re.IGNORECASE)

_provider: "TracerProvider | None" = None
_tracer: "trace.Tracer | None" = None


class TracingNotInstalled(Exception):
    """Traces are asked for, and the libraries for them are not there."""

    def __init__(self) -> None:
        super().__init__("OTEL_EXPORTER_OTLP_ENDPOINT needs the extra: pip install 'faro-conversations[tracing]'")


def check(settings: Settings) -> None:
    """Raise TracingNotInstalled when traces are asked for and cannot be made."""
    if settings.trace_collector is not None and not all(_is_installed(name) for name in _NEEDED):
        raise TracingNotInstalled


def start(settings: Settings, command: str) -> None:
    """Trace what this process does from now on, if the settings ask for it; not before a fork."""
    if settings.trace_collector is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    start_with(BatchSpanProcessor(OTLPSpanExporter()), service_name=f"faro-conversations-{command}")


def start_with(processor: "SpanProcessor", *, service_name: str) -> None:
    """Hand every span to `processor`. OTEL_SERVICE_NAME, if it is set, goes before `service_name`."""
    global _provider, _tracer
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource({"service.name": service_name}).merge(OTELResourceDetector().detect())
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("conversations_api")
    event.listen(Engine, "before_cursor_execute", _statement_begins)
    event.listen(Engine, "after_cursor_execute", _statement_ends)
    event.listen(Engine, "handle_error", _statement_fails)


def stop() -> None:
    """Trace no more, and hand over what has not been handed over yet, within bounds."""
    global _provider, _tracer
    if _provider is None:
        return
    event.remove(Engine, "before_cursor_execute", _statement_begins)
    event.remove(Engine, "after_cursor_execute", _statement_ends)
    event.remove(Engine, "handle_error", _statement_fails)
    last = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
    _provider, _tracer = None, None
    last.start()
    last.join(STOP_SECONDS)


class Traced:
    """Around the edge, which sees every request: a span for each, with what the edge found out about it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _stopping(send))
        elif _tracer is None or scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            from opentelemetry import context, trace

            with _tracer.start_as_current_span(
                "request",
                context=context.Context(),
                kind=trace.SpanKind.SERVER,
                links=_links(scope),
                record_exception=False,
                set_status_on_exception=False,
            ):
                await self._app(scope, receive, send)


def request_ended(state: Mapping[str, Any], method: str, status: int) -> None:
    """Name the span of the request in progress after what it was, and say what became of it."""
    if _tracer is None:
        return
    from opentelemetry import trace

    span = trace.get_current_span()
    span.update_name(state.get("operation") or method)
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.response.status_code", status)
    known = {"http.route": "template", "faro.operation": "operation", "faro.problem": "problem"}
    known |= {"faro.request_id": "request_id", "faro.agency_id": "agency_id"}
    for attribute, name in known.items():
        if state.get(name) is not None:
            span.set_attribute(attribute, state[name])
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)


class TracedGateway(TwilioGateway):
    """The gateway, with a span around each call if this process traces."""

    def create_message(self, *arguments: Any, **named: Any) -> Outcome:
        with _call("twilio create") as attributes:
            outcome = super().create_message(*arguments, **named)
            attributes["faro.outcome"] = OUTCOMES[type(outcome)]
            return outcome

    def list_messages(self, *arguments: Any, **named: Any) -> list[ListedMessage]:
        with _call("twilio list") as attributes:
            listed = super().list_messages(*arguments, **named)
            attributes["faro.listed"] = len(listed)
            return listed

    def list_page(self, *arguments: Any, **named: Any) -> tuple[list[ListedMessage], str | None]:
        with _call("twilio list") as attributes:
            listed, page_url = super().list_page(*arguments, **named)
            attributes["faro.listed"] = len(listed)
            return listed, page_url

    def fetch_message(self, *arguments: Any, **named: Any) -> ListedMessage:
        with _call("twilio fetch"):
            return super().fetch_message(*arguments, **named)


@contextmanager
def _call(name: str) -> Iterator[dict[str, str | int]]:
    attributes: dict[str, str | int] = {}
    if _tracer is None:
        yield attributes
        return
    from opentelemetry import trace

    with _tracer.start_as_current_span(
        name, kind=trace.SpanKind.CLIENT, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield attributes
        except Exception as error:
            attributes["error.type"] = type(error).__name__
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.set_attributes(attributes)


def _statement_begins(_connection: Any, _cursor: Any, statement: str, _: Any, context: Any, _many: bool) -> None:
    from opentelemetry import trace

    if _tracer is None or not trace.get_current_span().is_recording():
        return
    shown = context.execution_options.get(SHOWN, statement)
    words = shown.split() or ["begin"]
    operation, table = words[0].lower(), _TABLE.search(shown)
    span = _tracer.start_span(f"{operation} {table[1]}" if table else operation, kind=trace.SpanKind.CLIENT)
    span.set_attribute("db.system.name", "postgresql")
    if operation != "begin":
        span.set_attribute("db.query.text", " ".join(words))
    context.faro_span = span


def _statement_ends(_connection: Any, _cursor: Any, _statement: str, _: Any, context: Any, _many: bool) -> None:
    span = getattr(context, "faro_span", None)
    if span is not None:
        span.end()


def _statement_fails(failure: ExceptionContext) -> None:
    span = getattr(failure.execution_context, "faro_span", None)
    if span is not None and span.is_recording():
        from opentelemetry import trace

        span.set_attribute("error.type", type(failure.original_exception).__name__)
        span.set_status(trace.StatusCode.ERROR)
        span.end()


def _links(scope: Scope) -> "list[trace.Link]":
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"]
    if len(given) != 1:
        return []
    context = TraceContextTextMapPropagator().extract({"traceparent": given[0]})
    found = trace.get_current_span(context).get_span_context()
    return [trace.Link(found)] if found.is_valid else []


def _stopping(send: Send) -> Send:
    async def hand_over_first(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown"):
            await asyncio.to_thread(stop)
        await send(message)

    return hand_over_first


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False
