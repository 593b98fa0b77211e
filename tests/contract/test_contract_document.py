"""The contract is valid OpenAPI, its examples are what it promises, and its lists agree with one another."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_schema_validator import OAS30ReadValidator, OAS30WriteValidator, oas30_strict_format_checker
from openapi_spec_validator import OpenAPIV30SpecValidator

import api
from handlers import problems
from persistence import message_status
from tests.contract.document import Node, examples, inline, load, media, operations, resolve, responses

# What the front end reads: these names are promised to it, whatever else is added.
# fmt: off
CONVERSATION = {
    "id", "location_id", "channel", "channel_address", "contact_id", "contact_name", "contact_phone", "status",
    "lead_status", "lead_value", "assigned_to", "last_message_at", "last_message_preview", "last_message_direction",
    "created_at", "updated_at",
}
MESSAGE = {
    "id", "conversation_id", "direction", "content", "media_url", "media_type", "media", "transcript", "status",
    "error", "twilio_sid", "sent_by", "sent_at", "delivered_at", "read_at", "created_at",
}
# fmt: on


def schema(name: str) -> Node:
    node: Node = load()["components"]["schemas"][name]
    return node


# --- The document -----------------------------------------------------------------------------------------------------


def test_the_contract_is_valid_openapi_3_0() -> None:
    assert load()["openapi"] == "3.0.3"
    assert [error.message for error in OpenAPIV30SpecValidator(load()).iter_errors()] == []


def test_a_document_that_is_not_openapi_is_found() -> None:
    document = load()
    del document["paths"]["/conversations"]["get"]["responses"]
    assert list(OpenAPIV30SpecValidator(document).iter_errors()) != []


def test_it_is_served_under_the_path_that_clients_know() -> None:
    assert [server["url"] for server in load()["servers"]] == ["/api/v1"]
    assert load()["info"]["version"].startswith("1.")


def test_it_has_the_operations_that_were_agreed_and_no_others() -> None:
    assert {operation.node["operationId"]: operation.where for operation in operations(load())} == {
        "listConversations": "GET /conversations",
        "getConversation": "GET /conversations/{conversation_id}",
        "listMessages": "GET /conversations/{conversation_id}/messages",
        "sendMessage": "POST /conversations/{conversation_id}/messages",
        "getMessage": "GET /messages/{message_id}",
        "resendMessage": "POST /messages/{message_id}/resend",
        "receiveInboundMessage": "POST /webhooks/twilio/inbound",
        "receiveMessageStatus": "POST /webhooks/twilio/status/{agency_id}/{message_id}/{attempt}",
        "getHealth": "GET /healthz",
        "getReadiness": "GET /readyz",
    }


def test_only_webhooks_and_health_do_without_a_token() -> None:
    open_to_all = {operation.where for operation in operations(load()) if operation.node.get("security") == []}
    expected = {
        operation.where
        for operation in operations(load())
        if operation.path.startswith(("/webhooks/", "/healthz", "/readyz"))
    }
    assert open_to_all == expected
    assert load()["security"] == [{"bearerAuth": []}]


# --- Examples ---------------------------------------------------------------------------------------------------------


def bodies() -> Iterator[tuple[str, str, Node, Any]]:
    """Place, direction, schema and value of each example of a body."""
    document = load()
    for where, direction, each in media(document):
        for name, value in examples(document, each):
            yield f"{where}: {name}", direction, inline(document, each["schema"]), value


def scalars() -> Iterator[tuple[str, Node, Any]]:
    """Place, schema and value of each example of a parameter or header."""
    document = load()
    for kind in ("parameters", "headers"):
        for name, each in document["components"][kind].items():
            for _, value in examples(document, each):
                yield f"{kind}/{name}", inline(document, each["schema"]), value


def broken_rules(direction: str, node: Node, value: Any) -> list[str]:
    validator = OAS30WriteValidator if direction == "request" else OAS30ReadValidator
    found = validator(node, format_checker=oas30_strict_format_checker).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.mark.parametrize(("direction", "node", "value"), [pytest.param(*each, id=where) for where, *each in bodies()])
def test_an_example_of_a_body_is_valid(direction: str, node: Node, value: Any) -> None:
    assert broken_rules(direction, node, value) == []


@pytest.mark.parametrize(("node", "value"), [pytest.param(*each, id=where) for where, *each in scalars()])
def test_an_example_of_a_parameter_or_header_is_valid(node: Node, value: Any) -> None:
    assert broken_rules("request", node, value) == []


@pytest.mark.parametrize(("direction", "node", "value"), [pytest.param(*each, id=where) for where, *each in bodies()])
def test_the_check_of_an_example_finds_a_foreign_value(direction: str, node: Node, value: Any) -> None:
    """Another type at the top, and, where the schema is closed, another field: so it is this schema that is checked."""
    assert broken_rules(direction, node, 7) != []
    if isinstance(value, dict) and node.get("additionalProperties") is False:
        assert broken_rules(direction, node, {**value, "colour": "sage"}) != []


def test_every_example_is_used() -> None:
    used = set(re.findall(r"#/components/examples/(\w+)", api.CONTRACT.read_text(encoding="utf-8")))
    assert used == set(load()["components"]["examples"])


# --- Lists that must agree --------------------------------------------------------------------------------------------


def problem_examples() -> dict[str, set[tuple[int, str, str]]]:
    """Status, title and detail of the examples of each code."""
    found: dict[str, set[tuple[int, str, str]]] = {}
    for each in load()["components"]["examples"].values():
        if isinstance(each["value"], dict) and "code" in each["value"]:
            value = each["value"]
            found.setdefault(value["code"], set()).add((value["status"], value["title"], value["detail"]))
            assert value["type"] == f"urn:faro:problem:{value['code']}"
    return found


def test_every_error_code_has_an_example_in_the_words_of_the_server() -> None:
    server = {code: {(kind.status, kind.title, kind.detail)} for code, kind in problems.KINDS.items()}
    assert problem_examples() == server
    assert set(schema("ProblemCode")["enum"]) == set(server)


def test_the_introduction_lists_every_error_code_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", load()["info"]["description"], re.MULTILINE)
    assert [(int(status), code) for status, code in rows] == [
        (problems.KINDS[code].status, code) for code in schema("ProblemCode")["enum"]
    ]


def test_every_error_code_is_documented_where_it_can_be_met() -> None:
    document = load()
    documented = {
        value["code"]
        for operation in operations(document)
        for status, response in responses(document, operation)
        if status >= "400"
        for _, value in examples(document, response["content"][problems.MEDIA_TYPE])
    }
    assert documented == set(schema("ProblemCode")["enum"])


def test_the_statuses_are_those_of_the_state_machine() -> None:
    assert set(schema("MessageStatus")["enum"]) == set(message_status.TRANSITIONS)
    assert schema("ReportedStatus")["enum"] == [*schema("MessageStatus")["enum"], None]


def test_a_message_in_full_is_a_message_and_its_history() -> None:
    message, detail = schema("Message"), schema("MessageDetail")
    assert detail["properties"].pop("history")["items"] == {"$ref": "#/components/schemas/MessageEvent"}
    assert detail["properties"] == message["properties"]
    assert detail["required"] == [*message["required"], "history"]


def test_the_front_end_finds_the_fields_that_it_reads() -> None:
    added = {"Conversation": {"messaging"}, "Message": {"duplicate_detected", "template", "redacted_at"}}
    for name, fields in (("Conversation", CONVERSATION), ("Message", MESSAGE)):
        assert set(schema(name)["properties"]) == fields | added[name]
    assert list(schema("ConversationPage")["properties"]) == [
        "conversations",
        "total",
        "limit",
        "offset",
        "next_cursor",
    ]
    assert list(schema("MessagePage")["properties"]) == ["messages", "has_more", "next_before"]


def test_pages_have_the_limits_that_were_agreed() -> None:
    parameters = load()["components"]["parameters"]
    limits = {
        name: tuple(parameters[name]["schema"].get(word) for word in ("minimum", "maximum", "default"))
        for name in ("ConversationLimit", "MessageLimit", "Offset")
    }
    assert limits == {"ConversationLimit": (1, 100, 20), "MessageLimit": (1, 100, 50), "Offset": (0, 10_000, None)}


def test_the_front_end_may_send_the_tenant_in_both_places() -> None:
    parameters = load()["components"]["parameters"]
    places = {(parameters[name]["in"], parameters[name]["name"]) for name in ("TenantHeader", "TenantQuery")}
    assert places == {("header", "X-Tenant-ID"), ("query", "tenant_id")}


def test_a_missing_webhook_signature_is_not_a_malformed_request() -> None:
    parameter = resolve(load(), load()["components"]["parameters"]["TwilioSignature"])
    assert (parameter["in"], parameter["name"], parameter["required"]) == ("header", "X-Twilio-Signature", False)
    assert set(parameter["schema"]) == {"type"}
