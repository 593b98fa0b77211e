"""The one table of refusals: complete over what can go wrong, and the same list that the contract closes."""

import inspect
from types import ModuleType

import pytest
import yaml

import api
from delivery import twilio_gateway
from handlers import problems
from persistence import errors as inbox
from tenancy import errors as access
from tenancy import transaction

CONTRACT = yaml.safe_load(api.CONTRACT.read_text(encoding="utf-8"))


def error_classes(module: ModuleType) -> list[type[Exception]]:
    bases = {inbox.InboxError, access.AccessError}
    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
        if kind not in bases
    ]


@pytest.mark.parametrize("kind", [*error_classes(inbox), *error_classes(access)], ids=lambda kind: kind.__name__)
def test_everything_that_can_go_wrong_has_its_own_answer(kind: type[Exception]) -> None:
    problem = problems.of(kind())
    assert problem.code != "internal_error"
    assert problem.kind.status < 500 or problem.kind.retry_after


@pytest.mark.parametrize(
    "kind", [transaction.DatabaseUnavailable, transaction.OutcomeUnknown, twilio_gateway.InvalidSignature]
)
def test_what_goes_wrong_at_the_doors_has_its_own_answer(kind: type[Exception]) -> None:
    assert problems.of(kind()).code != "internal_error"


def test_the_codes_are_those_that_the_contract_closes() -> None:
    assert set(problems.KINDS) == set(CONTRACT["components"]["schemas"]["ProblemCode"]["enum"])


def test_every_refusal_says_when_to_come_again_if_that_helps() -> None:
    helps = {code for code, kind in problems.KINDS.items() if kind.status in (409, 429, 503)}
    assert {code for code, kind in problems.KINDS.items() if kind.retry_after} == helps


def test_a_subclass_is_answered_like_its_base() -> None:
    class Narrower(inbox.MessageNotFound):
        """A message of another kind."""

    assert problems.of(Narrower()).code == "message_not_found"
