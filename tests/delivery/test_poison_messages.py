"""A message that breaks whoever tries to send it: tried so often and no more, an alarm, and nobody waits behind it."""

import logging
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from delivery import claiming, metrics, retry_policy
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency
from tests.delivery.conftest import Office, running, wait_until
from tests.delivery.test_crash_points import crash, let_resend


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that an alarm was raised over."""
    return [getattr(one, "message_id", "") for one in caplog.records if one.getMessage() == "poison_message"]


def alarms_counted() -> float:
    return metrics.REGISTRY.get_sample_value("faro_reconciler_results_total", {"result": "poison_message"}) or 0.0


def attempts_of(office: Office, agency: Agency, message_id: UUID) -> list[tuple[str, str]]:
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        rows = connection.execute(
            text("""
                select outcome, reason
                from attempts
                where agency_id = :agency_id
                and message_id = :message_id
                order by number"""),
            message_id=message_id,
        )
        return [(row.outcome, row.reason) for row in rows]


def change(office: Office, agency: Agency, statement: str, **parameters: object) -> None:
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text(statement), **parameters)
    owner.close()


def spoil(office: Office, agency: Agency, message_id: UUID) -> None:
    """Leave a row that no code of ours writes, and that breaks the code that reads it."""
    change(
        office,
        agency,
        "update messages set template = '\"no object\"' where agency_id = :agency_id and id = :message_id",
        message_id=message_id,
    )


def test_a_message_that_cannot_be_made_a_request_of_fails_as_internal_after_five_attempts(
    office: Office, agency: Agency, other_agency: Agency, caplog: pytest.LogCaptureFixture
) -> None:
    before = alarms_counted()
    conversation_id = office.converse(agency)
    poison = office.queue(agency, conversation_id, "poison")
    behind = office.queue(agency, conversation_id, "behind")
    beside = office.queue(agency, office.converse(agency, "+12025550177"), "beside")
    theirs = office.queue(other_agency, office.converse(other_agency), "poison")
    spoil(office, agency, poison)
    with caplog.at_level(logging.ERROR), running(office):
        wait_until(lambda: office.state(agency, beside) == office.state(other_agency, theirs) == "accepted")
        wait_until(lambda: office.message(agency, poison)["status"] == "failed")
        wait_until(lambda: office.state(agency, behind) == "accepted")
    assert office.message(agency, poison)["error"]["code"] == "internal"
    assert attempts_of(office, agency, poison) == [("not_processed", "error_AttributeError")] * 5
    assert retry_policy.MOST_BROKEN_ATTEMPTS == 5
    assert alarms(caplog) == [str(poison)]
    assert alarms_counted() == before + 1
    assert sorted(one["body"] for one in office.simulator.accepted) == ["behind", "beside", "poison"]
    assert office.message(other_agency, theirs)["status"] == "sending"


def test_a_message_that_kills_each_worker_is_not_said_to_have_failed_and_is_tried_twice_only(
    office: Office, agency: Agency, other_agency: Agency, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    let_resend(office, agency)
    conversation_id = office.converse(agency)
    poison = office.queue(agency, conversation_id, "poison")
    behind = office.queue(agency, conversation_id, "behind")
    # Nobody can tell from outside that not a byte was written.
    crash(office, tmp_path, "connected_nothing_written")
    office.reconcile_until(lambda: office.state(agency, poison) == "queued")
    crash(office, tmp_path, "connected_nothing_written")
    theirs = office.queue(other_agency, office.converse(other_agency), "poison")
    with caplog.at_level(logging.ERROR):
        office.reconcile_until(lambda: office.state(agency, poison) is None)
    message = office.message(agency, poison)
    assert (message["status"], message["error"]["code"]) == ("unconfirmed", "internal")
    assert attempts_of(office, agency, poison) == [("unknown", "worker_ended")] * 2
    assert alarms(caplog) == [str(poison)]
    with running(office):
        wait_until(lambda: office.state(agency, behind) == office.state(other_agency, theirs) == "accepted")
    assert sorted(one["body"] for one in office.simulator.accepted) == ["behind", "poison"]


def test_one_death_of_a_worker_is_nobodys_poison(
    office: Office, agency: Agency, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bystander = office.queue(agency, office.converse(agency), "bystander")
    crash(office, tmp_path, "connected_nothing_written")
    with caplog.at_level(logging.ERROR):
        office.reconcile_until(lambda: office.state(agency, bystander) is None)
    message = office.message(agency, bystander)
    assert (message["status"], message["error"]) == ("unconfirmed", None)
    assert alarms(caplog) == []


def test_a_message_whose_attempt_cannot_be_recorded_is_put_off_and_the_others_are_sent(
    office: Office, agency: Agency, other_agency: Agency, caplog: pytest.LogCaptureFixture
) -> None:
    poison = office.queue(agency, office.converse(agency), "poison")
    # An attempt that the outbox knows nothing of, as after a restore of parts.
    change(
        office,
        agency,
        "insert into attempts (agency_id, message_id, number, worker_key) values (:agency_id, :message_id, 1, 7)",
        message_id=poison,
    )
    beside = [office.queue(agency, office.converse(agency, f"+1202555{n:04d}"), "beside") for n in range(5)]
    theirs = office.queue(other_agency, office.converse(other_agency), "theirs")
    with caplog.at_level(logging.ERROR), running(office):
        wait_until(lambda: {office.state(agency, one) for one in beside} == {"accepted"})
        wait_until(lambda: office.state(other_agency, theirs) == "accepted")
        wait_until(lambda: any(getattr(one, "message_id", "") == str(poison) for one in caplog.records))
    assert office.state(agency, poison) == "queued"
    assert office.message(agency, poison)["status"] == "queued"
    with tenant_transaction(office.database, agency.id, read_only=True) as connection:
        seconds = connection.execute(
            text("""
                select extract(epoch from available_at - clock_timestamp())::float8
                from outbox
                where agency_id = :agency_id
                and message_id = :message_id"""),
            message_id=poison,
        ).scalar_one()
    assert claiming.PUT_OFF_SECONDS - 60 < seconds <= claiming.PUT_OFF_SECONDS
