"""The `worker` command: one process that sends what is queued, and finds out what became of what was sent.

A signal only leaves a note for the main thread, which does nothing but wait for one: what stopping takes may need a
lock that the interrupted code holds.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from conversations_api import logging as service_logging
from conversations_api import metrics, metrics_server, tracing, wiring
from conversations_api.settings import Settings
from delivery import follower, inbound_reconciler, reconciler
from delivery.follower import Follower
from delivery.inbound_reconciler import InboundReconciler
from delivery.reconciler import BATCH, Patience, Reconciler
from delivery.session import Session
from delivery.twilio_gateway import TwilioGateway
from delivery.worker import Sending, Worker
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

GRACEFUL_SECONDS = 15.0
# Calls last far longer than the transactions around them, so that many of them share few connections.
MOST_CONNECTIONS = 20
LONGEST_SECONDS_BETWEEN_LOOKS = 5.0
# What is due at the same time is listed together.
LONGEST_SECONDS_BETWEEN_ROUNDS = 30.0
# Calls that ask the carrier, beside those that send.
LOOKING = reconciler.PARALLEL + follower.PARALLEL + inbound_reconciler.PARALLEL
SECONDS_BETWEEN_SAFETY_NETS = 60.0
# Counting reads the whole outbox.
SECONDS_BETWEEN_COUNTS = 10.0


class WorkerProcess:
    """Sending and reconciling, each on a thread of its own, with one database session as proof of life for both."""

    def __init__(self, settings: Settings) -> None:
        self._interval = min(settings.reconcile_interval_seconds, LONGEST_SECONDS_BETWEEN_LOOKS)
        self._stopping = threading.Event()
        self._session: Session | None = None
        sending = Sending(
            public_base_url=settings.public_base_url,
            concurrency=settings.send_concurrency,
            validity_seconds=settings.twilio_validity_seconds,
            first_look_seconds=self._interval,
        )
        database = self._database = Database(
            settings.worker_database_url, pool_size=min(settings.send_concurrency + 4, MOST_CONNECTIONS)
        )
        gateway = tracing.TracedGateway(
            base_url=settings.twilio_base_url,
            connect_timeout_seconds=settings.send_connect_timeout_seconds,
            total_deadline_seconds=settings.send_deadline_seconds,
            max_concurrency=sending.concurrency + sending.reserved + LOOKING,
        )
        credentials = wiring.make_twilio_credentials(settings)
        self._worker = Worker(
            database=database,
            session_url=settings.worker_database_url,
            gateway=gateway,
            credentials=credentials,
            sending=sending,
        )
        self._look_after(settings, gateway, credentials)
        self._sending = threading.Thread(target=self._worker.run, args=(self._use,), name="worker", daemon=True)
        self._reconciling = threading.Thread(target=self._reconcile, name="reconciler", daemon=True)
        self._following = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._receiving = threading.Thread(target=self._catch_up, name="inbound-reconciler", daemon=True)

    def _look_after(self, settings: Settings, gateway: TwilioGateway, credentials: TwilioCredentials) -> None:
        """Make the three that ask the carrier."""
        database = self._database
        self._reconciler = Reconciler(
            database=database,
            gateway=gateway,
            credentials=credentials,
            holds=self._worker.holds,
            patience=Patience(
                grace_seconds=settings.reconcile_grace_seconds,
                hold_seconds=settings.reconcile_hold_seconds,
                interval_seconds=settings.reconcile_interval_seconds,
            ),
        )
        self._follower = Follower(
            database=database,
            gateway=gateway,
            credentials=credentials,
            poll_seconds=settings.status_poll_seconds,
            retry_seconds=settings.reconcile_interval_seconds,
            hold_seconds=settings.reconcile_hold_seconds,
        )
        self._follow_interval = min(settings.status_poll_seconds / 8, LONGEST_SECONDS_BETWEEN_ROUNDS)
        self._inbound = InboundReconciler(
            database=database,
            gateway=gateway,
            credentials=credentials,
            interval_seconds=settings.inbound_check_seconds,
        )
        self._inbound_interval = min(settings.inbound_check_seconds / 4, LONGEST_SECONDS_BETWEEN_LOOKS)

    def start(self) -> None:
        self._sending.start()
        self._reconciling.start()
        self._following.start()
        self._receiving.start()

    @property
    def is_running(self) -> bool:
        return self._sending.is_alive()

    def stop(self, *, seconds: float) -> bool:
        """Take no more work and end what is under way; False when the time was not enough for it."""
        deadline = time.monotonic() + seconds
        self._stopping.set()
        self._worker.stop()
        for thread in (self._sending, self._reconciling, self._following, self._receiving):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self._sending.is_alive()

    @contextmanager
    def sampled(self, settings: Settings) -> Iterator[None]:
        """Keep the gauges of queue and pool up to date while the block runs."""
        with (
            metrics_server.sampling(settings, lambda: metrics.sample_pool(self._database)),
            metrics_server.sampling(settings, lambda: metrics.sample_queue(self._database), SECONDS_BETWEEN_COUNTS),
        ):
            yield

    def _use(self, session: Session) -> None:
        self._session = session

    def _reconcile(self) -> None:
        safety_net_at = 0.0
        while not self._stopping.is_set():
            looked_at = 0
            with self._guarded():
                if self._session is not None:
                    looked_at = self._reconciler.run_once(self._session)
                if time.monotonic() >= safety_net_at:
                    safety_net_at = time.monotonic() + SECONDS_BETWEEN_SAFETY_NETS
                    self._reconciler.promote_stuck()
            if looked_at < BATCH:
                self._stopping.wait(self._interval)

    def _follow(self) -> None:
        while not self._stopping.wait(self._follow_interval):
            with self._guarded():
                self._follower.run_once()

    def _catch_up(self) -> None:
        while not self._stopping.wait(self._inbound_interval):
            with self._guarded():
                if self._session is not None:
                    self._inbound.run_once(self._session)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One look that fails must not end all looking."""
        try:
            yield
        except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
            logger.warning("reconciler_lost_database", extra={"error": type(error).__name__})
        except Exception:
            logger.exception("reconciling_broke_off")


def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT.

    Raises UnsafeDatabase, DatabaseUnavailable, AddressInUse and TracingNotInstalled before it starts.
    """
    service_logging.configure(settings.log_level)
    tracing.check(settings)
    wiring.check_database(settings.worker_database_url)
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked_to_stop.append(received))
    listener = metrics_server.listen(settings)
    tracing.start(settings, "worker")
    process = WorkerProcess(settings)
    process.start()
    if listener is not None:
        metrics_server.start(listener)
    with process.sampled(settings):
        while process.is_running and not asked_to_stop:
            time.sleep(0.2)
    if not process.is_running:
        logger.error("worker_broke_off")
        os._exit(1)
    finished = process.stop(seconds=GRACEFUL_SECONDS - 2)
    tracing.stop()
    logger.info("worker_stopped", extra={"finished": finished})
    # Calls that outlast the time are handed back: this process's lock goes with it, and another one finds out. The
    # interpreter itself would wait for their threads.
    os._exit(0)
