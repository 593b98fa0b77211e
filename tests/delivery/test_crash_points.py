"""The worker is killed with SIGKILL at each named point: nothing is lost, nothing is sent twice, everything settles."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, Agency
from tests.delivery.conftest import AUTH_TOKEN, NOWHERE, Office, running
from tests.delivery.crashing import POINTS

ROOT = Path(__file__).parents[2]
SECRETS_KEY = "Zx3kq0Jm1v7QdYt5uWnB8sLcRfHgPaEoKiTbNyMVwDU="
WORKER_POINTS = [point for point, (command, *_) in POINTS.items() if command == "worker"]
# The points at which a message has reached the carrier when the worker dies.
ACCEPTED = ("written_not_answered", "answered_not_recorded", "recorded_not_committed", "recorded")


@contextmanager
def crashing(office: Office, point: str, flag: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process that is going to die."""
    flag.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.delivery.crashing", point, str(flag)],
        cwd=ROOT,
        env={
            "WORKER_DATABASE_URL": office.urls.worker,
            "PUBLIC_BASE_URL": NOWHERE,
            "SECRETS_KEY": SECRETS_KEY,
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_BASE_URL": office.simulator.url,
            "SEND_CONNECT_TIMEOUT_SECONDS": "0.5",
            "SEND_DEADLINE_SECONDS": "0.9",
            "RECONCILE_GRACE_SECONDS": "1",
            "RECONCILE_INTERVAL_SECONDS": "0.2",
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def let_resend(office: Office, agency: Agency) -> None:
    owner = Database(office.urls.owner, pool_size=1)
    with tenant_transaction(owner, agency.id) as connection:
        connection.execute(text("update agencies set resend_unconfirmed = true where agency_id = :agency_id"))
    owner.close()


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_killed_at_any_point_loses_nothing_and_doubles_nothing(
    office: Office, agency: Agency, other_agency: Agency, tmp_path: Path, point: str
) -> None:
    let_resend(office, agency)
    theirs = office.converse(other_agency)
    conversation_id = office.converse(agency)
    if point.startswith("reconciler"):
        # What the reconciler has to find out is left behind by another death.
        before = "written_not_answered" if "asked" in point else "committed_not_connected"
        mine = _die(office, agency, conversation_id, tmp_path, before)
        _die(office, agency, None, tmp_path, point)
    else:
        mine = _die(office, agency, conversation_id, tmp_path, point)
    assert len(office.simulator.accepted) == (1 if point in ACCEPTED or "asked" in point else 0)
    follower = office.queue(agency, conversation_id, "and then")
    other = office.queue(other_agency, theirs, "theirs")
    with running(office):
        office.reconcile_until(lambda: office.state(agency, follower) not in ("waiting", "queued", "calling"))
        office.reconcile_until(lambda: office.state(other_agency, other) not in ("waiting", "queued", "calling"))
    assert sorted(one["body"] for one in office.simulator.accepted) == ["and then", "once", "theirs"]
    sids = {one["body"]: one["message_sid"] for one in office.simulator.accepted}
    message = office.message(agency, mine)
    assert message["twilio_sid"] == sids["once"]
    assert message["status"] not in ("queued", "unconfirmed")
    assert message["duplicate_detected"] is False
    order = [one["body"] for one in office.simulator.accepted if one["body"] != "theirs"]
    assert order == ["once", "and then"]


def _die(office: Office, agency: Agency, conversation_id: UUID | None, tmp_path: Path, point: str) -> UUID:
    message_id = UUID(int=0) if conversation_id is None else office.queue(agency, conversation_id, "once")
    crash(office, tmp_path, point)
    return message_id


def crash(office: Office, tmp_path: Path, point: str) -> None:
    """Run a worker until it has died there."""
    with crashing(office, point, tmp_path / "flag") as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
