"""The examples are true: every request among them is really sent, and every answer among them is really given.

The server runs over a database that holds what the examples tell of (`example_world`). Answers are compared with the
examples field by field; only what the server makes up anew (request ids, the ids and times of new messages) is let go.
"""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest

from conversations_api.embedded_postgres import EmbeddedPostgres
from tests.agencies import Urls
from tests.api_client import AUTH_TOKEN, BASE_PATH, FORM, Answer
from tests.contract.document import (
    Node,
    Operation,
    examples,
    is_webhook,
    load,
    needs_token,
    operations,
    parameters,
    resolve,
    responses,
)
from tests.contract.example_world import World
from tests.serving import served

ROOT = Path(__file__).parents[2]
DOCUMENT = load()
OPERATIONS = {operation.node["operationId"]: operation for operation in operations(DOCUMENT)}

# Not to be had from outside by asking once; the tests that provoke each.
ELSEWHERE = {
    "request_timeout": "tests/app/test_transport.py",
    "internal_error": "tests/app/test_answers.py",
    "database_unavailable": "tests/app/test_answers.py",
    "outcome_unknown": "tests/app/test_answers.py",
    "overloaded": "tests/app/test_overload.py",
    "keys_unavailable": "tests/app/test_answers.py",
    "not_ready": "tests/handlers/test_health.py",
    "rate_limited": "tests/app/test_answers.py",
    "idempotency_in_progress": "tests/handlers/test_idempotency.py",
}


@pytest.fixture(scope="module")
def served_world(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[World]:
    name = "faro_examples"
    postgres.create_database(name, template=migrated_template)
    roles = ("faro_app", "faro_worker", "faro_owner", "postgres")
    with served(Urls(*(postgres.url(role, name) for role in roles))) as api:
        yield World(api)
    postgres.drop_database(name)


@pytest.fixture
def world(served_world: World) -> World:
    served_world.make()
    return served_world


# --- Asking -----------------------------------------------------------------------------------------------------------


def path_of(operation: Operation) -> str:
    """The path with the examples of its parameters in it."""
    path = BASE_PATH + operation.path
    for parameter in parameters(DOCUMENT, operation):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    return path


def bodies(operation: Operation) -> dict[str, Any]:
    """The examples of its request body."""
    if "requestBody" not in operation.node:
        return {}
    body = resolve(DOCUMENT, operation.node["requestBody"])
    return {name: value for each in body["content"].values() for name, value in examples(DOCUMENT, each)}


def ask(world: World, operation: Operation, body: Any = None, *, query: Node | None = None, **headers: str) -> Answer:
    """Send it as documented: with the token or signature that it needs, and its first body where none is given."""
    if body is None:
        body = next(iter(bodies(operation).values()), None)
    if is_webhook(operation):
        return world.api.post_signed(path_of(operation), body.items(), token=AUTH_TOKEN)
    caller = world.me
    path = path_of(operation).removeprefix(BASE_PATH) + ("?" + urlencode(query, quote_via=quote) if query else "")
    sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if operation.method == "post":
        return caller.post(path, body, headers=sent)
    return (
        caller.get(path, headers=sent) if needs_token(DOCUMENT, operation) else world.api.ask("GET", BASE_PATH + path)
    )


def success(operation: Operation) -> str:
    return next(status for status in operation.node["responses"] if status < "300")


# --- Requests ---------------------------------------------------------------------------------------------------------

REQUESTS = [
    pytest.param(operation, name, id=f"{operation_id}-{name}")
    for operation_id, operation in OPERATIONS.items()
    for name in bodies(operation)
]


@pytest.mark.parametrize(("operation", "name"), REQUESTS)
def test_the_example_of_a_request_is_answered_as_documented(world: World, operation: Operation, name: str) -> None:
    assert str(ask(world, operation, bodies(operation)[name]).status) == success(operation)


PARAMETERS = [
    pytest.param(operation, parameter, id=f"{operation_id}-{parameter['name']}")
    for operation_id, operation in OPERATIONS.items()
    for parameter in parameters(DOCUMENT, operation)
    if parameter["in"] == "query" or (parameter["in"] == "header" and parameter["name"] != "X-Twilio-Signature")
]


@pytest.mark.parametrize(("operation", "parameter"), PARAMETERS)
def test_the_example_of_a_parameter_is_accepted(world: World, operation: Operation, parameter: Node) -> None:
    if operation.node["operationId"] == "resendMessage":
        world.become("unconfirmed")
    name, value = parameter["name"], str(parameter["example"])
    if parameter["in"] == "query":
        answer = ask(world, operation, query={name: value})
    else:
        answer = ask(world, operation, **{name: value})
    assert str(answer.status) == success(operation)


def test_the_cursor_of_the_example_is_one_that_this_server_makes(world: World) -> None:
    """It leads behind the conversation that it names, and not just anywhere."""
    moment, conversation_id = base64.urlsafe_b64decode(world.parameter("Cursor") + "==").decode().split("|")
    assert conversation_id == world.document["components"]["examples"]["OptedOutConversation"]["value"]["id"]
    assert moment.startswith("2026-03-02T18:01:44.120093")


# --- Successful answers -----------------------------------------------------------------------------------------------


def new(answer: Answer, example: Any) -> tuple[Any, Any]:
    """Both without what is made up anew for a new message."""
    made = ("id", "sent_at", "created_at")
    return tuple({k: v for k, v in each.items() if k not in made} for each in (answer.json, example))  # type: ignore[return-value]


def test_a_page_of_the_inbox_is_the_one_of_the_example(world: World) -> None:
    told = world.told("ConversationPage")
    answer = world.me.get("/conversations", limit=2).json
    assert answer["conversations"] == told["conversations"]
    assert answer.keys() == told.keys()
    assert (answer["limit"], answer["offset"], answer["total"]) == (2, 0, 2)


def test_an_inbox_in_which_nothing_fits_is_the_one_of_the_example(world: World) -> None:
    assert world.me.get("/conversations", status="in_progress").json == world.told("EmptyConversationPage")


@pytest.mark.parametrize("name", ["WhatsAppConversation", "OptedOutConversation"])
def test_a_conversation_is_the_one_of_the_example(world: World, name: str) -> None:
    told = world.told(name)
    assert world.me.get(f"/conversations/{told['id']}").json == told


def test_the_pages_of_a_conversation_are_those_of_the_examples(world: World) -> None:
    path = f"/conversations/{world.parameter('ConversationId')}/messages"
    newest = world.me.get(path, limit=2).json
    assert newest == world.told("MessagePage")
    assert world.me.get(path, limit=2, before=newest["next_before"]).json == world.told("LastMessagePage")


@pytest.mark.parametrize(("body", "name"), [("text", "QueuedText"), ("template", "QueuedTemplate")])
def test_a_message_that_was_accepted_is_the_one_of_the_example(world: World, body: str, name: str) -> None:
    operation = OPERATIONS["sendMessage"]
    answer = ask(world, operation, bodies(operation)[body])
    answered, told = new(answer, world.told(name))
    assert answered == told
    assert answer.headers["location"] == f"{BASE_PATH}/messages/{answer.json['id']}"
    assert answer.headers["idempotent-replayed"] == "false"


def test_a_message_that_is_queued_again_is_the_one_of_the_example(world: World) -> None:
    told = world.told("QueuedText")
    world.become("unconfirmed")
    world.sql("update messages set twilio_sid = null, delivered_at = null where agency_id = :agency_id and id = :id",
              id=told["id"])  # fmt: skip
    assert world.me.post(f"/messages/{told['id']}/resend").json == told


def test_a_message_that_was_read_is_the_one_of_the_example(world: World) -> None:
    world.read()
    told = world.told("ReadMessage")
    assert world.me.get(f"/messages/{told['id']}").json == told


def test_a_message_that_did_not_arrive_is_the_one_of_the_example(world: World) -> None:
    told = world.told("FailedMessage")
    assert world.me.get(f"/messages/{told['id']}").json == told


@pytest.mark.parametrize("operation_id", ["receiveInboundMessage", "receiveMessageStatus"])
def test_a_webhook_is_answered_with_the_document_of_the_example(world: World, operation_id: str) -> None:
    assert ask(world, OPERATIONS[operation_id]).body.decode() == world.told("EmptyTwiml")


def test_what_twilio_posts_in_the_examples_is_what_is_read_afterwards(world: World) -> None:
    inbound = OPERATIONS["receiveInboundMessage"]
    for body in bodies(inbound).values():
        ask(world, inbound, {**body, "MessageSid": "SM" + uuid4().hex})
    by_phone = {each["contact_phone"]: each for each in world.me.get("/conversations").json["conversations"]}
    written = bodies(inbound)["whatsapp"]
    assert by_phone["+12025550143"]["last_message_preview"] == written["Body"]
    assert by_phone["+12025550143"]["contact_name"] == written["ProfileName"]
    thread = world.me.get(f"/conversations/{by_phone['+12025550177']['id']}/messages").json["messages"]
    picture = bodies(inbound)["mms"]
    assert thread[0]["media"] == [{"url": picture["MediaUrl0"], "content_type": picture["MediaContentType0"]}]


def test_the_probes_answer_as_in_the_examples(world: World) -> None:
    assert world.api.ask("GET", f"{BASE_PATH}/healthz").json == world.told("Alive")
    assert world.api.ask("GET", f"{BASE_PATH}/readyz").json == world.told("ReadyWithoutWorker")
    key = "insert into workers (worker_key, last_seen_at) values (1, clock_timestamp() - interval '1.4 seconds')"
    world.sql(key)
    ready, told = world.api.ask("GET", f"{BASE_PATH}/readyz").json, world.told("Ready")
    world.sql("delete from workers")
    assert ready["checks"].pop("worker_heartbeat_age_seconds") >= told["checks"].pop("worker_heartbeat_age_seconds")
    assert ready == told


# --- Errors -----------------------------------------------------------------------------------------------------------

Provoke = Callable[[World, Operation], Answer]


def plain(world: World, operation: Operation, method: str, headers: dict[str, str], body: bytes | None) -> Answer:
    token = {"Authorization": f"Bearer {world.me.token}"} if needs_token(DOCUMENT, operation) else {}
    return world.api.ask(method, path_of(operation), headers=(token | headers).items(), body=body)


def content_type(operation: Operation) -> str:
    return next(iter(resolve(DOCUMENT, operation.node["requestBody"])["content"]))


def send(body: Any) -> Provoke:
    return lambda world, operation: ask(world, operation, body)


def after(change: Callable[[World], None]) -> Provoke:
    def provoke(world: World, operation: Operation) -> Answer:
        if operation.node["operationId"] == "resendMessage":
            world.become("unconfirmed")
        change(world)
        return ask(world, operation)

    return provoke


def at(old: str, id_: str) -> Provoke:
    """With another id in the path; an example's instance has the documented one."""

    def provoke(world: World, operation: Operation) -> Answer:
        path = path_of(operation).replace(world.parameter(old), id_).removeprefix(BASE_PATH)
        caller = world.me
        return (
            caller.post(path, next(iter(bodies(operation).values()), None))
            if operation.method == "post"
            else caller.get(path)
        )

    return provoke


def as_role(role: str) -> Provoke:
    def provoke(world: World, operation: Operation) -> Answer:
        path, caller = path_of(operation).removeprefix(BASE_PATH), world.caller(role)
        if operation.method == "get":
            return caller.get(path)
        return caller.post(path, next(iter(bodies(operation).values()), None))

    return provoke


def with_query(**query: Any) -> Provoke:
    return lambda world, operation: (
        ask(world, operation, query=query)
        if needs_token(DOCUMENT, operation)
        else world.api.ask("GET", path_of(operation) + "?" + urlencode(query))
    )


def reuse_a_key(world: World, operation: Operation) -> Answer:
    assert ask(world, operation, {"content": "Something else"}, Idempotency_Key="one").status == 201
    return ask(world, operation, Idempotency_Key="one")


def foreign_message(world: World, operation: Operation) -> Answer:
    return ask(world, operation, query={"before": world.told("FailedMessage")["id"]})


def post_twice(world: World, operation: Operation) -> Answer:
    form = [*next(iter(bodies(operation).values())).items(), ("MessageSid", "SM" + "0" * 32)]
    return world.api.post_signed(path_of(operation), form)


def empty_id(world: World, operation: Operation) -> Answer:
    path = path_of(operation)
    for parameter in parameters(DOCUMENT, operation):
        if parameter["in"] == "path":
            path = path.replace(f"/{parameter['example']}", "/", 1)
            break
    token = [("Authorization", f"Bearer {world.me.token}")]
    return world.api.ask("POST", path, headers=[*token, ("Content-Type", content_type(operation))], body=b"{}")


FORGED = {"Authorization": "Bearer x.y.z", "Content-Type": "application/json"}
OTHER_ID = "01980f41-0000-7000-8000-000000000000"
NOT_ONE = "not-a-uuid"
PROVOKED: dict[str, Provoke] = {
    "InvalidListParameters": with_query(colour="red", status="new", limit=101),
    "CursorAndOffset": lambda world, operation: ask(
        world, operation, query={"offset": 0, "cursor": world.parameter("Cursor")}
    ),
    "TenantsDisagree": lambda world, operation: ask(
        world, operation, query={"tenant_id": OTHER_ID}, X_Tenant_ID=str(world.agency_id)
    ),
    "MalformedConversationId": at("ConversationId", NOT_ONE),
    "MalformedMessageId": at("MessageId", NOT_ONE),
    "ForeignBefore": foreign_message,
    "InvalidMessageFields": send({"content": "x" * 1601, "media_url": "http://a.example", "colour": "red"}),
    "NothingToSend": send({"media_type": "image/png"}),
    "NotJson": send(b"hello"),
    "RepeatedFormField": post_twice,
    "UnknownParameter": with_query(verbose=1),
    "Unauthenticated": lambda world, operation: plain(
        world,
        operation,
        operation.method.upper(),
        FORGED,
        None,
    ),
    "TenantForbidden": lambda world, operation: ask(world, operation, X_Tenant_ID=OTHER_ID),
    "RoleForbidden": as_role("viewer"),
    "RoleUnknown": as_role("janitor"),
    "AgencySuspended": after(World.suspend),
    "ConversationForbidden": at("ConversationId", OTHER_ID),
    "InvalidSignature": lambda world, operation: world.api.post_form(path_of(operation), b"MessageSid=SM1", "bm8="),
    "ConversationNotFound": at("ConversationId", OTHER_ID),
    "MessageNotFound": at("MessageId", OTHER_ID),
    "RouteNotFound": empty_id,
    "MethodNotAllowed": lambda world, operation: plain(world, operation, "DELETE", {}, None),
    "BodyTooLarge": lambda world, operation: plain(
        world,
        operation,
        operation.method.upper(),
        {"Content-Type": FORM if is_webhook(operation) else "application/json"},
        b"x" * 65_537,
    ),
    "UnsupportedMediaType": lambda world, operation: plain(
        world, operation, operation.method.upper(), {"Content-Type": "text/plain"}, b"x"
    ),
    "IdempotencyKeyReused": reuse_a_key,
    "ContactOptedOut": after(World.opt_out),
    "WhatsAppWindowClosed": after(World.close_window),
    "NotResendable": lambda world, operation: ask(world, operation),
    "HeadersTooLarge": lambda world, operation: plain(
        world, operation, operation.method.upper(), {"X-Long": "x" * 40_000}, None
    ),
}


def problem_examples() -> Iterator[tuple[str, Operation, str, str]]:
    """Operation id, operation, status and name of the component: every example of every error of every operation."""
    for operation_id, operation in OPERATIONS.items():
        for status, response in responses(DOCUMENT, operation):
            if status >= "400":
                [each] = response["content"].values()
                for reference in each["examples"].values():
                    yield operation_id, operation, status, reference["$ref"].rsplit("/", 1)[-1]


def code_of(name: str) -> str:
    return str(DOCUMENT["components"]["examples"][name]["value"]["code"])


def test_every_error_of_an_example_is_provoked_here_or_elsewhere() -> None:
    names = {name for *_, name in problem_examples()}
    assert {name for name in names if code_of(name) not in ELSEWHERE} == PROVOKED.keys()
    assert {code_of(name) for name in names - PROVOKED.keys()} == ELSEWHERE.keys()
    for code, path in ELSEWHERE.items():
        assert f'"{code}"' in ROOT.joinpath(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("operation", "status", "name"),
    [
        pytest.param(operation, status, name, id=f"{operation_id}-{status}-{name}")
        for operation_id, operation, status, name in problem_examples()
        if name in PROVOKED
    ],
)
def test_an_error_is_the_one_of_the_example(world: World, operation: Operation, status: str, name: str) -> None:
    told = {**world.told(name)}
    answer = PROVOKED[name](world, operation)
    answered = {**answer.json}
    for each in (told, answered):
        del each["request_id"], each["instance"]
    assert (str(answer.status), answered) == (status, told)
