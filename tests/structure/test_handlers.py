"""A handler may be called again when the server took its transaction back: it writes in one transaction, or in none."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
HANDLERS = sorted((ROOT / "handlers").glob("*.py"))
OPENERS = {"tenant_transaction", "unbound_transaction", "open_inbox"}


def writing_transactions(function: ast.AST) -> int:
    """How many transactions a function begins that may write; one inbox that is only read from is none."""
    return sum(
        writes(item.context_expr)
        for node in ast.walk(function)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
    )


def writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "open_inbox":
        return given.get("sending") == "True"
    return name in OPENERS and given.get("read_only") != "True"


@pytest.mark.parametrize("path", HANDLERS, ids=lambda path: path.name)
def test_a_handler_writes_in_one_transaction(path: pathlib.Path) -> None:
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    assert {each.name: writing_transactions(each) for each in functions if writing_transactions(each) > 1} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("with tenant_transaction(d, a) as x:\n    pass\nwith request.open_inbox(sending=True):\n    pass", 2),
        ("with unbound_transaction(d, read_only=True) as x:\n    pass", 0),
        ("with request.open_inbox() as x, transaction.tenant_transaction(d, a):\n    pass", 1),
    ],
)
def test_the_transactions_of_a_function_are_counted(source: str, found: int) -> None:
    assert writing_transactions(ast.parse(source)) == found
