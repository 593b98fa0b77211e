"""How the contract is read: OpenAPI 3.0 schemas mean to the validators what they mean to a reader."""

from pathlib import Path
from typing import Any

import pytest

import api
from conversations_api.web import validation
from conversations_api.web.app import build_app
from conversations_api.web.contract import Contract, Operation, Schema
from conversations_api.web.request_head import Routes

SCHEMAS = {
    "Word": {"type": "string", "enum": ["a", "b"]},
    "Nested": {"type": "object", "properties": {"word": {"$ref": "#/components/schemas/Word"}}},
    "Tree": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Tree"}, "n": {"type": "integer"}}},
}


def document(schema: dict[str, Any], **operation: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {
        "openapi": "3.0.3",
        "servers": [{"url": "https://api.example.com/base/"}],
        "paths": {
            "/x": {
                "parameters": operation.pop("shared", []),
                "get": {"operationId": "x", "responses": {"200": {"description": "", "content": content}}, **operation},
            }
        },
        "components": {"schemas": SCHEMAS},
    }


def compiled(schema: dict[str, Any]) -> Schema:
    found = Contract(document(schema)).operations["x"].responses["200"].bodies["application/json"]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "nullable": True}, [None, "x"], [1]),
        ({"type": "string"}, ["x"], [None]),
        ({"type": "string", "nullable": True, "enum": ["a"]}, [None, "a"], ["b"]),
        ({"type": "string", "nullable": True, "enum": ["a", None]}, [None, "a"], ["b"]),
        (
            {"allOf": [{"$ref": "#/components/schemas/Nested"}], "nullable": True},
            [None, {"word": "a"}],
            [{"word": "c"}, 1],
        ),
        ({"type": "object", "nullable": True, "required": ["k"]}, [None, {"k": 1}], [{}]),
        ({"$ref": "#/components/schemas/Word", "nullable": True}, ["a"], [None]),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, [0.1], [0, -1]),
        ({"type": "number", "maximum": 9, "exclusiveMaximum": False}, [9], [9.1]),
        (
            {"type": "string", "format": "date-time"},
            ["2026-11-23T02:18:53.987344Z"],
            ["2026-11-23", "2026-13-01T00:00:00Z", "x"],
        ),
        ({"type": "string", "format": "uuid"}, ["00000000-0000-4000-8000-000000000001"], ["x", ""]),
        ({"type": "string", "format": "password"}, ["x"], [1]),
        ({"type": "string", "pattern": "^a$"}, ["a"], ["a\n", "b"]),
        ({"type": "string", "maxLength": 2}, ["😀😀"], ["😀😀😀"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"k": 1}], [{"k": "1"}]),
        ({"type": "object", "properties": {"nullable": {"type": "boolean"}}}, [{"nullable": True}], [{"nullable": 1}]),
        ({"type": "array", "items": {"type": "string", "nullable": True}}, [[None]], [[1]]),
        ({"$ref": "#/components/schemas/Tree"}, [{"next": {"next": {"n": 1}}}], [{"next": {"next": {"n": "1"}}}]),
        ({"oneOf": [{"type": "integer"}, {"type": "string", "minLength": 2}]}, [1, "xx"], ["x", None]),
        ({"type": "integer", "description": "x", "example": "y", "x-ours": 1, "default": 5}, [1], ["1", 1.5]),
    ],
)
def test_a_schema_of_openapi_means_what_it_says(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    read = compiled(schema)
    assert [value for value in good if not read.is_valid(value)] == []
    assert [value for value in bad if read.is_valid(value)] == []


def test_a_pattern_that_could_take_exponential_time_does_not_compile() -> None:
    with pytest.raises(Exception, match="regex"):
        compiled({"type": "string", "pattern": "^(?=a)(a+)\\1$"})


def test_a_pattern_is_linear_in_the_text() -> None:
    read = compiled({"type": "string", "pattern": "^(a+)+$"})
    assert not read.is_valid("a" * 60_000 + "b")


@pytest.mark.parametrize(
    "parameter",
    [
        {"name": "p", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
        {"name": "p", "in": "query", "schema": {"$ref": "#/components/schemas/Nested"}},
        {"name": "p", "in": "cookie", "schema": {"type": "string"}},
    ],
)
def test_a_parameter_that_the_edge_could_not_check_is_refused_at_the_start(parameter: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"parameter p: .* (not )?supported"):
        Contract(document({}, parameters=[parameter]))


def test_an_operations_parameter_replaces_the_one_of_its_path() -> None:
    shared = {"name": "p", "in": "query", "schema": {"type": "integer"}}
    own = {"name": "p", "in": "query", "required": True, "schema": {"type": "string"}}
    contract = Contract(document({}, shared=[shared, {**shared, "name": "q"}], parameters=[own]))
    parameters = {each.name: each for each in contract.operations["x"].parameters}
    assert (parameters["p"].required, parameters["p"].schema.types) == (True, {"string"})
    assert set(parameters) == {"p", "q"}
    assert contract.operations["x"].path == "/base/x"


# --- The service's own contract ---

CONTRACT = Contract.load(api.CONTRACT)
SEND = CONTRACT.operations["sendMessage"].bodies["application/json"]


def media_errors(url: str) -> list[tuple[str, str]]:
    return validation.read_json(SEND, f'{{"media_url":"{url}"}}'.encode(), required=True)[1]


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://example.com/a.jpg",
        "https://",
        "https://localhost/a",
        "https://127.0.0.1/a",
        "https://169.254.169.254/latest",
        "https://[::1]/a",
        "https://0x7f.1/a",
        "https://2130706433/a",
        "https://user:secret@example.com/a",
        "https://exämple.com/a",
        "https://example.com/a b",
        "https://example.com/" + "a" * 2048,
        "a",
    ],
)
def test_a_media_address_that_is_no_public_https_address_is_refused(url: str) -> None:
    assert {field for field, _ in media_errors(url)} == {"media_url"}


def test_a_media_address_may_be_an_ordinary_one() -> None:
    assert media_errors("https://cdn.example.com:8443/a/b.jpg?size=1&x=%20#top") == []


@pytest.mark.parametrize("operation", CONTRACT.operations.values(), ids=lambda operation: operation.operation_id)
def test_every_operation_is_routed_by_the_edge_and_documents_what_the_edge_may_answer(operation: Operation) -> None:
    found = Routes(CONTRACT).find(operation.path)
    assert found is not None
    route, _ = found
    assert route.operations[operation.method] == operation
    assert {"400", "405", "408", "413", "431", "500", "503"} <= operation.responses.keys()
    assert ("415" in operation.responses) == bool(operation.bodies)


def test_every_operation_of_the_contract_has_a_handler() -> None:
    build_app(services_lifespan=None)  # type: ignore[arg-type]


def test_the_contract_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Contract.load(api.CONTRACT).operations.keys() == CONTRACT.operations.keys()


def test_the_largest_body_of_the_worst_shapes_is_checked_without_delay() -> None:
    worst = [
        b'{"content":"' + b"\xe2\x80\x8b" * 21_000 + b'"}',
        b'{"media_url":"https://' + b"a." * 32_000 + b'"}',
        b"{" + b",".join(b'"%05d":1' % number for number in range(6_000)) + b"}",
        b"[" + b"1," * 32_000 + b"1]",
        b'{"template":{"variables":{' + b",".join(b'"%05d":1' % number for number in range(5_000)) + b"}}}",
    ]
    for body in worst:
        assert validation.read_json(SEND, body, required=True)[1] != []
