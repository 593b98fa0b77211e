"""The contract does not move by accident: what follows the last released one breaks no client that was built for it.

Released contracts lie in api/released. To release: raise info.version, write its section in CHANGELOG.md, and copy
api/openapi.yaml there under its version.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.contract.changes import ADDITIVE, BREAKING, changes, objections
from tests.contract.document import Node, load

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changes\n\n## 9.9.9\n\n## 1.1.0\n\n## 1.0.1\n\n## 1.0.0\n"


def releases() -> dict[tuple[int, ...], Path]:
    paths = ROOT.joinpath("api/released").glob("openapi-*.yaml")
    return {tuple(map(int, path.stem.removeprefix("openapi-").split("."))): path for path in paths}


def last_released() -> Node:
    document: Node = yaml.safe_load(releases()[max(releases())].read_text(encoding="utf-8"))
    return document


# --- The contract itself ----------------------------------------------------------------------------------------------


def test_the_contract_breaks_no_client_of_the_last_released_one() -> None:
    changelog = ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    found = objections(last_released(), load(), changelog)
    assert not found, "\n".join(["api/openapi.yaml may not follow the contract that was released last:", *found])


def test_a_released_contract_is_the_version_that_its_name_says_and_has_its_section() -> None:
    changelog = ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    assert releases()
    for version, path in releases().items():
        dotted = ".".join(map(str, version))
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["info"]["version"] == dotted
        assert f"\n## {dotted}\n" in changelog


def test_a_contract_whose_version_is_released_is_the_released_one() -> None:
    path = releases().get(tuple(map(int, load()["info"]["version"].split("."))))
    assert path is None or yaml.safe_load(path.read_text(encoding="utf-8")) == load()


# --- What breaks ------------------------------------------------------------------------------------------------------


def contract() -> Node:
    """The contract as if it were the first version: what a change means does not depend on how often it was changed."""
    document = load()
    document["info"]["version"] = "1.0.0"
    return document


def schemas(document: Node) -> Node:
    node: Node = document["components"]["schemas"]
    return node


def operation(document: Node, path: str = "/conversations", method: str = "get") -> Node:
    node: Node = document["paths"][path][method]
    return node


def send(document: Node) -> Node:
    return operation(document, "/conversations/{conversation_id}/messages", "post")


def remove_operation(document: Node) -> None:
    del document["paths"]["/messages/{message_id}"]


def rename_operation(document: Node) -> None:
    operation(document)["operationId"] = "findConversations"


def retag_operation(document: Node) -> None:
    operation(document)["tags"] = ["messages"]


def remove_response_field(document: Node) -> None:
    del schemas(document)["Conversation"]["properties"]["contact_name"]
    schemas(document)["Conversation"]["required"].remove("contact_name")


def remove_request_field(document: Node) -> None:
    del schemas(document)["SendMessageRequest"]["properties"]["template"]


def narrow_enum_of_a_parameter(document: Node) -> None:
    schemas(document)["ConversationStatus"]["enum"].remove("in_progress")


def add_enum_value_to_answers(document: Node) -> None:
    schemas(document)["MessageStatus"]["enum"].append("scheduled")


def add_error_code(document: Node) -> None:
    schemas(document)["ProblemCode"]["enum"].append("number_unreachable")


def add_required_parameter(document: Node) -> None:
    parameter = {"name": "folder", "in": "query", "required": True, "schema": {"type": "string"}}
    operation(document)["parameters"].append(parameter)


def require_a_parameter(document: Node) -> None:
    document["components"]["parameters"]["IdempotencyKey"]["required"] = True


def remove_parameter(document: Node) -> None:
    operation(document)["parameters"].remove({"$ref": "#/components/parameters/Offset"})


def require_a_request_field(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["required"] = ["content"]


def lower_a_limit(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["properties"]["content"]["maxLength"] = 160


def lower_the_page_limit(document: Node) -> None:
    document["components"]["parameters"]["MessageLimit"]["schema"]["maximum"] = 50


def change_a_default(document: Node) -> None:
    document["components"]["parameters"]["MessageLimit"]["schema"]["default"] = 20


def tighten_a_pattern(document: Node) -> None:
    document["components"]["parameters"]["IdempotencyKey"]["schema"]["pattern"] = "^[a-z]+$"


def make_an_answer_nullable(document: Node) -> None:
    schemas(document)["Conversation"]["properties"]["contact_phone"]["nullable"] = True


def make_an_answer_optional(document: Node) -> None:
    schemas(document)["Message"]["required"].remove("sent_at")


def change_a_type(document: Node) -> None:
    schemas(document)["Conversation"]["properties"]["lead_value"]["type"] = "string"


def change_a_format(document: Node) -> None:
    del schemas(document)["Message"]["properties"]["sent_at"]["format"]


def lengthen_an_answer(document: Node) -> None:
    schemas(document)["Conversation"]["properties"]["last_message_preview"]["maxLength"] = 500


def remove_a_response(document: Node) -> None:
    del send(document)["responses"]["409"]


def add_a_response(document: Node) -> None:
    operation(document)["responses"]["402"] = {"$ref": "#/components/responses/RouteNotFound"}


def remove_a_header(document: Node) -> None:
    del document["components"]["responses"]["MessageAccepted"]["headers"]["Location"]


def make_a_header_optional(document: Node) -> None:
    document["components"]["headers"]["Location"]["required"] = False


def answer_as_another_type(document: Node) -> None:
    content = document["components"]["responses"]["Health"]["content"]
    content["text/plain"] = content.pop("application/json")


def take_another_body_only(document: Node) -> None:
    content = document["components"]["requestBodies"]["SendMessage"]["content"]
    content["application/xml"] = content.pop("application/json")


def ask_for_a_token(document: Node) -> None:
    del operation(document, "/healthz")["security"]


def rename_a_schema(document: Node) -> None:
    text = yaml.safe_dump(document).replace("schemas/FieldError", "schemas/InvalidField")
    document.update(yaml.safe_load(text.replace("    FieldError:", "    InvalidField:")))


def move_the_api(document: Node) -> None:
    document["servers"][0]["url"] = "/api/v2"


def change_a_keyword_that_nobody_thought_of(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["properties"]["media_url"]["not"] = {"pattern": "example"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_operation, "GET /messages/{message_id}: was removed"),
        (rename_operation, "GET /conversations: operationId was changed"),
        (retag_operation, "GET /conversations: tags was changed"),
        (remove_response_field, "GET /conversations 200.conversations[].contact_name: was removed"),
        (remove_request_field, "POST /conversations/{conversation_id}/messages request body.template: was removed"),
        (narrow_enum_of_a_parameter, "query parameter status: the value in_progress was removed"),
        (add_enum_value_to_answers, "200.messages[].status: the value scheduled was added"),
        (add_error_code, "GET /conversations 400.code: the value number_unreachable was added"),
        (add_required_parameter, "GET /conversations query parameter folder: was added, and is required"),
        (require_a_parameter, "header parameter Idempotency-Key: is required now"),
        (remove_parameter, "GET /conversations query parameter offset: was removed"),
        (require_a_request_field, "request body.content: must be sent now"),
        (lower_a_limit, "request body.content: maxLength: less is accepted"),
        (lower_the_page_limit, "query parameter limit: maximum: less is accepted"),
        (change_a_default, "query parameter limit: default was 50 and became 20"),
        (tighten_a_pattern, "header parameter Idempotency-Key: pattern was"),
        (make_an_answer_nullable, "200.contact_phone: null: more can be answered"),
        (make_an_answer_optional, "201.sent_at: is not always there any more"),
        (change_a_type, "200.lead_value: type was 'number' and became 'string'"),
        (change_a_format, "200.messages[].sent_at: format was 'date-time' and became absent"),
        (lengthen_an_answer, "200.last_message_preview: maxLength: more can be answered"),
        (remove_a_response, "POST /conversations/{conversation_id}/messages 409: was removed"),
        (add_a_response, "GET /conversations 402: was added"),
        (remove_a_header, "201: the header Location was removed"),
        (make_a_header_optional, "201: the header Location is not always there any more"),
        (answer_as_another_type, "GET /healthz 200: is answered as text/plain"),
        (take_another_body_only, "request body: application/json is not taken any more"),
        (ask_for_a_token, "GET /healthz: asks for other credentials"),
        (rename_a_schema, "schema FieldError: was removed or renamed"),
        (move_the_api, "servers: the API moved"),
        (change_a_keyword_that_nobody_thought_of, "request body.media_url: not was absent and became"),
    ],
)
def test_what_breaks_a_client_is_found_and_named(change: Callable[[Node], None], message: str) -> None:
    document = contract()
    change(document)
    document["info"]["version"] = "1.1.0"
    said = objections(contract(), document, CHANGELOG)
    assert any(line.startswith("BREAKING ") and message in line for line in said), "\n".join(said)


# --- What does not ----------------------------------------------------------------------------------------------------


def add_operation(document: Node) -> None:
    added = {**operation(document), "operationId": "listArchivedConversations"}
    document["paths"]["/archive"] = {"get": added}


def add_optional_parameter(document: Node) -> None:
    parameter = {"name": "assigned_to", "in": "query", "required": False, "schema": {"type": "string"}}
    operation(document)["parameters"].append(parameter)


def add_optional_request_field(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["properties"]["reply_to"] = {"type": "string"}


def add_response_field(document: Node) -> None:
    schemas(document)["Message"]["properties"]["language"] = {"type": "string"}
    schemas(document)["Message"]["required"].append("language")


def add_header(document: Node) -> None:
    headers = document["components"]["responses"]["MessageAccepted"]["headers"]
    headers["ETag"] = {"schema": {"type": "string"}}


def raise_a_limit(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["properties"]["content"]["maxLength"] = 3200


def take_null(document: Node) -> None:
    schemas(document)["SendMessageRequest"]["properties"]["media_type"]["nullable"] = True


def deprecate(document: Node) -> None:
    operation(document)["deprecated"] = True


ADDITIONS = [
    add_operation,
    add_optional_parameter,
    add_optional_request_field,
    add_response_field,
    add_header,
    raise_a_limit,
    take_null,
    deprecate,
]


@pytest.mark.parametrize("change", ADDITIONS)
def test_an_addition_passes_when_the_version_says_so(change: Callable[[Node], None]) -> None:
    document = contract()
    change(document)
    assert {each.kind for each in changes(contract(), document)} == {ADDITIVE}
    document["info"]["version"] = "1.1.0"
    assert objections(contract(), document, CHANGELOG) == []


@pytest.mark.parametrize("version", ["1.0.0", "1.0.1"])
@pytest.mark.parametrize("change", ADDITIONS)
def test_an_addition_needs_another_minor_version(change: Callable[[Node], None], version: str) -> None:
    document = contract()
    change(document)
    document["info"]["version"] = version
    assert [line[:44] for line in objections(contract(), document, CHANGELOG)] == [
        "info.version must be 1.1.0 at least, because"
    ]


def test_words_may_change_with_the_last_number_of_the_version() -> None:
    document = contract()
    operation(document)["description"] = "Another description."
    document["components"]["examples"]["Alive"]["summary"] = "It lives"
    assert changes(contract(), document) == []
    assert objections(contract(), document, CHANGELOG) == [
        "info.version must be 1.0.1 at least, because: its words were changed"
    ]
    document["info"]["version"] = "1.0.1"
    assert objections(contract(), document, CHANGELOG) == []


def test_the_changelog_has_to_tell_of_the_version() -> None:
    document = contract()
    add_response_field(document)
    document["info"]["version"] = "1.2.0"
    assert objections(contract(), document, CHANGELOG) == [
        "CHANGELOG.md has no section '## 1.2.0' that tells what changed"
    ]


def test_a_version_that_goes_back_is_found() -> None:
    released = contract()
    released["info"]["version"] = "1.1.0"
    assert objections(released, contract(), CHANGELOG) == [
        "info.version must be 1.1.0 at least, because: its words were changed"
    ]


def test_another_major_version_is_no_way_out() -> None:
    document = contract()
    remove_operation(document)
    document["info"]["version"] = "9.9.9"
    said = objections(contract(), document, CHANGELOG)
    assert any(line.startswith("BREAKING GET /messages/{message_id}: was removed") for line in said)
    assert any("another path beside /api/v1" in line for line in said)


def test_an_added_value_that_only_requests_hold_is_an_addition() -> None:
    document = contract()
    document["components"]["parameters"]["StatusFilter"]["schema"] = {"type": "string", "enum": ["open", "all"]}
    released = contract()
    released["components"]["parameters"]["StatusFilter"]["schema"] = {"type": "string", "enum": ["open"]}
    assert {(each.kind, each.what) for each in changes(released, document)} == {(ADDITIVE, "the value all was added")}
    assert {each.kind for each in changes(document, released)} == {BREAKING}


def test_the_contract_and_itself_differ_in_nothing() -> None:
    assert changes(contract(), contract()) == []


def test_the_introduction_states_the_rule_that_is_checked() -> None:
    words = re.sub(r"\s+", " ", contract()["info"]["description"])
    assert "A new value of an enumeration in an answer counts as a breaking change" in words
    assert "we add operations, optional parameters, optional request fields, response fields, and headers" in words
