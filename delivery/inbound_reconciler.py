"""Fetches what contacts wrote while nobody was there to be told: webhooks are tried for some seconds, then never again.

Each channel has a watermark: everything that arrived before it is here, by whichever of its numbers. What the carrier
lists since then is stored by its SID, which makes a message that a webhook brought, or another worker lists as well,
the same message.
"""

import logging
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import psycopg2

from delivery import inbound, lookup, metrics
from delivery.inbound import InboundMessage
from delivery.session import Session
from delivery.twilio_gateway import ListedMessage, ListingUnavailable, TwilioAccount, TwilioGateway
from persistence import channels, messages
from tenancy import number_routing
from tenancy.number_routing import Number
from tenancy.transaction import (
    Conflict,
    Database,
    DatabaseUnavailable,
    OutcomeUnknown,
    tenant_transaction,
    unbound_transaction,
)
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

PARALLEL = 4
# The carrier's clock and ours may differ by this much, and a new message may be listed this late.
OVERLAP = timedelta(minutes=10)
# Far more than arrives in an outage: reading stops somewhere, and must not stop before it has caught up.
MOST_ROWS = 200_000


class InboundReconciler:
    """Looks at every number that is due, once per `run_once`; the workers of an installation share the numbers."""

    def __init__(
        self, *, database: Database, gateway: TwilioGateway, credentials: TwilioCredentials, interval_seconds: float
    ) -> None:
        """`interval_seconds` is how far behind a number's watermark may fall before the carrier is asked."""
        self._database = database
        self._gateway = gateway
        self._credentials = credentials
        self._interval_seconds = interval_seconds

    def run_once(self, session: Session) -> None:
        """Store what is missing. A channel that cannot be asked about now keeps its watermark, and is asked again."""
        with unbound_transaction(self._database, read_only=True) as connection:
            numbers = number_routing.list_numbers(connection)
        known = {(number.account_sid, number.address) for number in numbers}
        by_channel: defaultdict[UUID, list[Number]] = defaultdict(list)
        for number in numbers:
            by_channel[number.channel_id].append(number)
        channels_ = list(by_channel.values())
        random.shuffle(channels_)  # each worker begins elsewhere
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="inbound") as pool:
            for routes in channels_:
                pool.submit(self._look_at, routes, known, session)

    def _look_at(self, routes: list[Number], known: set[tuple[str, str]], session: Session) -> None:
        number = routes[0]
        try:
            with session.alone_with(_lock_key(number)) as nobody_else:
                if nobody_else:
                    self._catch_up(routes, known)
        except ListingUnavailable as error:
            logger.info("listing_unavailable", extra={**_names(number), "reason": error.reason})
        except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
            logger.warning("reconciler_lost_database", extra={"error": type(error).__name__})
        except Exception:
            logger.exception("inbound_look_broke_off", extra=_names(number))

    def _catch_up(self, routes: list[Number], known: set[tuple[str, str]]) -> None:
        """Everything that leads to one channel is listed before its watermark moves."""
        agency_id, channel_id = routes[0].agency_id, routes[0].channel_id
        with tenant_transaction(self._database, agency_id, read_only=True) as connection:
            mark = channels.inbound_mark(connection, channel_id=channel_id)
            if mark.age_seconds < self._interval_seconds:
                return
            accounts = [
                lookup.find_account(connection, self._credentials, account_sid=number.account_sid) for number in routes
            ]
        for number, account in zip(routes, accounts, strict=True):
            if account is None:
                return  # the token may come back, and the mark must not have moved on by then
            self._fetch(number, account, known, since=mark.complete_until - OVERLAP)
        with tenant_transaction(self._database, agency_id) as connection:
            channels.set_inbound_mark(connection, channel_id=channel_id, complete_until=mark.now)

    def _fetch(self, number: Number, account: TwilioAccount, known: set[tuple[str, str]], *, since: datetime) -> None:
        # A messaging service is no address that anything is sent to: its numbers are, and they may be any.
        is_service = number.address.startswith("MG")
        listed = self._gateway.list_messages(
            account,
            to=None if is_service else number.address,
            created_after=since,
            page_size=100,
            limit=MOST_ROWS,
        )
        for one in reversed(listed):
            arrived_here = one.messaging_service_sid == number.address if is_service else one.to == number.address
            # A number that is known by itself goes before its service, as when a webhook is routed.
            elsewhere = is_service and (number.account_sid, one.to) in known
            if one.direction == "inbound" and arrived_here and not elsewhere:
                self._store(number, account, one)

    def _store(self, number: Number, account: TwilioAccount, listed: ListedMessage) -> None:
        with tenant_transaction(self._database, number.agency_id, read_only=True) as connection:
            if messages.find_by_twilio_sid(connection, twilio_sid=listed.sid) is not None:
                return
        media = self._gateway.list_media(account, listed.sid) if listed.num_media else []
        message = InboundMessage(
            twilio_sid=listed.sid,
            sender=listed.from_ or "",
            content=listed.body,
            media=[{"url": one.url, "content_type": one.content_type} for one in media],
            said_at=listed.date_created,
        )
        try:
            stored = self._insert(number, message)
        except Conflict:  # mostly a webhook that was first: now it is seen
            stored = self._insert(number, message)
        metrics.inbound_message("reconciler", stored=stored)
        if stored:
            logger.warning("inbound_message_missed_by_webhook", extra=_names(number))

    def _insert(self, number: Number, message: InboundMessage) -> bool:
        """Whether it was not here."""
        with suppress(inbound.AlreadyHere), tenant_transaction(self._database, number.agency_id) as connection:
            inbound.store(connection, channel_id=number.channel_id, message=message)
            return True
        return False


def _lock_key(number: Number) -> int:
    """An advisory lock for each channel; a worker's key is random, and would have to be the same 63 bits."""
    return number.channel_id.int >> 65


def _names(number: Number) -> dict[str, str]:
    return {"agency_id": str(number.agency_id), "channel_id": str(number.channel_id)}
