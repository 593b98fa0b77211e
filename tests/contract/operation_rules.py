"""The rules of the house for operations. Each takes the contract and returns what breaks it, in words.

They hold what OpenAPI leaves open and a generic linter cannot know: which errors an operation can meet, and what every
answer carries. `test_contract_rules.py` shows of each that it can fail.
"""

import re
from collections.abc import Callable

from tests.contract.document import (
    PROBLEM,
    Node,
    Operation,
    examples,
    is_webhook,
    media,
    needs_token,
    operations,
    parameters,
    responses,
)

Rule = Callable[[Node], list[str]]

# What the server's edge answers for any operation, before it looks at which one it is.
EDGE = {"400", "405", "408", "413", "431", "500", "503"}


def operation_ids_are_camel_case_and_unique(document: Node) -> list[str]:
    """A generated client names its methods after them."""
    ids = [operation.node.get("operationId", "") for operation in operations(document)]
    return [each for each in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", each) or ids.count(each) > 1]


def operations_name_the_module_that_handles_them(document: Node) -> list[str]:
    return [
        operation.where
        for operation in operations(document)
        if not re.fullmatch(r"handlers\.[a-z_]+", operation.node.get("x-openapi-router-controller", ""))
    ]


def operations_have_one_declared_tag(document: Node) -> list[str]:
    declared = {tag["name"] for tag in document["tags"] if tag.get("description")}
    return [
        operation.where
        for operation in operations(document)
        if len(operation.node.get("tags", [])) != 1 or not declared.issuperset(operation.node["tags"])
    ]


def operations_have_a_summary_and_a_description(document: Node) -> list[str]:
    return [
        operation.where
        for operation in operations(document)
        if not 0 < len(operation.node.get("summary", "")) <= 40 or len(operation.node.get("description", "")) < 80
    ]


def tenant_operations_take_the_tenant_in_both_places(document: Node) -> list[str]:
    both = {"#/components/parameters/TenantHeader", "#/components/parameters/TenantQuery"}
    found = []
    for operation in operations(document):
        declared = {parameter.get("$ref") for parameter in operation.node.get("parameters", [])} & both
        if declared != (both if needs_token(document, operation) else set()):
            found.append(operation.where)
    return found


def parameters_headers_bodies_and_responses_are_components(document: Node) -> list[str]:
    found = []
    for operation in operations(document):
        parts = [*operation.node.get("parameters", []), *operation.node["responses"].values()]
        parts += [operation.node["requestBody"]] if "requestBody" in operation.node else []
        found += [operation.where for part in parts if set(part) != {"$ref"}]
        for status, response in responses(document, operation):
            headers = response.get("headers", {})
            found += [f"{operation.where} {status} {name}" for name in headers if set(headers[name]) != {"$ref"}]
    for where, _, each in media(document):
        found += [where for example in each.get("examples", {}).values() if set(example) != {"$ref"}]
        found += [where] if set(each["schema"]) != {"$ref"} else []
    return found


def expected_errors(document: Node, operation: Operation) -> set[str]:
    """The errors that this operation can meet, from its shape."""
    expected = set(EDGE)
    sends = {"Idempotency-Key"} & {parameter["name"] for parameter in parameters(document, operation)}
    if needs_token(document, operation):
        expected |= {"401", "403", "429"}
    if is_webhook(operation):
        expected |= {"403"}
    if "requestBody" in operation.node:
        expected |= {"415"}
    if "{" in operation.path:
        expected |= {"404"}
    if sends:
        expected |= {"409"}
    if needs_token(document, operation) and operation.method != "get":
        expected |= {"422"}
    return expected


def operations_document_the_errors_they_can_meet_and_no_others(document: Node) -> list[str]:
    found = []
    for operation in operations(document):
        documented = {status for status in operation.node["responses"] if status >= "400"}
        difference = documented ^ expected_errors(document, operation)
        found += [f"{operation.where} {status}" for status in sorted(difference)]
    return found


def operations_document_one_success(document: Node) -> list[str]:
    return [
        operation.where
        for operation in operations(document)
        if len([status for status in operation.node["responses"] if status < "400"]) != 1
    ]


def errors_have_the_one_body_with_an_example_of_their_status(document: Node) -> list[str]:
    found = []
    for operation in operations(document):
        for status, response in responses(document, operation):
            if status < "400":
                continue
            where, content = f"{operation.where} {status}", response.get("content", {})
            if set(content) != {PROBLEM} or content[PROBLEM]["schema"] != {"$ref": "#/components/schemas/Problem"}:
                found.append(where)
                continue
            statuses = {str(value["status"]) for _, value in examples(document, content[PROBLEM])}
            found += [where] if statuses != {status} else []
    return found


def every_body_has_an_example(document: Node) -> list[str]:
    return [where for where, _, each in media(document) if not list(examples(document, each))]


def every_parameter_and_header_has_an_example_and_a_description(document: Node) -> list[str]:
    return [
        f"{kind}/{name}"
        for kind in ("parameters", "headers")
        for name, each in document["components"][kind].items()
        if not list(examples(document, each)) or not each.get("description")
    ]


def expected_headers(document: Node, operation: Operation, status: str) -> set[str]:
    """The headers that an answer with this status carries."""
    of_status = {
        "201": {"Location", "Idempotent-Replayed"},
        "401": {"WWW-Authenticate"},
        "405": {"Allow"},
        "409": {"Retry-After"},
        "429": {"Retry-After"},
        "503": {"Retry-After"},
    }
    counted = needs_token(document, operation) and (status < "400" or status in {"404", "409", "422", "429"})
    # A path that leads nowhere belongs to no agency.
    counted = counted and operation.node["responses"][status] != {"$ref": "#/components/responses/RouteNotFound"}
    limits = {"RateLimit", "RateLimit-Policy"} if counted else set()
    return {"X-Request-Id"} | of_status.get(status, set()) | limits


def answers_declare_the_headers_they_carry(document: Node) -> list[str]:
    return [
        f"{operation.where} {status} {name}"
        for operation in operations(document)
        for status, response in responses(document, operation)
        for name in sorted(expected_headers(document, operation, status) - set(response.get("headers", {})))
    ]


RULES: tuple[Rule, ...] = (
    operation_ids_are_camel_case_and_unique,
    operations_name_the_module_that_handles_them,
    operations_have_one_declared_tag,
    operations_have_a_summary_and_a_description,
    tenant_operations_take_the_tenant_in_both_places,
    parameters_headers_bodies_and_responses_are_components,
    operations_document_the_errors_they_can_meet_and_no_others,
    operations_document_one_success,
    errors_have_the_one_body_with_an_example_of_their_status,
    every_body_has_an_example,
    every_parameter_and_header_has_an_example_and_a_description,
    answers_declare_the_headers_they_carry,
)
