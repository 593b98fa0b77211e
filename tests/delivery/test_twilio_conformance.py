"""What our gateway sends and what our simulator answers, held against Twilio's own OpenAPI document.

The document is stricter here than on paper: an answer may hold nothing it does not name, and must hold all it names,
as Twilio's answers do.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from openapi_schema_validator import OAS30Validator, oas30_format_checker

from delivery import twilio_gateway
from delivery.simulator.server import TwilioSimulator
from delivery.simulator.webhooks import Inbound
from delivery.simulator.wire import Request
from delivery.twilio_gateway import Accepted, TwilioAccount, TwilioGateway

DOCUMENT = json.loads((pathlib.Path(__file__).parents[1] / "data/twilio_messages_api.json").read_text(encoding="utf-8"))
ACCOUNT = TwilioAccount("AC" + "a" * 32, "the-secret-token")
MESSAGES = "/2010-04-01/Accounts/{AccountSid}/Messages.json"
MESSAGE = "/2010-04-01/Accounts/{AccountSid}/Messages/{Sid}.json"
MEDIUM = "/2010-04-01/Accounts/{AccountSid}/Messages/{MessageSid}/Media/{Sid}.json"
MEDIA = "/2010-04-01/Accounts/{AccountSid}/Messages/{MessageSid}/Media.json"
SERVICE = "MG" + "b" * 32

oas30_format_checker.checks("date-time-rfc-2822", (TypeError, ValueError))(
    lambda text: text is None or parsedate_to_datetime(text)
)
oas30_format_checker.checks("phone-number")(
    lambda text: text is None or re.fullmatch(r"(whatsapp:)?\+[1-9]\d{6,14}", text)
)
oas30_format_checker.checks("uri", ValueError)(lambda text: text is None or bool(urlsplit(text).path))


def resolved(schema: Any) -> Any:
    """The schema with every reference put in its place and, of an object, all properties required and no others."""
    if isinstance(schema, list):
        return [resolved(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    inner = {name: resolved(value) for name, value in schema.items()}
    if inner.get("type") == "object" and "properties" in inner:
        inner = {"required": sorted(inner["properties"]), **inner, "additionalProperties": False}
    return inner


def faults_of(schema: Any, instance: Any) -> list[str]:
    validator = OAS30Validator(resolved(schema), format_checker=oas30_format_checker)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)]


@pytest.fixture
def simulator() -> Iterator[TwilioSimulator]:
    with TwilioSimulator({ACCOUNT.account_sid: ACCOUNT.auth_token}, status_delay_seconds=0.02) as running:
        yield running


@pytest.fixture
def gateway(simulator: TwilioSimulator) -> TwilioGateway:
    return TwilioGateway(base_url=simulator.url, connect_timeout_seconds=1, total_deadline_seconds=5, max_concurrency=4)


SENDS: dict[str, dict[str, Any]] = {
    "text": {},
    "sms": {"channel": "sms"},
    "service": {"sender": SERVICE},
    "media": {"content": "", "media_urls": ("https://media.example/1.jpg", "https://media.example/2.jpg")},
    "text and media": {"media_urls": ("https://media.example/1.jpg",)},
    "template": {"content_sid": "HX" + "c" * 32, "content_variables": {"1": "Zoë", "2": "5 £"}},
}


def send(gateway: TwilioGateway, **changes: Any) -> str:
    wanted = {
        "sender": "+12025550100",
        "recipient": "+12025550101",
        "channel": "whatsapp",
        "content": "Are you open on Sunday? £5 & more",
        "status_callback_url": "http://127.0.0.1:9/status",
        "validity_period_seconds": 3600,
    }
    result = gateway.create_message(ACCOUNT, twilio_gateway.OutboundMessage(**{**wanted, **changes}))
    assert isinstance(result, Accepted)
    return result.twilio_sid


def operation(request: Request) -> tuple[dict[str, Any], dict[str, str]]:
    """The one operation of the document that this request calls, and its path parameters."""
    found = []
    for template, item in DOCUMENT["paths"].items():
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/.]+)", template.replace(".", r"\."))
        if match := re.fullmatch(pattern, request.path):
            found.append((item[request.method.lower()], match.groupdict()))
    assert len(found) == 1
    return found[0]


def typed(schema: Any, values: list[str]) -> Any:
    """Form and query values as the document's types; a value that is none of the type stays text, and fails."""
    kind = resolved(schema)["type"]
    if kind == "array":
        return values
    assert len(values) == 1
    if kind == "integer" and values[0].isdecimal():
        return int(values[0])
    return {"true": True, "false": False}.get(values[0], values[0]) if kind == "boolean" else values[0]


def grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def check_request(request: Request) -> None:
    called, path_values = operation(request)
    parameters = {(one["in"], one["name"]): one["schema"] for one in called["parameters"]}
    given = {("path", name): [value] for name, value in path_values.items()}
    given |= {("query", name): values for name, values in grouped(request.query).items()}
    assert set(given) <= set(parameters)
    for key, values in given.items():
        assert faults_of(parameters[key], typed(parameters[key], values)) == []
    assert request.headers["authorization"].startswith("Basic ")
    if "requestBody" in called:
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        check_form(called, grouped(request.form))
    else:
        assert request.body == b""


def check_form(called: dict[str, Any], form: dict[str, list[str]]) -> None:
    schema = called["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    properties = schema["properties"]
    assert set(form) <= set(properties)
    assert set(schema.get("required", ())) <= set(form)
    for name, values in form.items():
        assert faults_of(properties[name], typed(properties[name], values)) == []
    # "One of these must be there", in names of Twilio's libraries: from is From, media_url is MediaUrl.
    for alternatives in called.get("x-twilio", {}).get("conditional", ()):
        assert set(form) & {"".join(part.title() for part in name.split("_")) for name in alternatives}


@pytest.mark.parametrize("kind", SENDS)
def test_what_the_gateway_sends_to_create_a_message_conforms(
    simulator: TwilioSimulator, gateway: TwilioGateway, kind: str
) -> None:
    send(gateway, **SENDS[kind])
    (request,) = simulator.requests
    assert request.method == "POST"
    check_request(request)


def test_what_the_gateway_sends_to_read_conforms(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    sids = [send(gateway) for _ in range(3)]
    sent = len(simulator.requests)
    gateway.list_messages(ACCOUNT, to="whatsapp:+12025550101", from_="whatsapp:+12025550100", page_size=2)
    gateway.list_messages(ACCOUNT)
    gateway.fetch_message(ACCOUNT, sids[0])
    gateway.list_media(ACCOUNT, sids[0])
    reads = simulator.requests[sent:]
    assert [request.method for request in reads] == ["GET"] * 5
    for request in reads:
        check_request(request)
    assert "PageToken" in dict(reads[1].query)


def test_what_the_gateway_sends_to_redact_conforms(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    media = ((None, "image/jpeg"), (None, "audio/ogg"))
    inbound = Inbound(ACCOUNT.account_sid, "whatsapp:+12025550101", "whatsapp:+12025550100", "Hi", media)
    sid, _ = simulator.receive(inbound)
    assert gateway.redact_message(ACCOUNT, sid)
    assert not gateway.redact_message(ACCOUNT, "SM" + "0" * 32)
    assert [request.method for request in simulator.requests] == ["POST", "GET", "DELETE", "DELETE", "POST"]
    for request in simulator.requests:
        check_request(request)
    assert simulator.requests[0].form == [("Body", "")]
    assert gateway.list_media(ACCOUNT, sid) == []


def check_reply(reply: requests.Response, path: str, method: str = "get") -> Any:
    documented = DOCUMENT["paths"][path][method]["responses"]
    assert set(documented) == {str(reply.status_code)}
    assert reply.headers["Content-Type"] == "application/json"
    content = reply.json()
    schema = documented[str(reply.status_code)]["content"]["application/json"]["schema"]
    assert faults_of(schema, content) == []
    return content


def call(simulator: TwilioSimulator, path: str, *, data: Any = None, **values: str) -> requests.Response:
    url = simulator.url + path.format(AccountSid=ACCOUNT.account_sid, **values)
    auth = (ACCOUNT.account_sid, ACCOUNT.auth_token)
    return requests.request("GET" if data is None else "POST", url, data=data, auth=auth, timeout=5)


@pytest.mark.parametrize("kind", SENDS)
def test_what_the_simulator_answers_to_a_create_conforms(
    simulator: TwilioSimulator, gateway: TwilioGateway, kind: str
) -> None:
    send(gateway, **SENDS[kind])
    (request,) = simulator.requests
    content = check_reply(call(simulator, MESSAGES, data=request.form), MESSAGES, "post")
    assert content["status"] == ("accepted" if kind == "service" else "queued")


@pytest.mark.parametrize("fault", ["none", "undelivered_later", "failed_later"])
def test_a_message_conforms_at_every_stage_of_its_life(
    simulator: TwilioSimulator, gateway: TwilioGateway, fault: str
) -> None:
    simulator.set_faults({"script": [fault]})
    sid = send(gateway, sender=SERVICE)
    seen = set()
    while not seen & {"read", "undelivered", "failed"}:
        content = check_reply(call(simulator, MESSAGE, Sid=sid), MESSAGE)
        seen.add(content["status"])
    assert (content["error_code"], content["from"] is not None) == (
        {"none": None, "undelivered_later": 30003, "failed_later": 63016}[fault],
        True,
    )
    redacted = check_reply(call(simulator, MESSAGE, Sid=sid, data={"Body": ""}), MESSAGE, "post")
    assert redacted["body"] == ""


def test_every_page_of_a_listing_conforms(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    for changes in SENDS.values():
        send(gateway, **changes)
    simulator.receive(Inbound(ACCOUNT.account_sid, "whatsapp:+12025550101", "whatsapp:+12025550100", "Hi"))
    content = check_reply(call(simulator, MESSAGES + "?PageSize=3"), MESSAGES)
    pages = [content]
    while content["next_page_uri"]:
        content = check_reply(call(simulator, content["next_page_uri"]), MESSAGES)
        pages.append(content)
    assert [(page["page"], page["start"], page["end"], len(page["messages"])) for page in pages] == [
        (0, 0, 2, 3),
        (1, 3, 5, 3),
        (2, 6, 6, 1),
    ]
    assert check_reply(call(simulator, MESSAGES + "?To=%2B12025550199"), MESSAGES)["messages"] == []


def test_the_media_of_a_message_conform(simulator: TwilioSimulator) -> None:
    media = ((None, "image/jpeg"), (None, "audio/ogg"))
    inbound = Inbound(ACCOUNT.account_sid, "whatsapp:+12025550101", "whatsapp:+12025550100", "", media)
    sid, _ = simulator.receive(inbound)
    content = check_reply(call(simulator, MEDIA, MessageSid=sid), MEDIA)
    assert [one["content_type"] for one in content["media_list"]] == ["image/jpeg", "audio/ogg"]


def test_the_deletion_of_a_medium_conforms(simulator: TwilioSimulator) -> None:
    inbound = Inbound(ACCOUNT.account_sid, "+12025550101", "+12025550100", "", ((None, "image/jpeg"),))
    sid, _ = simulator.receive(inbound)
    (medium,) = call(simulator, MEDIA, MessageSid=sid).json()["media_list"]
    url = simulator.url + MEDIUM.format(AccountSid=ACCOUNT.account_sid, MessageSid=sid, Sid=medium["sid"])
    documented = DOCUMENT["paths"][MEDIUM]["delete"]["responses"]
    statuses = [requests.delete(url, auth=(ACCOUNT.account_sid, ACCOUNT.auth_token), timeout=5) for _ in range(2)]
    assert [str(reply.status_code) for reply in statuses] == [*documented, "404"]
    assert statuses[0].content == b""


def test_these_checks_catch_what_does_not_conform() -> None:
    schema = {"$ref": "#/components/schemas/api.v2010.account.message"}
    assert len(faults_of(schema, {})) == len(resolved(schema)["properties"])
    message = dict.fromkeys(resolved(schema)["properties"])
    wrong = {**message, "status": "lost", "direction": "inbound", "sid": "SM1", "date_sent": "today", "extra": 1}
    assert len(faults_of(schema, wrong)) == 5
