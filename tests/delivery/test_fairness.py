"""A backlog of one agency costs the others nothing: neither their turn nor the time of the statements."""

import json
import threading
import time
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import TextClause, text

from persistence import acceptances, attempts, outbox, outbox_work, prepared
from tenancy import checkouts, transaction
from tenancy.transaction import Database, tenant_transaction, unbound_transaction
from tests.agencies import Agency
from tests.delivery.conftest import Office, wait_until

BACKLOG = 100_000
# Only as many rows have a message behind them as can be reached within a test; the rest weigh the same in the outbox.
WITH_A_MESSAGE = 2_000
# More pages than any of the statements reads when its index fits, far fewer than the backlog has.
FEW_PAGES = 1_500
SETTINGS_OF_JOBS = "set local join_collapse_limit = 1; set local enable_mergejoin = off"
EXPLAIN = "explain (analyze, buffers, format json) "

CONVERSATIONS = """
    with made as (
        insert into contacts (agency_id, id, phone)
        select :agency_id, gen_random_uuid(), '+1303' || lpad(number::text, 7, '0')
        from generate_series(1, :count) as number
        returning id
    ),
    opened as (
        insert into conversations (agency_id, id, location_id, channel_id, contact_id, last_message_at,
            last_message_direction)
        select :agency_id, gen_random_uuid(), :location_id, :channel_id, id, clock_timestamp(), 'inbound'
        from made
        returning id
    )
    insert into messages (agency_id, id, conversation_id, direction, content, status, sent_at)
    select :agency_id, gen_random_uuid(), id, 'outbound', 'backlog', 'queued', clock_timestamp()
    from opened"""
ONE_THREAD = """
    insert into messages (agency_id, id, conversation_id, direction, content, status, sent_at)
    select :agency_id, gen_random_uuid(), :conversation_id, 'outbound', 'backlog', 'queued',
        clock_timestamp() + make_interval(secs => number)
    from generate_series(1, :count) as number"""
QUEUE = """
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
    select agency_id, id, conversation_id, :channel_id, sent_at,
        case row_number() over (partition by conversation_id order by sent_at, id)
            when 1 then 'queued' else 'waiting' end
    from messages
    where agency_id = :agency_id
    and content = 'backlog'"""
BARE_ROWS = """
    insert into outbox (agency_id, message_id, conversation_id, channel_id, sent_at, state)
    select :agency_id, gen_random_uuid(), gen_random_uuid(), :channel_id, clock_timestamp(), 'queued'
    from generate_series(1, :count)"""


@pytest.fixture
def busy(office: Office, other_agency: Agency) -> Agency:
    """An agency with a message queued in each of 100,000 conversations."""
    location_id = other_agency.location_id
    _fill(office, other_agency, CONVERSATIONS, location_id=location_id, count=WITH_A_MESSAGE)
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, other_agency.id) as connection:
        rest = {"count": BACKLOG - WITH_A_MESSAGE, "channel_id": other_agency.sms_id}
        connection.execute(text(BARE_ROWS), **rest)
        connection.execute(text("analyze outbox"))
    owner.close()
    return other_agency


@pytest.fixture
def long_thread(office: Office, other_agency: Agency) -> UUID:
    """A conversation with 100,000 messages queued."""
    conversation_id = office.converse(other_agency)
    _fill(office, other_agency, ONE_THREAD, conversation_id=conversation_id, count=BACKLOG)
    return conversation_id


def _fill(office: Office, agency: Agency, messages: str, **parameters: Any) -> None:
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text(messages), channel_id=agency.sms_id, **parameters)
        connection.execute(text(QUEUE), channel_id=agency.sms_id)
        connection.execute(text("analyze outbox"))
    owner.close()


def _pages(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def _explain(rows: Any) -> dict[str, Any]:
    value = rows.scalar_one()
    plan: dict[str, Any] = (json.loads(value) if isinstance(value, str) else value)[0]["Plan"]
    return plan


def _explained(statement: Any) -> Any:
    return text(EXPLAIN + statement.text)


def _planned(connection: sqlalchemy.Connection, statement: TextClause, values: dict[str, Any]) -> dict[str, Any]:
    """What the server does when it is asked for the statement by its name."""
    form = prepared.find(statement, values)
    assert form is not None
    connection.exec_driver_sql(form.prepare.replace(form.name, "planned").replace("%", "%%"))
    plan = _explain(connection.exec_driver_sql(EXPLAIN + form.execute.replace(form.name, "planned"), values))
    connection.exec_driver_sql("deallocate planned")
    return plan


def test_a_quiet_agency_starts_within_five_seconds_beside_a_hundred_thousand_queued(
    office: Office, agency: Agency, busy: Agency
) -> None:
    # The carrier is slow, too, so that every place of the worker is taken when the quiet agency's message comes.
    office.simulator.set_faults({"latency_ms": 800})
    conversation_id = office.converse(agency)
    worker = office.new_worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: len(office.simulator.accepted) > 20)
        queued_at = time.monotonic()
        office.queue(agency, conversation_id, "quiet")
        wait_until(lambda: any(one["body"] == "quiet" for one in office.simulator.accepted[-200:]))
        assert time.monotonic() - queued_at < 5
    finally:
        worker.stop()
        thread.join(timeout=30)


def test_a_claim_takes_no_more_than_there_are_places_and_of_each_agency_in_turn(
    office: Office, agency: Agency, other_agency: Agency
) -> None:
    for whose in (agency, other_agency):
        for number in range(3):
            office.queue(whose, office.converse(whose, phone=f"+1202555010{number}"), "Hello")
    with unbound_transaction(office.worker_database) as connection:
        taken = [outbox_work.claim(connection, worker_key=1, limit=4, per_agency=16) for _ in range(2)]
    assert [len(claims) for claims in taken] == [4, 2]
    for claims in taken:
        assert Counter(claim.agency_id for claim in claims) == dict.fromkeys(
            (agency.id, other_agency.id), len(claims) // 2
        )


@pytest.mark.parametrize("by_name", [True, False])
def test_a_claim_reads_little_of_a_hundred_thousand_queued(
    office: Office, agency: Agency, busy: Agency, by_name: bool
) -> None:
    """Also with the plan that it gets where it is prepared, which is made for values that nobody knows."""
    office.queue(agency, office.converse(agency), "quiet")
    values = {"worker_key": 1, "most": 64, "per_agency": 16, "passed_over": []}
    with unbound_transaction(office.worker_database) as connection:
        if by_name:
            plan = _planned(connection.connection, outbox_work.CLAIM, values)
        else:
            plan = _explain(connection.execute(_explained(outbox_work.CLAIM), **values))
        assert plan["Actual Rows"] == 17
        assert _pages(plan) < FEW_PAGES


@pytest.mark.parametrize(
    "statement",
    [
        attempts.LIST_JOBS,
        attempts.START,
        attempts.MARK_SENDING,
        acceptances.LOCK_CONVERSATIONS,
        acceptances.FOLLOW,
        acceptances.FINISH,
        acceptances.PROMOTE,
        acceptances.BIND,
    ],
    ids=lambda statement: " ".join(statement.text.split()[:3]),
)
def test_what_is_done_about_a_few_reads_little_of_a_hundred_thousand_queued(
    office: Office, busy: Agency, statement: TextClause
) -> None:
    """Asked for by its name: the plan is made for as many ids as there may be."""
    with unbound_transaction(office.worker_database) as connection:
        claims = outbox_work.claim(connection, worker_key=1, limit=16, per_agency=16)
        assert {claim.agency_id for claim in claims} == {busy.id}
        values = {
            "agency_id": busy.id,
            "message_ids": [claim.message_id for claim in claims],
            "conversation_ids": [claim.conversation_id for claim in claims],
            "twilio_sids": "{}",
            "numbers": "{}",
            "sources": ["queued"],
        }
        plan = _planned(transaction.bind(connection, busy.id).connection, statement, values)
    assert _pages(plan) < FEW_PAGES


def test_what_was_planned_for_an_empty_outbox_is_planned_anew_for_a_hundred_thousand(
    office: Office, other_agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has analyzed it since. With plans that stay, a claim reads 6,800 pages, and PROMOTE 18,000."""
    monkeypatch.setattr(checkouts, "PLANS_SECONDS", 0.0)
    owner, worker = Database(office.urls.owner, pool_size=1), Database(office.urls.worker, pool_size=1)
    ids = [other_agency.id] * 10
    values = {
        "agency_id": ids[0],
        "message_id": ids[0],
        "conversation_id": ids[0],
        "message_ids": ids,
        "conversation_ids": ids,
        "passed_over": [],
        "worker_key": 1,
        "most": 64,
        "per_agency": 16,
    }
    statements = (
        *(outbox_work.CLAIM, attempts.LIST_JOBS, attempts.START),
        *(acceptances.FOLLOW, acceptances.PROMOTE, outbox.PROMOTE_NEXT, outbox.FIND),
    )
    forms = [prepared.find(statement, values) for statement in statements]
    with tenant_transaction(owner, other_agency.id) as connection:
        connection.execute(text("analyze outbox, messages, conversations"))
    with unbound_transaction(worker) as connection:
        connection.connection.exec_driver_sql(SETTINGS_OF_JOBS)
        for form in forms:
            assert form is not None
            connection.connection.exec_driver_sql(form.prepare.replace("%", "%%"))
            connection.connection.exec_driver_sql("explain " + form.execute, values)
    with tenant_transaction(owner, other_agency.id) as connection:
        rest = {"count": BACKLOG, "channel_id": other_agency.sms_id}
        connection.execute(text(BARE_ROWS), **rest)
    for form in forms:
        assert form is not None
        with tenant_transaction(worker, other_agency.id) as connection:
            connection.connection.exec_driver_sql(SETTINGS_OF_JOBS)
            plan = _explain(connection.connection.exec_driver_sql(EXPLAIN + form.execute, values))
        assert _pages(plan) < 2 * FEW_PAGES, form.prepare
    owner.close()
    worker.close()


def test_looking_after_a_hundred_thousand_queued_reads_little_of_them(
    office: Office, agency: Agency, busy: Agency
) -> None:
    office.queue(agency, office.converse(agency), "quiet")
    with unbound_transaction(office.worker_database) as connection:
        for statement, parameters in (
            (outbox_work.TAKE_DUE, {"seconds": 60, "grace_seconds": 60, "limit": 100}),
            (outbox_work.TAKE_FOLLOWED, {"seconds": 180, "young_seconds": 90, "limit": 20_000}),
            (outbox_work.LIST_STUCK, {"limit": 100}),
        ):
            assert _pages(_explain(connection.execute(_explained(statement), **parameters))) < FEW_PAGES


def test_an_outage_beside_a_hundred_thousand_queued_puts_off_few_at_a_time_and_none_twice(
    office: Office, agency: Agency, busy: Agency
) -> None:
    mine = office.queue(agency, office.converse(agency), "quiet")
    put_off = text("""
        select count(*)
        from outbox
        where agency_id = :agency_id
        and available_at > clock_timestamp() + interval '30 seconds'""")
    with tenant_transaction(office.worker_database, busy.id) as tenant:
        asked = [outbox.hold_channel(tenant, channel_id=busy.sms_id, seconds=60.0) for _ in range(3)]
        assert asked == [2000, 2000, 2000]
        assert tenant.execute(put_off).scalar_one() == 6000
    with unbound_transaction(office.worker_database) as connection:
        claims = outbox_work.claim(connection, worker_key=1, limit=64, per_agency=64)
    assert mine in {claim.message_id for claim in claims}


def test_a_thread_of_a_hundred_thousand_goes_on_without_being_read(
    office: Office, other_agency: Agency, long_thread: UUID
) -> None:
    with unbound_transaction(office.worker_database) as connection:
        claims = outbox_work.claim(connection, worker_key=1, limit=64, per_agency=16)
    (claim,) = claims
    assert claim.conversation_id == long_thread
    with tenant_transaction(office.worker_database, other_agency.id) as tenant:
        outbox.delete(tenant, message_id=claim.message_id)
        plan = _explain(tenant.execute(_explained(outbox.PROMOTE_NEXT), conversation_id=long_thread))
        assert plan["Actual Rows"] == 1
        assert _pages(plan) < FEW_PAGES
    with unbound_transaction(office.worker_database) as connection:
        plan = _explain(connection.execute(_explained(outbox_work.LIST_STUCK), limit=100))
        assert _pages(plan) < FEW_PAGES
    with tenant_transaction(office.database, other_agency.id) as tenant:
        parameters = {"message_id": claim.message_id, "channel_id": other_agency.sms_id, "sent_at": "now", "attempt": 0}
        plan = _explain(tenant.execute(_explained(outbox.INSERT), conversation_id=long_thread, **parameters))
        assert _pages(plan) < FEW_PAGES
