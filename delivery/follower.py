"""Keeps the statuses of sent messages right whoever was down: asks the carrier about all that no callback has ended.

A callback that could not be handed over is never repeated, and nobody tells us that one was lost: our receiver, the
proxy or the name server may have been away while this process worked on. So nothing is inferred from outages. Every
message that has not ended is asked about every `poll_seconds` for three days, and is therefore right that long after
whatever happened.

What keeps that cheap is that the carrier lists an account's messages by the thousand, newest first. For N messages in
question, spread over the last P pages, a round makes N requests while N is small, else P; and where the few that are
left lie many pages back, they are fetched one by one, so that it is never more than twice the smaller of the two. An
account whose carriers never confirm anything costs a request per thousand of its messages and round.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from uuid import UUID

import psycopg2

from delivery import lookup, metrics
from delivery.lookup import CLOCK_SKEW, names
from delivery.twilio_gateway import ListedMessage, ListingUnavailable, TwilioAccount, TwilioGateway, is_before
from persistence import attempts, message_status, outbox, outbox_work
from persistence.attempts import Followed
from persistence.outbox_work import Due
from tenancy.transaction import Database, DatabaseUnavailable, OutcomeUnknown, tenant_transaction, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials

logger = logging.getLogger(__name__)

# How many requests one follower has under way at a time.
PARALLEL = 8
# What one round asks about at most; the rest is due at the next one.
MOST_MESSAGES = 20_000
# So few messages of an account are fetched, each by a small request of its own, before a thousand are listed.
FEW = 20
# Messages that the list does not show where they are looked for are fetched, so many of an account in one round.
MOST_FETCHES = 500
# Some carriers never confirm; then `sent` is the last word, and is never turned into a failure.
FOLLOWED_SECONDS = 72 * 3600.0


@dataclass(frozen=True)
class Sent:
    """A message of which the carrier's last word is missing."""

    due: Due
    known: Followed


class _Look:
    """One round: its tasks, which may submit further ones, and what there was no answer about, or no record of it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.unanswered: list[Due] = []
        self._pool = pool
        self._tasks: deque[Future[None]] = deque()

    def submit(self, function: Callable[..., None], *arguments: object) -> None:
        self._tasks.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """A task has submitted all its own ones when it ends, so none is left when the last has ended."""
        while self._tasks:
            self._tasks.popleft().result()


@contextmanager
def _by_itself(look: _Look, due: Due) -> Iterator[None]:
    """What goes wrong with one message keeps no other from being asked about; what was not written is asked again."""
    try:
        yield
    except (DatabaseUnavailable, OutcomeUnknown, psycopg2.Error) as error:
        logger.warning("reconciler_lost_database", extra={"error": type(error).__name__})
        look.unanswered.append(due)
    except Exception:
        logger.exception("look_broke_off", extra=names(due))


class Follower:
    """Asks about what is due, once per `run_once`; the workers of an installation share the messages."""

    def __init__(
        self,
        *,
        database: Database,
        gateway: TwilioGateway,
        credentials: TwilioCredentials,
        poll_seconds: float,
        retry_seconds: float,
        hold_seconds: float,
    ) -> None:
        """Each message is asked about every `poll_seconds`, the first time after half of it; what the carrier did not
        answer is asked again after `retry_seconds`. A second copy of a message is watched for `hold_seconds`."""
        self._database = database
        self._gateway = gateway
        self._credentials = credentials
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._hold_seconds = hold_seconds

    def run_once(self) -> None:
        """Ask about all that is due. Raises what the database raises; each message stands for itself."""
        with unbound_transaction(self._database) as connection:
            due = outbox_work.take_followed(
                connection,
                limit=MOST_MESSAGES,
                young_seconds=self._poll_seconds / 2,
                put_off_seconds=self._poll_seconds,
            )
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="follow") as pool:
            look = _Look(pool)
            for account, sent in self._by_account(due).items():
                look.submit(self._ask, look, account, sent)
            look.wait()
        if look.unanswered:
            with unbound_transaction(self._database) as connection:
                outbox_work.follow_sooner(connection, unanswered=look.unanswered, seconds=self._retry_seconds)

    def _by_account(self, due: list[Due]) -> dict[TwilioAccount, list[Sent]]:
        """With the token as each agency has it: two agencies may name one account by different ones."""
        found: defaultdict[TwilioAccount, list[Sent]] = defaultdict(list)
        by_agency = attrgetter("agency_id")
        for agency_id, group in groupby(sorted(due, key=by_agency), key=by_agency):
            by_message = {one.message_id: one for one in group}
            for account, known in self._known(agency_id, list(by_message)):
                if account is not None and known.twilio_sid is not None:
                    found[account].append(Sent(by_message[known.message_id], known))
                elif by_message[known.message_id].age_seconds > FOLLOWED_SECONDS:
                    self._stop_following(by_message[known.message_id])
        return found

    def _known(self, agency_id: UUID, message_ids: list[UUID]) -> list[tuple[TwilioAccount | None, Followed]]:
        with tenant_transaction(self._database, agency_id, read_only=True) as connection:
            known = attempts.list_followed(connection, message_ids=message_ids)
            accounts = {
                account_sid: lookup.find_account(connection, self._credentials, account_sid=account_sid)
                for account_sid in {one.account_sid for one in known}
            }
        return [(accounts[one.account_sid], one) for one in known]

    def _ask(self, look: _Look, account: TwilioAccount, sent: list[Sent]) -> None:
        """Read the account's pages as far as that pays, and fetch what is left."""
        left = {one.known.twilio_sid: one for one in sent}
        if len(left) > FEW and not self._list(look, account, left):
            look.unanswered += [one.due for one in left.values()]
            return
        fetched, later = list(left.values())[:MOST_FETCHES], list(left.values())[MOST_FETCHES:]
        look.unanswered += [one.due for one in later]
        for one in fetched:
            look.submit(self._fetch, look, account, one)

    def _list(self, look: _Look, account: TwilioAccount, left: dict[str | None, Sent]) -> bool:
        """Take what the pages show out of `left`, and apply it; False when the carrier does not answer."""
        longest = max(one.due.age_seconds for one in left.values())
        oldest = datetime.now(UTC) - timedelta(seconds=longest) - CLOCK_SKEW
        pages, page_url = 0, None
        while pages < len(left):
            try:
                rows, page_url = self._gateway.list_page(account, page_url)
            except ListingUnavailable as error:
                metrics.looked("listing_unavailable")
                logger.info("listing_unavailable", extra={"account_sid": account.account_sid, "reason": error.reason})
                return False
            pages += 1
            for row in rows:
                if one := left.pop(row.sid, None):
                    look.submit(self._apply, look, one, row)
            if page_url is None or all(is_before(row, oldest) for row in rows):
                break
        return True

    def _fetch(self, look: _Look, account: TwilioAccount, sent: Sent) -> None:
        try:
            listed = self._gateway.fetch_message(account, str(sent.known.twilio_sid))
        except ListingUnavailable as error:
            metrics.looked("listing_unavailable")
            logger.info("listing_unavailable", extra={**names(sent.due), "reason": error.reason})
            if error.http_status != 404:
                look.unanswered.append(sent.due)
            elif sent.due.age_seconds > FOLLOWED_SECONDS:  # it has no such message, and will not have it any more
                with _by_itself(look, sent.due):
                    self._stop_following(sent.due)
        else:
            self._apply(look, sent, listed)

    def _apply(self, look: _Look, sent: Sent, listed: ListedMessage) -> None:
        due, known = sent.due, sent.known
        status = message_status.FROM_TWILIO.get(listed.status)
        has_ended = status in message_status.TERMINAL
        is_old = due.age_seconds > FOLLOWED_SECONDS
        # Of a message that may have gone out twice, the carrier's list shows the second one: for a while, and when it
        # is looked at for the last time, which may be the first time that anybody could ask.
        is_watched = known.unproven and due.age_seconds <= self._hold_seconds
        with _by_itself(look, due):
            if has_ended or status != known.status:
                with tenant_transaction(self._database, due.agency_id) as connection:
                    lookup.accept(connection, due, listed, attempt=None)
            if is_watched or (known.unproven and (has_ended or is_old)):
                try:
                    self._look_for_second(due)
                except ListingUnavailable as error:
                    logger.info("listing_unavailable", extra={**names(due), "reason": error.reason})
                    if is_old:
                        self._stop_following(due)
                    return
            if has_ended and known.unproven and not is_watched:
                with tenant_transaction(self._database, due.agency_id) as connection:
                    outbox.delete(connection, message_id=due.message_id)
            elif is_old and not has_ended:
                self._stop_following(due)

    def _look_for_second(self, due: Due) -> None:
        case = lookup.find_case(self._database, self._credentials, due)
        if case is None:
            return
        found = lookup.list_since(self._database, self._gateway, case)
        with tenant_transaction(self._database, due.agency_id) as connection:
            lookup.accept_exact(connection, due, case.job, lookup.unbound(connection, due, found), attempt=None)

    def _stop_following(self, due: Due) -> None:
        metrics.looked("never_confirmed")
        logger.warning("never_confirmed", extra=names(due))
        with tenant_transaction(self._database, due.agency_id) as connection:
            outbox.delete(connection, message_id=due.message_id)
