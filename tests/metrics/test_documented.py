"""The dashboard and the alerts ask for metrics that exist, and the operations page tells of every one of them."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from conversations_api import metrics
from delivery.metrics import LOOKS, NOT_APPLIED, OUTCOMES, REGISTRY, SOURCES

ROOT = pathlib.Path(__file__).parents[2]
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((ROOT / "deploy/grafana/faro-conversations.json").read_text(encoding="utf-8"))
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
PARTS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
# What a matcher may ask of a label whose values are ours, beside what the contract names.
WORDS = {
    "outcome": set(OUTCOMES.values()),
    "result": set(LOOKS),
    "source": set(SOURCES),
    "state": set(metrics.QUEUE_STATES),
    "reason": set(NOT_APPLIED),
    "repeated": {"true", "false"},
}


def defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name, as the page has it -> type and labels."""
    return {
        collector._name + ("_total" if collector._type == "counter" else ""): (collector._type, collector._labelnames)
        for collector in REGISTRY._collector_to_names
    }


def series() -> dict[str, tuple[str, ...]]:
    """Name of a series, as it can be asked for -> labels."""
    return {
        name.removesuffix("_total") + part: labels + (("le",) if part == "_bucket" else ())
        for name, (kind, labels) in defined().items()
        for part in PARTS[kind]
    }


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Each expression by where it stands, as Prometheus gets it."""
    found = {rule["alert"]: rule["expr"] for rule in alert_rules()}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "6h")
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from selectors(node.vector_selector)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
        yield from selectors(node.expr)
    else:
        assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), type(node)


@pytest.mark.parametrize(("place", "expression"), expressions().items(), ids=list(expressions()))
def test_what_is_asked_for_exists(place: str, expression: str) -> None:
    asked = list(selectors(promql_parser.parse(expression)))
    assert asked, place
    for selector in asked:
        assert selector.name in series()
        labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert set(labels) <= {*series()[selector.name], "job"}
        for label, value in labels.items():
            assert set(value.split("|")) <= WORDS.get(label, set(value.split("|")))


def test_the_dashboard_shows_every_metric() -> None:
    shown = {selector.name for text in expressions_of_dashboard() for selector in selectors(promql_parser.parse(text))}
    bases = {
        name: [name.removesuffix("_total") + part for part in PARTS[kind]] for name, (kind, _) in defined().items()
    }
    assert [name for name, parts in bases.items() if not shown & set(parts)] == []


def expressions_of_dashboard() -> list[str]:
    alerts = {rule["alert"] for rule in alert_rules()}
    return [expression for place, expression in expressions().items() if place not in alerts]


def test_the_dashboard_can_be_imported_into_any_grafana() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 15
    assert "id" not in DASHBOARD
    assert {str(panel["datasource"]) for panel in panels()} == {str({"type": "prometheus", "uid": "${datasource}"})}
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job"}
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_the_operations_page_names_every_metric_with_its_type_and_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(faro_\w+)` \| (serve|worker|both) \| (\w+) \|([^|]*)\|", OPERATIONS, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, _, kind, labels in rows}
    assert len(rows) == len(documented)
    assert documented == defined()


def test_the_operations_page_names_every_alert_with_its_severity_and_no_other() -> None:
    rows = re.findall(r"^\| `(Faro\w+)` \| [^|]+ \| (\w+) \|", OPERATIONS, re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in alert_rules()]


def test_every_metric_says_what_it_is() -> None:
    assert [family.name for family in REGISTRY.collect() if len(family.documentation) < 20] == []
