"""What the operations page tells an operator to paste does what it says, and to nobody else's rows."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from uuid import UUID

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy.engine import make_url

from delivery import inbound
from persistence import agencies, attempts, conversations, messages, outbox
from persistence.connection import TenantConnection
from tenancy import number_routing, twilio_credentials
from tenancy.transaction import Database, session, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials
from tests.agencies import Agency, Urls, insert_message, make_conversation

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
BLOCKS = {
    name: textwrap.dedent(body)
    for name, body in re.findall(r"^ *<!-- run[^:]*: ([a-z -]+) -->\n *```\w+\n(.*?)^ *```$", PAGE, re.M | re.S)
}

# The ids of the page's example.
AGENCY_ID = UUID("0198a1f2-6c00-7d3e-9b51-2f4c8e7a1d60")
ACCOUNT_SID = "AC00000000000000000000000000000001"


def run(url: str, block: str, **replacements: str) -> list[tuple[object, ...]]:
    """Run a block of the page as it stands, but for the words that stand for something else; its last rows."""
    statements = BLOCKS[block]
    for old, new in replacements.items():
        assert old.replace("_", " ") in statements
        statements = statements.replace(old.replace("_", " "), new)
    with session(url) as connection, connection.cursor() as cursor:
        cursor.execute(statements)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def added(urls: Urls, other_agency: Agency) -> UUID:
    """The agency of the page, beside another one."""
    run(urls.owner, "new agency")
    return AGENCY_ID


def queue(connection: TenantConnection, conversation_id: UUID, channel_id: UUID) -> UUID:
    message = insert_message(
        connection, conversation_id=conversation_id, direction="outbound", status="queued", content="Yes"
    )
    outbox.insert(
        connection,
        message_id=message["id"],
        conversation_id=conversation_id,
        channel_id=channel_id,
        sent_at=message["sent_at"],
    )
    return UUID(str(message["id"]))


def test_every_statement_on_the_page_is_run_here() -> None:
    assert PAGE.count("```sql") + PAGE.count("```python") == len(BLOCKS)
    tests = [pathlib.Path(__file__), pathlib.Path(__file__).with_name("test_password_rotation.py")]
    run_here = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert [name for name in BLOCKS if f'"{name}"' not in run_here] == []


@pytest.mark.parametrize("address", ["+12025550100", "whatsapp:+12025550100"])
def test_a_new_agency_receives_at_its_numbers(database: Database, added: UUID, address: str) -> None:
    with unbound_transaction(database, read_only=True) as unbound:
        route = number_routing.find(unbound, account_sid=ACCOUNT_SID, addresses=[address])
    assert route is not None
    assert route.agency_id == added
    with tenant_transaction(database, added) as connection:
        message = inbound.InboundMessage(twilio_sid="SM1", sender="+12025550177", content="Hello")
        inbound.store(connection, channel_id=route.channel_id, message=message)
        page = conversations.list_page(connection, location_id=None, status=None, limit=10)
    assert [one["channel"] for one in json.loads(page.conversations)] == [
        "whatsapp" if "whatsapp" in address else "sms"
    ]


def test_a_number_that_another_agency_has_is_refused(urls: Urls, added: UUID) -> None:
    with pytest.raises(psycopg2.errors.UniqueViolation, match="number_routing"):
        run(urls.owner, "new agency", **{str(added): "0198a1f2-6c00-7d3e-9b51-2f4c8e7a1d61"})


def test_a_number_that_was_given_up_is_free_for_another_agency(urls: Urls, database: Database, added: UUID) -> None:
    run(urls.owner, "give up a number")
    with unbound_transaction(database, read_only=True) as unbound:
        addresses = {number.address for number in number_routing.list_numbers(unbound) if number.agency_id == added}
    assert addresses == {"whatsapp:+12025550100"}


def test_a_member_holds_the_role_in_that_agency_only(
    urls: Urls, database: Database, added: UUID, other_agency: Agency
) -> None:
    run(urls.owner, "member")
    roles = []
    for agency_id in (added, other_agency.id):
        with tenant_transaction(database, agency_id, read_only=True) as connection:
            roles.append(agencies.find_role(connection, user_id="user_2aB3cD4e"))
    assert roles == ["manager", None]


def test_suspending_and_resending_are_the_choice_of_one_agency(
    urls: Urls, database: Database, added: UUID, other_agency: Agency
) -> None:
    run(urls.owner, "suspend")
    run(urls.owner, "resend")
    found = []
    for agency_id in (added, other_agency.id):
        with tenant_transaction(database, agency_id, read_only=True) as connection:
            found.append((agencies.find_status(connection), agencies.resends_unconfirmed(connection)))
    assert found == [("suspended", True), ("active", False)]


def test_an_own_account_is_stored_exchanged_and_encrypted_anew(urls: Urls, database: Database, added: UUID) -> None:
    old_key, new_key = twilio_credentials.generate_key(), twilio_credentials.generate_key()
    old, both = TwilioCredentials(old_key), TwilioCredentials(f"{new_key},{old_key}")
    run(urls.owner, "own account", **{"gAAAA... (encrypted)": old.encrypt("first token")})
    run(urls.owner, "exchange token", **{"gAAAA... (the new one, encrypted)": old.encrypt("second token")})
    subprocess.run(
        [sys.executable, "-c", BLOCKS["re-encrypt"]],
        cwd=ROOT,
        env={**os.environ, "SECRETS_KEY": f"{new_key},{old_key}", "MIGRATION_DATABASE_URL": urls.owner},
        check=True,
        timeout=60,
    )
    with tenant_transaction(database, added, read_only=True) as connection:
        for credentials in (both, TwilioCredentials(new_key)):
            tokens = credentials.find_tokens(connection, account_sid=ACCOUNT_SID)
            assert tokens == ("second token", "first token")


def test_the_worker_sees_every_agencys_queue(
    urls: Urls, database: Database, agency: Agency, other_agency: Agency
) -> None:
    for each in (agency, other_agency):
        with tenant_transaction(database, each.id) as connection:
            conversation_id = make_conversation(connection, each)
            queue(connection, conversation_id, each.sms_id)
            queue(connection, conversation_id, each.sms_id)
    assert [row[:2] for row in run(urls.worker, "queue")] == [("queued", 2), ("waiting", 2)]


@pytest.fixture
def backup_url(urls: Urls) -> Iterator[str]:
    """The backup role of the page, on this test's database; roles are shared by all databases of the server."""
    superuser = make_url(urls.superuser)
    run(urls.superuser, "backup role", **{"database faro": f"database {superuser.database}"})
    with session(urls.superuser) as connection, connection.cursor() as cursor:
        cursor.execute("alter role faro_backup password 'backup'")
    yield superuser.set(username="faro_backup", password="backup").render_as_string(hide_password=False)
    with session(urls.superuser) as connection, connection.cursor() as cursor:
        cursor.execute("drop owned by faro_backup; drop role faro_backup")


def test_only_the_backup_role_can_copy_every_agencys_rows(
    urls: Urls, added: UUID, other_agency: Agency, backup_url: str
) -> None:
    # As pg_dump does it: an error rather than rows that are missing.
    whole = "set row_security = off; select agency_id::text from locations order by agency_id"
    with session(backup_url) as connection, connection.cursor() as cursor:
        cursor.execute(whole)
        assert cursor.fetchall() == sorted([(str(added),), (str(other_agency.id),)])
    for url in (urls.owner, urls.app, urls.worker):
        refused = pytest.raises(psycopg2.errors.InsufficientPrivilege)
        with session(url) as connection, connection.cursor() as cursor, refused:
            cursor.execute(whole)


def test_the_server_probes_its_workers(urls: Urls) -> None:
    run(urls.superuser, "dead hosts", **{"database faro": f"database {make_url(urls.superuser).database}"})
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    with session(urls.worker) as connection, connection.cursor() as cursor:
        cursor.execute("select setting from pg_settings where name = any(%s) order by name", (list(names),))
        assert cursor.fetchall() == [("3",), ("10",), ("5",), ("25000",)]


def test_after_a_restore_nothing_is_sent_that_may_have_been_sent(
    urls: Urls, database: Database, agency: Agency, other_agency: Agency
) -> None:
    queued = {}
    for each in (agency, other_agency):
        with tenant_transaction(database, each.id) as connection:
            conversation_id = make_conversation(connection, each)
            queued[each.id] = [queue(connection, conversation_id, each.sms_id) for _ in range(3)]
    for _ in range(2):  # the second time there is nothing left to change
        run(urls.superuser, "after a restore")
        for agency_id, ids in queued.items():
            with tenant_transaction(database, agency_id, read_only=True) as connection:
                standings = [outbox.find(connection, message_id=each) for each in ids]
                statuses = {messages.get(connection, message_id=each)["status"] for each in ids}
                unknown = [attempts.count_unknown(connection, message_id=each) for each in ids]
            assert standings == [outbox.Standing(state, 1) for state in ("unknown", "waiting", "waiting")]
            assert (statuses, unknown) == ({"unconfirmed"}, [1, 1, 1])


def test_after_a_restore_what_waits_is_looked_into_too_and_what_comes_new_is_sent(
    urls: Urls, database: Database, agency: Agency
) -> None:
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = make_conversation(connection, agency)
        ids = [queue(connection, conversation_id, agency.sms_id) for _ in range(2)]
    run(urls.superuser, "after a restore")
    with tenant_transaction(database, agency.id) as connection:
        ids.append(queue(connection, conversation_id, agency.sms_id))
    states = []
    for each in ids:
        with tenant_transaction(database, agency.id) as connection:
            states.append(outbox.find_state(connection, message_id=each))
            outbox.delete(connection, message_id=each)
            outbox.promote_next(connection, conversation_id=conversation_id)
    assert states == ["unknown", "unknown", "queued"]
