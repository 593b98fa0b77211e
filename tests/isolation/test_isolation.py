"""No agency ever sees another's byte, whatever three agencies do in whatever order, and at the same time.

The long run of the same is `make isolation`.
"""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.api_client import Answer, Api
from tests.isolation import timing
from tests.isolation.machine import Isolation
from tests.isolation.model import Leak, World

SHORT = settings(
    max_examples=20,
    stateful_step_count=40,
    # Without shrinking, which plays hundreds of times more: add Phase.shrink to look into a failure.
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def isolation_over(served: Api) -> type[Isolation]:
    """The machine that plays against this API."""

    class Machine(Isolation):
        api = served
        counts: ClassVar[Counter[str]] = Counter()

    return Machine


def test_whatever_three_agencies_do_each_sees_exactly_its_own(api: Api) -> None:
    machine = isolation_over(api)
    run_state_machine_as_test(machine, settings=SHORT)
    assert machine.counts["requests"] > 500
    reached = {name.partition(" ")[0] for name in machine.counts}
    assert reached >= {
        "listConversations",
        "getConversation",
        "listMessages",
        "getMessage",
        "sendMessage",
        "resendMessage",
    }
    assert machine.counts["sendMessage 201"]
    assert machine.counts["listConversations 403"]


def test_agencies_that_ask_at_the_same_time_do_not_mix(api: Api) -> None:
    machine = isolation_over(api)()
    machine.contacts_have_written()
    offices = machine.world.offices

    def ask(turn: int) -> None:
        number = turn % 3
        me = api.of(offices[number].agency)
        conversation_id = machine.any_thread(number, turn)
        answers = [
            me.get("/conversations"),
            me.send(conversation_id, offices[number].text(turn), key=f"key-{turn // 6}"),
            me.get(f"/conversations/{conversation_id}/messages"),
            me.get(f"/conversations/{machine.any_thread((number + 1) % 3, turn)}"),
        ]
        for answer in answers[:3]:
            machine.world.check(answer, "", number)
        assert answers[3].status == 404

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(150))) == [None] * 150


@pytest.mark.parametrize(
    "body",
    [
        '{"content": "agency-b-1"}',
        '{"id": "BID"}',
        '{"contact_phone": "+12026550001"}',
        '{"twilio_sid": "SM00000000000000000000000000000001"}',
    ],
)
def test_the_check_notices_a_foreign_word_id_number_and_sid(api: Api, body: str) -> None:
    world = World([api.new_agency() for _ in range(3)])
    world.own(1, "+12026550001", "SM00000000000000000000000000000001")
    body = body.replace("BID", str(world.offices[1].agency.location_id))
    answer = Answer(200, {}, body.encode())
    world.check(answer, "", 1)
    for other in (0, 2, None):
        with pytest.raises(Leak):
            world.check(answer, "", other)
    in_a_header = Answer(200, {"location": body}, b"")
    with pytest.raises(Leak):
        world.check(in_a_header, "", 0)


@pytest.mark.parametrize(("slower_by", "told_apart"), [(0.0, False), (0.2, True)])
def test_the_stopwatch_tells_a_difference_and_no_other(slower_by: float, told_apart: bool) -> None:
    dice = random.Random(3)
    foreign, missing = ([1000 * (1 + dice.random()) for _ in range(2000)] for _ in range(2))
    comparison = timing.Comparison("kind", [each * (1 + slower_by) for each in foreign], missing)
    assert (abs(comparison.z) > timing.LIMIT) is told_apart


def test_every_kind_of_request_that_could_tell_is_timed(api: Api) -> None:
    compared = {comparison.name: comparison for comparison in timing.compare(api, 2)}
    assert len(compared) == 12
    for comparison in compared.values():
        assert (len(comparison.foreign), len(comparison.missing)) == (2, 2)
