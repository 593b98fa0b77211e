"""Sends and webhooks: POST message of ours and of documented Connexion, and inbound webhooks of ours, interleaved.

Every send has an Idempotency-Key of its own and goes into one of many conversations. Every webhook has a MessageSid of
its own, is signed as Twilio signs, and is sent once; contacts and conversations are known, as most are.
"""

import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.performance import asked, comparison, data_set, load
from benchmarks.performance.asked import BASE
from benchmarks.performance.comparison import Comparison, Measure
from benchmarks.performance.load import LoadFailed, Request, Sample
from benchmarks.performance.servers import AUTH_TOKEN, CONNEXION, OURS, Keys, Running
from conversations_api.demo import samples
from conversations_api.embedded_postgres.running_postgres import Server as Postgres
from delivery import twilio_gateway

WEBHOOK = "inbound webhook"
INBOUND = f"{BASE}/webhooks/twilio/inbound"
FORM = "application/x-www-form-urlencoded"
# More than a run can use up; what is left over is not sent.
WEBHOOKS_PER_SECOND = 1_500

CONVERSATIONS = """
    select conversations.agency_id, conversations.id, contacts.phone, channels.address
    from conversations
    join agencies using (agency_id)
    join contacts on contacts.agency_id = conversations.agency_id and contacts.id = conversations.contact_id
    join channels on channels.agency_id = conversations.agency_id and channels.id = conversations.channel_id
    where agencies.name like 'Writer %'
    and conversations.opted_out_at is null
    and conversations.status <> 'resolved'
    order by conversations.id
"""


def measure(
    running: dict[str, Running],
    postgres: Postgres,
    database: str,
    keys: Keys,
    folder: Path,
    *,
    postgres_pid: int,
    connections: int,
    rounds: int,
    seconds: int,
    warm_up: bool,
    tell: Callable[[str], None],
) -> Comparison:
    """Ours is POST message; beside it stand the same of documented Connexion, and our webhooks."""
    rows = data_set.query(postgres, database, CONVERSATIONS)
    random.Random(2).shuffle(rows)
    sends = load.write_requests(folder / "sends", list(_sends(rows, keys)))
    targets: dict[str, Measure] = {
        name: comparison.http_target(running[name], sends, postgres_pid=postgres_pid)
        for name in (OURS, CONNEXION)
        if name in running
    }
    count = WEBHOOKS_PER_SECOND * seconds * (rounds + comparison.ATTEMPTS)
    forms = list(itertools.islice(_webhooks(rows, running[OURS].base_url), count))
    path = load.write_requests(folder / "webhooks", forms)
    targets[WEBHOOK] = _once(running[OURS], path, count, postgres_pid=postgres_pid)
    return comparison.measure(
        "POST message",
        targets,
        connections=connections,
        rounds=rounds,
        seconds=seconds,
        warm_up=warm_up,
        tell=tell,
    )


def mixed(postgres: Postgres, database: str, keys: Keys, *, reads_per_send: int) -> Iterator[Request]:
    """Pages of the inbox and of threads in turn, and after so many of them a send."""
    pages = asked.pages(postgres, database, keys)
    rows = data_set.query(postgres, database, CONVERSATIONS)
    lists, threads = itertools.cycle(pages[asked.LIST]), itertools.cycle(pages[asked.MESSAGES])
    for send in _sends(rows, keys):
        for number in range(reads_per_send):
            yield next(threads if number % 2 else lists).asked_of(OURS)
        yield send


def _once(server: Running, path: Path, count: int, *, postgres_pid: int) -> Measure:
    """A target whose requests are never sent twice: a run begins where the one before cannot have come to."""
    place = 0

    def run(connections: int, seconds: int) -> Sample:
        nonlocal place
        first, place = place, place + WEBHOOKS_PER_SECOND * seconds
        if place > count:
            raise LoadFailed("all webhooks have been sent")
        return load.run(server, path, connections=connections, seconds=seconds, postgres_pid=postgres_pid, first=first)

    return run


def _sends(rows: list[tuple[object, ...]], keys: Keys) -> Iterator[Request]:
    tokens = {agency_id: keys.token(str(agency_id)) for agency_id in {row[0] for row in rows}}
    headers = (("Idempotency-Key", "{unique}"),)
    for (agency_id, row_id, _, _), content in zip(rows, itertools.cycle(_short_texts()), strict=False):
        path = f"{BASE}/conversations/{row_id}/messages"
        body = '{"content": "' + content + '"}'
        yield Request("POST", path, tokens[agency_id], "application/json", headers, body)


def _webhooks(rows: list[tuple[object, ...]], base_url: str) -> Iterator[Request]:
    url = base_url + INBOUND
    for (_, _, phone, address), content in zip(itertools.cycle(rows), itertools.cycle(_short_texts()), strict=False):
        form = [
            ("MessageSid", f"SM{uuid.uuid4().hex}"),
            ("AccountSid", data_set.ACCOUNT_SID),
            ("From", str(phone)),
            ("To", str(address)),
            ("Body", content),
            ("NumMedia", "0"),
        ]
        headers = (("X-Twilio-Signature", twilio_gateway.sign(url, form, AUTH_TOKEN)),)
        yield Request("POST", INBOUND, content_type=FORM, headers=headers, body=urlencode(form))


def _short_texts() -> list[str]:
    """Real messages that need no escaping in JSON; a single word might be an opt-out."""
    return [
        text
        for text in samples.ham()
        if len(text) > 20 and text.isascii() and text.isprintable() and not {'"', "\\"} & set(text)
    ]
