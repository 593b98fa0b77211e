"""What the API does when the server takes a transaction back: it begins anew, some times and no more."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.engine import make_url

from conversations_api.web.lanes import Limits
from tenancy.transaction import Conflict, Database, DatabaseUnavailable, tenant_transaction
from tests.agencies import Agency, Urls
from tests.api_client import Api
from tests.reliability.test_database_faults import cursor_of
from tests.serving import served

# The sequence counts the tries: what a transaction takes from it, no rollback gives back.
CONFLICTING = """
    create sequence tries;
    grant usage on sequence tries to faro_app;
    create function conflict() returns trigger language plpgsql as
    $$ begin
        if nextval('tries') <= {times} then
            raise exception 'taken back' using errcode = '{sqlstate}';
        end if;
        return null;
    end $$;
"""
ON_INSERT = "create trigger conflict after insert on messages for each row execute function conflict()"
AT_COMMIT = """create constraint trigger conflict after insert on messages
    deferrable initially deferred for each row execute function conflict()"""


def have_conflicts(urls: Urls, *, sqlstate: str, times: int, trigger: str = ON_INSERT) -> None:
    """The server's error for it, raised where it would be raised: so many times, then no more."""
    with cursor_of(urls.owner) as owner:
        owner.execute(CONFLICTING.format(sqlstate=sqlstate, times=times) + trigger)


def tries(urls: Urls) -> int:
    with cursor_of(urls.owner) as owner:
        owner.execute("select last_value from tries")
        [(number,)] = owner.fetchall()
    return int(number)


def contents(api: Api, agency: Agency) -> list[str]:
    rows = api.sql(agency, "select content from messages where agency_id = :agency_id order by sent_at")
    return [row.content for row in rows]


def test_who_loses_a_deadlock_is_done_again_and_its_client_sees_nothing_of_it(urls: Urls) -> None:
    database = make_url(urls.app).database
    with cursor_of(urls.superuser) as operator:
        # Whoever waits looks for a deadlock after this long: the API, long after the other one has begun to wait, too.
        for setting, value in {"deadlock_timeout": "4s", "lock_timeout": "60s", "statement_timeout": "60s"}.items():
            operator.execute(f"alter role faro_app in database {database} set {setting} = '{value}'")
    with served(urls, limits=Limits(handler_seconds=60.0)) as api:
        agency, other = api.new_agency(), api.new_agency()
        conversation, elsewhere = api.converse(agency), api.converse(other)
        with ThreadPoolExecutor(1) as pool:
            with cursor_of(urls.superuser) as first, cursor_of(urls.superuser) as looking:
                first.execute("set local deadlock_timeout = '120s'")
                first.execute("lock table outbox in access exclusive mode")
                sending = pool.submit(api.of(agency).send, conversation, "deadlocked")
                wait_for_a_lock(looking)
                # The API has this row, and waits for the table: it is the one that is ended.
                first.execute("update conversations set status = status where id = %s", (conversation,))
            answer = sending.result()
        assert answer.status == 201
        assert deadlocks(urls) == 1
        assert contents(api, agency) == ["Hello", "deadlocked"]
        assert len(api.sql(agency, "select 1 from outbox where agency_id = :agency_id")) == 1
        assert api.of(other).get(f"/conversations/{elsewhere}").json["last_message_preview"] == "Hello"


def wait_for_a_lock(looking: Any) -> None:
    deadline = time.monotonic() + 30
    while True:
        looking.execute("""select pg_stat_clear_snapshot(), count(*) from pg_stat_activity
            where datname = current_database() and usename = 'faro_app' and wait_event_type = 'Lock'""")
        [(_, waiting)] = looking.fetchall()
        if waiting:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def deadlocks(urls: Urls) -> int:
    """How many the server has counted; it tells some time after."""
    deadline = time.monotonic() + 60
    while True:
        with cursor_of(urls.superuser) as operator:
            operator.execute("select deadlocks from pg_stat_database where datname = current_database()")
            [(number,)] = operator.fetchall()
        if number or time.monotonic() > deadline:
            return int(number)
        time.sleep(0.2)


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_what_is_taken_back_every_time_is_503_after_three_repeats(urls: Urls, sqlstate: str) -> None:
    with served(urls) as api:
        agency, other = api.new_agency(), api.new_agency()
        conversation = api.converse(agency)
        api.converse(other, "look-alike")
        have_conflicts(urls, sqlstate=sqlstate, times=1000)
        answer = api.of(agency).send(conversation, "never")
        assert answer.refusal == (503, "database_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert tries(urls) == 1 + 3
        assert api.receive(agency, "never").refusal == (503, "database_unavailable")
        assert tries(urls) == 2 * (1 + 3)
        assert contents(api, agency) == ["Hello"]
        assert contents(api, other) == ["look-alike"]


def test_a_request_that_is_done_again_is_one_request_with_one_message(urls: Urls) -> None:
    with served(urls, RATE_LIMIT_SENDS_PER_MINUTE="2") as api:
        agency = api.new_agency()
        conversation, key = api.converse(agency), str(uuid4())
        have_conflicts(urls, sqlstate="40001", times=3)
        answer = api.of(agency).send(conversation, "at last", key=key)
        assert (answer.status, answer.headers["idempotent-replayed"]) == (201, "false")
        assert tries(urls) == 1 + 3
        assert contents(api, agency) == ["Hello", "at last"]
        assert api.of(agency).send(conversation, "another").status == 201
        assert api.of(agency).send(conversation, "a third").refusal == (429, "rate_limited")


def test_a_webhook_that_is_done_again_stores_its_message_once(urls: Urls) -> None:
    with served(urls) as api:
        agency = api.new_agency()
        have_conflicts(urls, sqlstate="40P01", times=2)
        assert api.receive(agency, "at last").status == 200
        assert tries(urls) == 1 + 2
        assert contents(api, agency) == ["at last"]


def test_who_has_waited_for_a_lock_in_vain_does_not_wait_again(urls: Urls) -> None:
    with served(urls) as api:
        agency = api.new_agency()
        conversation = api.converse(agency)
        have_conflicts(urls, sqlstate="55P03", times=1000)
        assert api.of(agency).send(conversation, "never").refusal == (503, "database_unavailable")
        assert tries(urls) == 1


def test_a_commit_of_which_nobody_knows_what_became_is_not_repeated(urls: Urls) -> None:
    with served(urls) as api:
        agency = api.new_agency()
        conversation = api.converse(agency)
        have_conflicts(urls, sqlstate="40001", times=1000, trigger=AT_COMMIT)
        # It goes out in one string with the NOTIFY behind it, which may have been what failed.
        assert api.of(agency).send(conversation, "unknown").refusal == (503, "outcome_unknown")
        assert tries(urls) == 1


def test_a_conflict_is_told_apart_from_what_waited_in_vain(database: Database, agency: Agency) -> None:
    for sqlstate, error in {"40P01": Conflict, "40001": Conflict, "55P03": DatabaseUnavailable}.items():
        raising = f"do $$ begin raise exception 'x' using errcode = '{sqlstate}'; end $$"
        with pytest.raises(DatabaseUnavailable) as raised, tenant_transaction(database, agency.id) as connection:
            connection.connection.exec_driver_sql(raising)
        assert type(raised.value) is error
