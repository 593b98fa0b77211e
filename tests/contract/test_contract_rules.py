"""The contract keeps the rules of the house, and each rule is one that can be broken.

A mutant is the contract with one thing wrong that a person could get wrong; the rule named beside it must find it.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract import operation_rules, schema_rules
from tests.contract.document import Node, load
from tests.contract.operation_rules import Rule

RULES = (*operation_rules.RULES, *schema_rules.RULES)
Mutation = Callable[[Node], Any]


def operation(document: Node, path: str = "/conversations", method: str = "get") -> Node:
    node: Node = document["paths"][path][method]
    return node


def schema(document: Node, name: str) -> Node:
    node: Node = document["components"]["schemas"][name]
    return node


def header_gone(response: str, header: str) -> Mutation:
    return lambda document: document["components"]["responses"][response]["headers"].pop(header)


def error_gone(status: str, path: str = "/conversations", method: str = "get") -> Mutation:
    return lambda document: operation(document, path, method)["responses"].pop(status)


def another_body_for_an_error(document: Node) -> None:
    content = document["components"]["responses"]["MessageNotFound"]["content"]
    content["application/json"] = content.pop("application/problem+json")


def an_example_of_another_status(document: Node) -> None:
    document["components"]["examples"]["MessageNotFound"]["value"]["status"] = 403


def inline_response(document: Node) -> None:
    operation(document)["responses"]["401"] = document["components"]["responses"]["Unauthenticated"]


def null_left_out(document: Node) -> None:
    schema(document, "LeadStatus")["enum"].remove(None)


def of_operation(**changes: Any) -> Mutation:
    return lambda document: operation(document).update(changes)


def of_schema(name: str, **changes: Any) -> Mutation:
    return lambda document: schema(document, name).update(changes)


def of_property(name: str, field: str, **changes: Any) -> Mutation:
    return lambda document: schema(document, name)["properties"][field].update(changes)


SEND = ("/conversations/{conversation_id}/messages", "post")
INBOUND = ("/webhooks/twilio/inbound", "post")
o, s = operation_rules, schema_rules

MUTANTS: dict[Rule, dict[str, Mutation]] = {
    o.operation_ids_are_camel_case_and_unique: {
        "snake case": of_operation(operationId="list_conversations"),
        "one word": of_operation(operationId="conversations"),
        "twice": of_operation(operationId="getConversation"),
    },
    o.operations_name_the_module_that_handles_them: {
        "none": lambda document: operation(document).pop("x-openapi-router-controller"),
        "a function": of_operation(**{"x-openapi-router-controller": "handlers.conversations.list_conversations"}),
    },
    o.operations_have_one_declared_tag: {
        "two": of_operation(tags=["conversations", "messages"]),
        "none": of_operation(tags=[]),
        "undeclared": of_operation(tags=["inbox"]),
    },
    o.operations_have_a_summary_and_a_description: {
        "no summary": of_operation(summary=""),
        "a summary that is a paragraph": of_operation(summary="List the conversations of the agency, newest first"),
        "hardly a description": of_operation(description="Lists conversations."),
    },
    o.tenant_operations_take_the_tenant_in_both_places: {
        "header gone": lambda document: operation(document)["parameters"].pop(0),
        "query gone": lambda document: operation(document, *SEND)["parameters"].pop(1),
        "on a webhook": lambda document: operation(document, *INBOUND)["parameters"].append(
            {"$ref": "#/components/parameters/TenantQuery"}
        ),
    },
    o.parameters_headers_bodies_and_responses_are_components: {
        "a response of its own": inline_response,
        "a parameter of its own": lambda document: operation(document)["parameters"].append(
            {"name": "q", "in": "query", "schema": {"type": "string"}}
        ),
        "a header of its own": lambda document: document["components"]["responses"]["Health"]["headers"].update(
            {"X-Request-Id": {"schema": {"type": "string"}}}
        ),
    },
    o.operations_document_the_errors_they_can_meet_and_no_others: {
        **{f"no {status}": error_gone(status) for status in ("400", "401", "403", "405", "408", "413", "429", "431")},
        **{f"no {status} on send": error_gone(status, *SEND) for status in ("404", "409", "415", "422", "500", "503")},
        "no 403 on a webhook": error_gone("403", *INBOUND),
        "an error that cannot be": lambda document: operation(document)["responses"].update(
            {"409": {"$ref": "#/components/responses/IdempotencyInProgress"}}
        ),
        "Twilio is told to slow down": lambda document: operation(document, *INBOUND)["responses"].update(
            {"429": {"$ref": "#/components/responses/RateLimited"}}
        ),
    },
    o.operations_document_one_success: {
        "none": error_gone("200"),
        "two": lambda document: operation(document, *SEND)["responses"].update(
            {"200": {"$ref": "#/components/responses/MessageQueuedAgain"}}
        ),
    },
    o.errors_have_the_one_body_with_an_example_of_their_status: {
        "another media type": another_body_for_an_error,
        "another schema": lambda document: document["components"]["responses"]["RateLimited"]["content"][
            "application/problem+json"
        ].update(schema={"$ref": "#/components/schemas/FieldError"}),
        "an example of another status": an_example_of_another_status,
    },
    o.every_body_has_an_example: {
        "none for a request": lambda document: document["components"]["requestBodies"]["SendMessage"]["content"][
            "application/json"
        ].pop("examples"),
        "none for an answer": lambda document: document["components"]["responses"]["Health"]["content"][
            "application/json"
        ].pop("examples"),
    },
    o.every_parameter_and_header_has_an_example_and_a_description: {
        "no example": lambda document: document["components"]["parameters"]["Offset"].pop("example"),
        "no description": lambda document: document["components"]["headers"]["RateLimit"].pop("description"),
    },
    o.answers_declare_the_headers_they_carry: {
        "no request id": header_gone("ConversationNotFound", "X-Request-Id"),
        "no Location": header_gone("MessageAccepted", "Location"),
        "no Idempotent-Replayed": header_gone("MessageAccepted", "Idempotent-Replayed"),
        "no Retry-After on 409": header_gone("IdempotencyInProgress", "Retry-After"),
        "no Retry-After on 429": header_gone("RateLimited", "Retry-After"),
        "no Retry-After on 503": header_gone("NotReady", "Retry-After"),
        "no challenge": header_gone("Unauthenticated", "WWW-Authenticate"),
        "no Allow": header_gone("MethodNotAllowed", "Allow"),
        "no RateLimit": header_gone("ConversationPage", "RateLimit"),
        "no RateLimit-Policy": header_gone("NotSendable", "RateLimit-Policy"),
    },
    s.answers_are_closed_and_every_property_is_required: {
        "open": lambda document: schema(document, "Messaging").pop("additionalProperties"),
        "an optional property": lambda document: schema(document, "Message")["required"].remove("transcript"),
    },
    s.answers_are_not_free_form: {"anything goes": of_schema("MessageTemplateVariables", additionalProperties=True)},
    s.json_requests_are_closed_and_webhooks_are_open: {
        "an open request": of_schema("SendMessageRequest", additionalProperties=True),
        "an open request inside": lambda document: schema(document, "TemplateRequest").pop("additionalProperties"),
        "a closed webhook": of_schema("TwilioMessageStatus", additionalProperties=False),
        "a webhook that is malformed before it is unsigned": of_schema("TwilioInboundMessage", required=["From"]),
    },
    s.limits_on_what_is_sent_stay_out_of_answers: {
        "long content": of_property("Message", "content", maxLength=1600),
        "short codes": of_property("Conversation", "contact_phone", pattern="^[+]"),
        "eleven pictures": of_property("MessageDetail", "media", maxItems=10),
    },
    s.properties_are_described: {
        "a property": lambda document: schema(document, "Messaging")["properties"]["can_send_freeform"].pop(
            "description"
        ),
        "a schema": lambda document: schema(document, "Media").pop("description"),
    },
    s.enum_values_are_explained_where_they_stand: {
        "a new status": lambda document: schema(document, "MessageStatus")["enum"].append("scheduled"),
        "a new code": lambda document: schema(document, "ProblemCode")["enum"].append("teapot"),
    },
    s.nullable_enums_hold_null: {
        "null left out": null_left_out,
        "null in one that is not nullable": lambda document: schema(document, "ChannelKind")["enum"].append(None),
    },
    s.no_construct_that_tools_read_differently: {
        "beside a reference": lambda document: schema(document, "Message")["properties"]["status"].update(
            nullable=True
        ),
        "nullable around a reference": lambda document: schema(document, "Message")["properties"].update(
            error={"nullable": True, "allOf": [{"$ref": "#/components/schemas/MessageError"}]}
        ),
        "oneOf": of_schema("SendMessageRequest", oneOf=[{"$ref": "#/components/schemas/TemplateRequest"}]),
        "anyOf": of_schema("SendMessageRequest", anyOf=[{"required": ["content"]}]),
        "of the next version": of_property("Health", "status", const="ok"),
        "types of the next version": of_property("Message", "sent_by", type=["string", "null"]),
    },
    s.patterns_have_a_message: {
        "in a body": lambda document: schema(document, "SendMessageRequest")["properties"]["content"].pop(
            "x-pattern-message"
        ),
        "in a parameter": lambda document: document["components"]["parameters"]["Cursor"]["schema"].pop(
            "x-pattern-message"
        ),
    },
}


def mutants() -> list[Any]:
    return [
        pytest.param(rule, mutate, id=f"{rule.__name__}: {name}")
        for rule, mutations in MUTANTS.items()
        for name, mutate in mutations.items()
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_contract_keeps_the_rule(rule: Rule) -> None:
    assert rule(load()) == []


@pytest.mark.parametrize(("rule", "mutate"), mutants())
def test_a_contract_that_breaks_the_rule_is_found(rule: Rule, mutate: Mutation) -> None:
    document = load()
    mutate(document)
    assert rule(document) != []


def test_every_rule_is_known_to_be_breakable() -> None:
    assert set(MUTANTS) == set(RULES)
