"""Another agency's row answers like a row that does not exist, whatever is tried with it, and stays as it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import text

from persistence import arrivals, attempts, conversations, idempotency, messages, outbox, provider_events, sends
from persistence.connection import TenantConnection
from persistence.errors import ConversationForbidden, ConversationNotFound, MessageNotFound
from tenancy import number_routing
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tests.agencies import Urls, insert_message
from tests.tenancy.rls import rows
from tests.tenancy.rls.world import connect, store

NOWHERE = UUID(int=404)
_AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def filled(urls: Urls) -> Urls:
    """A database of this test's own with three agencies' rows, to be changed for good."""
    connection = connect(urls.superuser)
    with connection, connection.cursor() as cursor:
        store(cursor)
    connection.close()
    return urls


def everything_but(urls: Urls, agency_id: UUID) -> dict[str, list[str]]:
    """Every row of every table that is not the agency's, as text."""
    connection = connect(urls.superuser)
    found = {}
    with connection, connection.cursor() as cursor:
        for table in (*rows.RIGHTS, "number_routing"):
            cursor.execute(f"select t::text from {table} t where agency_id <> %s order by 1", (str(agency_id),))  # noqa: S608
            found[table] = [line for (line,) in cursor.fetchall()]
    connection.close()
    return found


# Everything that persistence does with a row that is named by its id: (what is done, whose id it takes).
ATTEMPTS: dict[str, tuple[str, Callable[[TenantConnection, UUID], object]]] = {
    "read a conversation": ("conversations", lambda c, i: conversations.get(c, conversation_id=i)),
    "lock a conversation": ("conversations", lambda c, i: conversations.lock(c, conversation_id=i)),
    "send to a conversation": (
        "conversations",
        lambda c, i: sends.lock_for_sending(c, conversation_id=i, is_template=False),
    ),
    "opt a contact out": (
        "conversations",
        lambda c, i: conversations.set_opted_out(c, conversation_id=i, opted_out=True),
    ),
    "list a thread": ("conversations", lambda c, i: messages.list_page(c, conversation_id=i, limit=9, before=None)),
    "add to a thread": (
        "conversations",
        lambda c, i: insert_message(c, conversation_id=i, direction="inbound", status="received", content="Hello"),
    ),
    "promote in a conversation": ("conversations", lambda c, i: outbox.promote_next(c, conversation_id=i)),
    "filter by location": (
        "locations",
        lambda c, i: conversations.list_page(c, location_id=i, status=None, limit=9),
    ),
    "read a message": ("messages", lambda c, i: messages.get(c, message_id=i)),
    "find an outbound message": ("messages", lambda c, i: messages.find_outbound(c, message_id=i)),
    "advance a status": ("messages", lambda c, i: messages.advance_status(c, message_id=i, status="read")),
    "bind a SID": ("messages", lambda c, i: messages.bind_twilio_sid(c, message_id=i, twilio_sid="SM" + "0" * 32)),
    "list a history": ("messages", lambda c, i: provider_events.list_history(c, message_id=i)),
    "settle an outbox row": (
        "messages",
        lambda c, i: outbox.set_state(c, message_id=i, state="accepted", from_states=("queued",), delay_seconds=0),
    ),
    "find an outbox row": ("messages", lambda c, i: outbox.find_state(c, message_id=i)),
    "delete an outbox row": ("messages", lambda c, i: outbox.delete(c, message_id=i)),
    "count attempts": ("messages", lambda c, i: attempts.count_unknown(c, message_id=i)),
    "finish an attempt": ("messages", lambda c, i: attempts.finish(c, message_id=i, number=2, outcome="rejected")),
    "hold a channel": ("channels", lambda c, i: outbox.hold_channel(c, channel_id=i, seconds=60)),
}


def answer(urls: Urls, attempt: Callable[[TenantConnection, UUID], object], row_id: UUID) -> tuple[object, ...]:
    """What comes of an attempt as agency A, with the id asked for left out of it; undone if it succeeds."""
    database = Database(urls.app, pool_size=1, check_bindings=True)
    try:
        with tenant_transaction(database, rows.A) as connection:
            answered = attempt(connection, row_id)
            return ("answered", str(answered).replace(str(row_id), "the id"))
    except Exception as error:  # whatever it is, it is the same
        return (type(error), str(error).replace(str(row_id), "the id"))
    finally:
        database.close()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_another_agencys_row_answers_like_none_and_stays_as_it_is(filled: Urls, name: str) -> None:
    table, attempt = ATTEMPTS[name]
    before = everything_but(filled, rows.A)

    assert answer(filled, attempt, rows.key(table, rows.B, "own")) == answer(filled, attempt, NOWHERE)
    assert everything_but(filled, rows.A) == before


def test_the_same_attempts_work_on_rows_of_ones_own(filled: Urls) -> None:
    """Or else the two answers above would be alike for a worse reason."""
    nothing = {
        name
        for name, (table, attempt) in ATTEMPTS.items()
        if answer(filled, attempt, rows.key(table, rows.A, "own")) == answer(filled, attempt, NOWHERE)
    }
    # What returns nothing either way is seen in the rows, in the tests of its own module.
    assert nothing == {
        "lock a conversation",
        "opt a contact out",
        "promote in a conversation",
        "finish an attempt",
        "hold a channel",
    }


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("read a conversation", ConversationNotFound),
        ("send to a conversation", ConversationForbidden),
        ("list a thread", ConversationNotFound),
        ("read a message", MessageNotFound),
    ],
)
def test_another_agencys_row_is_missing_in_our_own_words(filled: Urls, name: str, error: type[Exception]) -> None:
    table, attempt = ATTEMPTS[name]
    assert answer(filled, attempt, rows.key(table, rows.B, "own"))[0] is error


def test_a_value_that_another_agency_has_is_free_to_use(filled: Urls) -> None:
    """What is unique is unique within its agency: neither refused nor silently dropped because of a foreign row."""
    theirs = {table: rows.row(table, rows.B, "own") for table in ("contacts", "messages", "idempotency_keys")}
    event = rows.row("provider_events", rows.B, "own")
    database = Database(filled.app, pool_size=1, check_bindings=True)
    with tenant_transaction(database, rows.A) as connection:
        phone, channel_id = theirs["contacts"]["phone"], rows.key("channels", rows.A, "own")
        sid = theirs["messages"]["twilio_sid"]
        arrivals.receive(connection, channel_id=channel_id, phone=phone, name="Ours", twilio_sid=sid)
        message = messages.insert(
            connection,
            conversation_id=rows.key("conversations", rows.A, "own"),
            direction="inbound",
            status="received",
            sent_at=_AT,
            twilio_sid=theirs["messages"]["twilio_sid"],
        )
        key = theirs["idempotency_keys"]["key"]
        assert isinstance(_begin(connection, rows.A, key, b"\x01"), sends.Sender)
        idempotency.insert(connection, key=key, fingerprint=b"\x01", message_id=message["id"], response="ours")
        assert provider_events.insert(
            connection,
            message_id=event["message_id"],
            attempt=None,
            twilio_sid=event["twilio_sid"],
            provider_status=event["provider_status"],
            error_code="",
            status="sent",
            payload={},
        )
    with tenant_transaction(database, rows.A) as connection:
        found = connection.execute(text("select agency_id, name from contacts where phone = :phone"), phone=phone).all()
        assert found == [(rows.A, "Ours")]
        assert _begin(connection, rows.A, key, b"\x01") == sends.FirstAnswer("ours", message["id"])
    with tenant_transaction(database, rows.B) as connection:
        theirs_still = _begin(connection, rows.B, key, b"\x00")
        assert isinstance(theirs_still, sends.FirstAnswer)
        assert theirs_still.response == rows.CANARIES[rows.B]
    database.close()


def _begin(
    connection: TenantConnection, agency_id: UUID, key: str, fingerprint: bytes
) -> sends.FirstAnswer | sends.Sender:
    conversation_id = rows.key("conversations", agency_id, "own")
    return sends.begin(connection, conversation_id=conversation_id, is_template=True, key=key, fingerprint=fingerprint)


def test_an_upsert_by_id_alone_would_be_refused_and_not_overwrite(filled: Urls) -> None:
    """`on conflict (id)` finds no index to decide by: every one of them begins with the agency."""
    connection = connect(filled.app)
    with connection.cursor() as cursor:
        cursor.execute(f"set local app.agency_id = '{rows.A}'")
        with pytest.raises(psycopg2.errors.InvalidColumnReference):
            cursor.execute(
                "insert into contacts (agency_id, id, phone) values (%s, %s, 'x') on conflict (id) do nothing",
                (str(rows.A), str(rows.key("contacts", rows.B, "own"))),
            )
    connection.close()


def test_deleting_an_agencys_rows_takes_none_of_another_with_them(filled: Urls) -> None:
    """No foreign key cascades, and none could reach across."""
    before = everything_but(filled, rows.A)
    database = Database(filled.owner, pool_size=1)
    with tenant_transaction(database, rows.A) as connection:
        connection.execute(text("delete from number_routing where agency_id = :agency_id"))
        for table in reversed(rows.RIGHTS):
            connection.execute(text(f"delete from {table}"))  # noqa: S608 - without a condition: the policy is one
    database.close()
    assert everything_but(filled, rows.A) == before
    assert everything_but(filled, NOWHERE) == before


def test_a_number_finds_its_agency_before_any_is_bound(filled: Urls) -> None:
    database = Database(filled.app, pool_size=1, check_bindings=True)
    route = rows.row("number_routing", rows.B, "own")
    with unbound_transaction(database, read_only=True) as connection:
        found = number_routing.find(connection, account_sid=route["account_sid"], addresses=["+1", route["address"]])
        assert found == number_routing.Route(rows.B, route["channel_id"])
        # The account is part of the key: another account's webhook does not reach this agency.
        other = rows.row("number_routing", rows.A, "own")["account_sid"]
        assert number_routing.find(connection, account_sid=other, addresses=[route["address"]]) is None
    database.close()


def test_the_worker_unbound_sees_the_outbox_and_no_message(filled: Urls) -> None:
    database = Database(filled.worker, pool_size=1, check_bindings=True)
    with unbound_transaction(database, read_only=True) as connection:
        seen = {
            table: connection.execute(text(f"select count(*) from {table}")).scalar()  # noqa: S608
            for table in rows.RIGHTS
            if "select" in rows.rights("faro_worker", table)
        }
    database.close()
    assert {table for table, number in seen.items() if number} == {"outbox"}


def test_a_statement_error_is_a_bug_and_not_an_answer(filled: Urls) -> None:
    """A binding that is no UUID cannot be made through the door; by force it is an error, never an empty answer."""
    database = Database(filled.app, pool_size=1)

    def ask() -> None:
        with tenant_transaction(database, rows.A) as connection:
            connection.connection.exec_driver_sql("set local app.agency_id = 'garbage'")
            connection.execute(text("select count(*) from messages"))

    with pytest.raises(sqlalchemy.exc.DataError):
        ask()
    database.close()


def test_a_failed_statement_that_is_passed_over_does_not_pass_for_a_commit(filled: Urls) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK, and the driver says nothing."""
    database = Database(filled.app, pool_size=1, check_bindings=True)
    with (
        pytest.raises(RuntimeError, match="passed over"),
        tenant_transaction(database, rows.A) as connection,
        pytest.raises(sqlalchemy.exc.DataError),
    ):
        connection.execute(text("select 1 / 0"))
    with tenant_transaction(database, rows.A) as connection:
        assert connection.execute(text("select 1")).scalar() == 1
    database.close()
