"""`conversations-api redact` as an operator starts it, beside the service that goes on serving."""

import time
from uuid import uuid4

from conversations_api.demo.invented_agencies import Agency
from tests import commands
from tests.stack import Stack

PHONE = "+14045550143"
WORDS = "what the person wrote"


def redact(stack: Stack, agency: Agency, *, phone: str = PHONE, **changed: str) -> tuple[int, list[str], str]:
    """Status, lines on standard output, and what standard error says."""
    names = ("SECRETS_KEY", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_BASE_URL")
    environment = {name: stack.environment[name] for name in names} | {"MIGRATION_DATABASE_URL": stack.urls.owner}
    result = commands.run("redact", "--agency", str(agency.id), "--phone", phone, environment=environment | changed)
    assert phone not in result.stdout + result.stderr
    assert WORDS not in result.stdout + result.stderr
    return result.returncode, result.stdout.splitlines(), result.stderr.strip()


def converse(stack: Stack, agency: Agency) -> str:
    """The person writes, and is answered; the id of the conversation, in which nothing is under way any more."""
    assert stack.write(agency.channels[1], PHONE, WORDS)[1] == 200
    (conversation,) = stack.conversations(agency)
    answer = stack.post(agency, f"/conversations/{conversation['id']}/messages", {"content": WORDS}, key=str(uuid4()))
    deadline = time.monotonic() + 60
    while stack.get(agency, f"/messages/{answer.json['id']}").json["status"] != "delivered":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    conversation_id: str = conversation["id"]
    return conversation_id


def contents(stack: Stack, agency: Agency, conversation_id: str) -> list[str]:
    return [message["content"] for message in stack.messages(agency, conversation_id)]


def test_an_operator_redacts_one_person_of_one_agency(stack: Stack) -> None:
    mine, other = stack.new_agency(), stack.new_agency()
    threads = {agency.id: converse(stack, agency) for agency in (mine, other)}
    status, lines, error = redact(stack, mine)
    assert (status, error) == (0, "")
    assert lines[-1] == "redacted here: 2; at Twilio: 2; not found at Twilio: 0; left: 0"
    assert contents(stack, mine, threads[mine.id]) == ["", ""]
    assert contents(stack, other, threads[other.id]) == [WORDS, WORDS]
    assert redact(stack, mine)[:2] == (0, ["redacted here: 0", lines[-1].replace("2", "0")])


def test_what_twilio_does_not_confirm_ends_the_command_with_a_sentence_and_is_done_the_next_time(stack: Stack) -> None:
    mine = stack.new_agency()
    thread = converse(stack, mine)
    stack.simulator.set_faults({"dice": [{"kind": "redaction_error", "probability": 1.0}]})
    status, lines, error = redact(stack, mine)
    stack.simulator.set_faults({})
    assert status == 1
    assert lines[-1] == "redacted here: 2; at Twilio: 0; not found at Twilio: 0; left: 2"
    assert error == (
        "conversations-api redact: some messages are left: Twilio has not confirmed 2 (http_503); run it again later"
    )
    assert contents(stack, mine, thread) == ["", ""]
    status, lines, error = redact(stack, mine)
    assert (status, lines[-1], error) == (0, "redacted here: 0; at Twilio: 2; not found at Twilio: 0; left: 0", "")


def test_what_cannot_be_done_is_refused_in_one_line(stack: Stack) -> None:
    mine = stack.new_agency()
    refused = {
        "no contact": redact(stack, mine),
        "no token": redact(stack, mine, SECRETS_KEY=""),
        "a superuser": redact(stack, mine, MIGRATION_DATABASE_URL=stack.urls.superuser),
        "nobody there": redact(stack, mine, MIGRATION_DATABASE_URL="postgresql://x:x@127.0.0.1:9/x"),
    }
    assert {name: (status, error) for name, (status, _, error) in refused.items()} == {
        "no contact": (1, "conversations-api redact: the agency has no contact with this phone number"),
        "no token": (2, "conversations-api redact: SECRETS_KEY is not set"),
        "a superuser": (
            1,
            "conversations-api redact: MIGRATION_DATABASE_URL: the role sees past row-level security",
        ),
        "nobody there": (
            1,
            "conversations-api redact: MIGRATION_DATABASE_URL: the database does not answer, or refuses the login; "
            "run it again",
        ),
    }


def test_a_number_that_is_none_is_refused_without_being_repeated(stack: Stack) -> None:
    status, lines, error = redact(stack, stack.new_agency(), phone="0404 555 0143")
    assert (status, lines) == (2, [])
    assert error.endswith("argument --phone: must be + and 7 to 15 digits")
