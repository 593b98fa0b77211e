"""The rules of the house for schemas. Each takes the contract and returns what breaks it, in words.

They hold what makes an answer provable (closed, all required), a document explained (every property, every value), and
a client generated alike by every tool. `test_contract_rules.py` shows of each that it can fail.
"""

from tests.contract.document import Node, all_schemas, resolve, schemas_of
from tests.contract.operation_rules import Rule

LIMITS = {"minLength", "maxLength", "pattern", "minItems", "maxItems"}
# Made by us, so that a limit says something about the answer and not about what a customer may write.
OURS = {"Id", "Conversation.last_message_preview"}


def answers_are_closed_and_every_property_is_required(document: Node) -> list[str]:
    """A closed schema is what lets response validation prove that nothing leaks."""
    return [
        where
        for where, schema in schemas_of(document, "response").items()
        if schema.get("type") == "object"
        and "properties" in schema
        and (
            schema.get("additionalProperties") is not False
            or set(schema.get("required", [])) != set(schema["properties"])
        )
    ]


def answers_are_not_free_form(document: Node) -> list[str]:
    """An object without properties must at least say of what kind its values are."""
    return [
        where
        for where, schema in schemas_of(document, "response").items()
        if schema.get("type") == "object"
        and "properties" not in schema
        and not isinstance(schema.get("additionalProperties"), dict)
    ]


def json_requests_are_closed_and_webhooks_are_open(document: Node) -> list[str]:
    """A webhook also requires nothing: a form that is not signed must be refused as such, and not as malformed."""
    webhooks = {"TwilioInboundMessage", "TwilioMessageStatus"}
    found = []
    for where, schema in schemas_of(document, "request").items():
        if where in webhooks:
            found += [where] if "additionalProperties" in schema or "required" in schema else []
        elif "properties" in schema and schema.get("additionalProperties") is not False:
            found.append(where)
    return found


def limits_on_what_is_sent_stay_out_of_answers(document: Node) -> list[str]:
    """Customers write longer than we may send, and short codes are not E.164."""
    return [
        where
        for where, schema in schemas_of(document, "response").items()
        if LIMITS & schema.keys() and where not in OURS
    ]


def properties_are_described(document: Node) -> list[str]:
    return [where for where, schema in all_schemas(document) if is_undescribed(where, schema)]


def is_undescribed(where: str, schema: Node) -> bool:
    is_property = "/" not in where and not where.endswith(("[]", "*"))
    return is_property and "$ref" not in schema and not schema.get("description")


def enum_values_are_explained_where_they_stand(document: Node) -> list[str]:
    return [
        f"{where}: {value}"
        for where, schema in all_schemas(document)
        for value in schema.get("enum", [])
        if value is not None and f"`{value}`" not in schema.get("description", "")
    ]


def nullable_enums_hold_null(document: Node) -> list[str]:
    """In OpenAPI 3.0 `nullable` does not add null to an enumeration."""
    return [
        where
        for where, schema in all_schemas(document)
        if "enum" in schema and (None in schema["enum"]) != schema.get("nullable", False)
    ]


def no_construct_that_tools_read_differently(document: Node) -> list[str]:
    """What generators and validators disagree about, and what OpenAPI 3.0 silently ignores."""
    found = []
    for where, schema in all_schemas(document):
        if "$ref" in schema and len(schema) > 1:
            found.append(f"{where}: something beside $ref is ignored")
        if "nullable" in schema and "type" not in schema:
            found.append(f"{where}: nullable without type has no effect")
        if "oneOf" in schema and "discriminator" not in schema:
            found.append(f"{where}: oneOf without discriminator")
        found += [f"{where}: {word}" for word in ("allOf", "anyOf", "not") if word in schema]
        found += [f"{where}: {word} is not OpenAPI 3.0" for word in ("const", "$defs", "examples") if word in schema]
        if "$ref" not in schema and not isinstance(schema.get("type"), str):
            found.append(f"{where}: no type")
    return found


def patterns_have_a_message(document: Node) -> list[str]:
    """A person who reads an error does not read regular expressions."""
    sent = schemas_of(document, "request")
    found = [where for where, schema in sent.items() if "pattern" in schema and "x-pattern-message" not in schema]
    for name, parameter in document["components"]["parameters"].items():
        schema = resolve(document, parameter["schema"])
        found += [name] if "pattern" in schema and "x-pattern-message" not in schema else []
    return found


RULES: tuple[Rule, ...] = (
    answers_are_closed_and_every_property_is_required,
    answers_are_not_free_form,
    json_requests_are_closed_and_webhooks_are_open,
    limits_on_what_is_sent_stay_out_of_answers,
    properties_are_described,
    enum_values_are_explained_where_they_stand,
    nullable_enums_hold_null,
    no_construct_that_tools_read_differently,
    patterns_have_a_message,
)
