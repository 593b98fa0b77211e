"""Every sequence of callbacks up to length five, 19,607 of them: a status never falls, and the order rarely matters."""

import itertools
from collections.abc import Iterator, Sequence

from sqlalchemy import text

from persistence import message_status, messages
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import Agency, insert_message, make_conversation

REPORTED = ("queued", "sending", "sent", "delivered", "undelivered", "failed", "read")
SEQUENCES = [sequence for length in range(1, 6) for sequence in itertools.product(REPORTED, repeat=length)]
# Said here once more, and not taken from the table that is tested: how far along each status is.
RANK = {"queued": 0, "sending": 1, "sent": 2, "delivered": 3, "read": 4, "failed": 5, "undelivered": 5}
ENDS = ("delivered", "read", "failed", "undelivered")


def expected(sequence: Sequence[str]) -> str:
    """What the rules say: the first end stays, but that delivered becomes read; without an end, the furthest."""
    ends = [status for status in sequence if status in ENDS]
    if not ends:
        return "sent" if "sent" in sequence else "sending"
    if ends[0] in ("failed", "undelivered"):
        return ends[0]
    return "read" if "read" in ends else "delivered"


def order_cannot_matter(sequence: Sequence[str]) -> bool:
    """Only which end came first can: without two different ends there is no first one."""
    return len({"delivered" if status == "read" else status for status in sequence if status in ENDS}) <= 1


def walk(sequence: Sequence[str]) -> Iterator[str]:
    """The message's status after each callback, by the transitions as they are declared."""
    status = "queued"
    for reported in sequence:
        target = message_status.FROM_TWILIO[reported]
        if target in message_status.TRANSITIONS[status]:
            status = target
        yield status


def test_there_are_as_many_sequences_as_there_should_be() -> None:
    assert len(SEQUENCES) == 19_607


def test_no_sequence_of_callbacks_makes_a_status_fall() -> None:
    for sequence in SEQUENCES:
        ranks = [RANK[status] for status in ("queued", *walk(sequence))]
        assert ranks == sorted(ranks), sequence


def test_every_sequence_ends_as_the_rules_say() -> None:
    assert [sequence for sequence in SEQUENCES if [*walk(sequence)][-1] != expected(sequence)] == []


def test_where_no_two_ends_compete_only_the_set_of_callbacks_decides() -> None:
    by_set: dict[frozenset[str], set[str]] = {}
    for sequence in filter(order_cannot_matter, SEQUENCES):
        by_set.setdefault(frozenset(sequence), set()).add([*walk(sequence)][-1])
    assert len(by_set) > 40
    assert {callbacks: ends for callbacks, ends in by_set.items() if len(ends) > 1} == {}


def test_the_database_walks_every_sequence_the_same_way_and_erases_no_error(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    with tenant_transaction(database, other_agency.id) as connection:
        theirs = make_conversation(connection, other_agency)
        untouched = insert_message(connection, conversation_id=theirs, direction="outbound", status="queued")["id"]
    with tenant_transaction(database, agency.id) as connection:
        conversation_id = make_conversation(connection, agency)
        ids = list(
            connection.execute(
                text("""
                    insert into messages (agency_id, id, conversation_id, direction, status, sent_at)
                    select :agency_id, gen_random_uuid(), :conversation_id, 'outbound', 'queued', clock_timestamp()
                    from generate_series(1, :count)
                    returning id"""),
                conversation_id=conversation_id,
                count=len(SEQUENCES),
            ).scalars()
        )
        # The statement of the service, for all messages of one step at once.
        advance = text(messages.ADVANCE_STATUS.text.replace("id = :message_id", "id = any(:message_ids)"))
        read = text("select id, status, error_code from messages where agency_id = :agency_id and id = any(:ids)")
        walks = [[*walk(sequence)] for sequence in SEQUENCES]
        for step in range(5):
            for reported in REPORTED:
                target = message_status.FROM_TWILIO[reported]
                connection.execute(
                    advance,
                    message_ids=[
                        id_
                        for id_, sequence in zip(ids, SEQUENCES, strict=True)
                        if len(sequence) > step and sequence[step] == reported
                    ],
                    status=target,
                    error_code=f"{step}" if reported in ("failed", "undelivered") else None,
                    error_message=None,
                    delivered_at=None,
                    read_at=None,
                    sources=list(message_status.sources_of(target)),
                )
            now = {row.id: row for row in connection.execute(read, ids=ids)}
            for id_, walked in zip(ids, walks, strict=True):
                assert now[id_].status == walked[min(step, len(walked) - 1)]
        for id_, sequence in zip(ids, SEQUENCES, strict=True):
            failed_at = next((place for place, one in enumerate(sequence) if one in ENDS), None)
            has_failed = now[id_].status in ("failed", "undelivered")
            assert now[id_].error_code == (f"{failed_at}" if has_failed else None), sequence
    with tenant_transaction(database, other_agency.id, read_only=True) as connection:
        assert messages.get(connection, message_id=untouched)["status"] == "queued"
