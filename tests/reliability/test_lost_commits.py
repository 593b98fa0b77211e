"""The reply of a COMMIT is lost: the API says that it does not know, the worker calls nobody, nothing is doubled."""

import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from delivery.claiming import Claimer, Sending
from delivery.pace import Pace
from delivery.session import Session
from persistence.attempts import Job
from tenancy import transaction
from tenancy.transaction import Database, OutcomeUnknown, tenant_transaction
from tests.agencies import Agency, Urls
from tests.delivery.conftest import NOWHERE, Office, office, running, simulator, wait_until
from tests.reliability.postgres_proxy import PostgresProxy
from tests.serving import served

__all__ = ["office", "simulator"]


@pytest.fixture
def proxy(urls: Urls) -> Iterator[PostgresProxy]:
    with PostgresProxy(make_url(urls.app).port or 0) as relay:
        yield relay


def through(proxy: PostgresProxy, url: str) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


def test_a_send_whose_commit_reply_is_lost_is_answered_503_and_replayed_by_its_key(
    urls: Urls, proxy: PostgresProxy
) -> None:
    with served(urls, DATABASE_URL=through(proxy, urls.app)) as api:
        agency, stranger = api.new_agency(), api.new_agency()
        me, conversation, key = api.of(agency), api.converse(agency), str(uuid4())
        api.of(stranger).send(api.converse(stranger), "Once", key=key)
        proxy.lose_next_commit()
        first = me.send(conversation, "Once", key=key)
        assert first.refusal == (503, "outcome_unknown")
        assert proxy.lost.wait(60)
        second = me.send(conversation, "Once", key=key)
        assert (second.status, second.headers["idempotent-replayed"]) == (201, "true")
        rows = api.sql(agency, "select id from messages where agency_id = :agency_id and direction = 'outbound'")
        assert [str(row.id) for row in rows] == [second.json["id"]]
        assert len(api.sql(agency, "select 1 from outbox where agency_id = :agency_id")) == 1


def test_a_webhook_whose_commit_reply_is_lost_is_answered_503_and_the_repeat_changes_nothing(
    urls: Urls, proxy: PostgresProxy
) -> None:
    with served(urls, DATABASE_URL=through(proxy, urls.app)) as api:
        agency = api.new_agency()
        proxy.lose_next_commit()
        sid = "SM" + uuid4().hex
        # The lookup of the number is a transaction of its own, and rolled back or committed it changes nothing.
        answers = [api.receive(agency, "Hello", MessageSid=sid).status for _ in range(3)]
        assert answers[-1] == 200
        assert set(answers) <= {200, 503}
        rows = api.sql(agency, "select twilio_sid from messages where agency_id = :agency_id")
        assert [row.twilio_sid for row in rows] == [sid]


def test_a_worker_whose_claims_commit_reply_is_lost_calls_nobody_and_leaves_it_to_be_found_out(
    office: Office, proxy: PostgresProxy, urls: Urls, agency: Agency
) -> None:
    owner = Database(urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update agencies set resend_unconfirmed = true where agency_id = :agency_id"))
    owner.close()
    message_id = office.queue(agency, office.converse(agency), "once")
    relayed = Database(through(proxy, urls.worker), pool_size=2)
    claimer = Claimer(
        database=relayed,
        credentials=office.credentials,
        sending=Sending(NOWHERE, concurrency=4, validity_seconds=3600, first_look_seconds=0.0),
        pace=Pace(4, time.monotonic),
    )
    holding: dict[UUID, Job] = {}
    with transaction.session(urls.worker) as connection:
        session = Session(connection)
        proxy.lose_next_commit()
        with pytest.raises(OutcomeUnknown):
            claimer.claim(session, holding, set())
    relayed.close()
    assert office.state(agency, message_id) == "calling"
    assert holding == {}
    assert office.simulator.accepted == []
    with running(office):
        office.reconcile_until(lambda: office.state(agency, message_id) == "accepted")
    wait_until(lambda: office.message(agency, message_id)["twilio_sid"] is not None)
    assert [one["body"] for one in office.simulator.accepted] == ["once"]
