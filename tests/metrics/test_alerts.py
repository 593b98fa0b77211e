"""Each alert fires when it should, and none does on a calm day: Prometheus' own rule engine says so."""

import pathlib
import shutil
import subprocess
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yaml"

REQUESTS = 'faro_http_request_duration_seconds_count{operation="sendMessage", method="POST", status="%s"}'
SLOW = 'faro_http_request_duration_seconds_bucket{operation="sendMessage", method="POST", status="201", le="%s"}'
SENDS = 'faro_sends_total{outcome="%s", code_class="%s"}'
LOOKS = 'faro_reconciler_results_total{result="%s"}'
INBOUND = 'faro_inbound_messages_total{source="%s", repeated="false"}'
LAG = 'faro_callback_lag_seconds_bucket{status="sent", le="%s"}'
DUE = 'faro_queue_oldest_due_seconds{state="queued"}'
NOT_APPLIED = 'faro_reports_not_applied_total{reason="%s"}'

# What an installation that does its work measures, minute after minute from 1970 on.
CALM = {
    REQUESTS % "201": "0+600x180",
    REQUESTS % "404": "0+60x180",
    REQUESTS % "503": "0+0x180",
    'faro_http_requests_shed_total{operation="none"}': "0x180",
    SLOW % "0.1": "0+590x180",
    SLOW % "+Inf": "0+600x180",
    'faro_database_connections_in_use{job="api", instance="a"}': "9x180",
    'faro_database_connections_max{job="api", instance="a"}': "22x180",
    'faro_build_info{version="1", schema="0001"}': "1x180",
    "faro_worker_heartbeat_timestamp_seconds": "0+60x180",
    "faro_queue_sampled_timestamp_seconds": "0+60x180",
    DUE: "1x180",
    SENDS % ("accepted", ""): "0+500x180",
    SENDS % ("rejected", "20xxx"): "0x180",
    SENDS % ("rejected", "21xxx"): "0+5x180",
    SENDS % ("unknown", ""): "0+1x180",
    SENDS % ("not_processed", ""): "0+5x180",
    LOOKS % "found_at_carrier": "0+1x180",
    LOOKS % "unconfirmed": "0x180",
    LOOKS % "worker_ended_during_call": "0x180",
    LOOKS % "poison_message": "0x180",
    LOOKS % "listing_unavailable": "0+0x180",
    "faro_duplicates_detected_total": "0x180",
    INBOUND % "webhook": "0+50x180",
    INBOUND % "reconciler": "0x180",
    NOT_APPLIED % "unknown_message": "0x180",
    NOT_APPLIED % "unknown_agency": "0x180",
    LAG % "1": "0+400x180",
    LAG % "+Inf": "0+500x180",
}
# What is otherwise on the day when an alert is called for: from the hundredth minute, or all day.
TROUBLE: dict[str, dict[str, str]] = {
    "FaroServerError": {REQUESTS % "500": "_x118 1x62"},
    "FaroUnavailable": {REQUESTS % "503": "0x100 0+60x80"},
    "FaroShedding": {'faro_http_requests_shed_total{operation="none"}': "0x100 0+10x80"},
    "FaroSlow": {SLOW % "0.1": "0+500x180", SLOW % "2.5": "0+600x180"},
    "FaroPoolFull": {'faro_database_connections_in_use{job="api", instance="a"}': "22x180"},
    "FaroTwoReleases": {'faro_build_info{version="2", schema="0002"}': "1x180"},
    "FaroNoWorker": {"faro_worker_heartbeat_timestamp_seconds": "0+60x110 6600x70"},
    "FaroWorkerEnded": {LOOKS % "worker_ended_during_call": "0x115 1x65"},
    "FaroQueueWaits": {DUE: "0x100 0+60x80"},
    "FaroQueueNotCounted": {"faro_queue_sampled_timestamp_seconds": "0+60x100 6000x80"},
    "FaroSendsUnknown": {SENDS % ("unknown", ""): "0x100 0+100x80"},
    "FaroSendsNotProcessed": {SENDS % ("not_processed", ""): "0x100 0+300x80"},
    "FaroAccountRefused": {SENDS % ("rejected", "20xxx"): "0x115 1x65"},
    "FaroDuplicate": {"faro_duplicates_detected_total": "0x115 1x65"},
    "FaroUnconfirmed": {LOOKS % "unconfirmed": "0x115 1x65"},
    "FaroPoisonMessage": {LOOKS % "poison_message": "0x115 1x65"},
    "FaroCarrierCannotBeAsked": {LOOKS % "listing_unavailable": "0x100 0+10x80"},
    "FaroWebhooksMissed": {INBOUND % "reconciler": "0x115 1x65"},
    "FaroReportNotApplied": {NOT_APPLIED % "unknown_message": "0x115 1x65"},
    "FaroReportsLate": {LAG % "1": "0x180", LAG % "300": "0+500x180"},
}
EVALUATED_AT = "2h5m"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def test_every_alert_has_a_case_and_says_how_bad_it_is_and_what_is_wrong() -> None:
    assert [rule["alert"] for rule in rules()] == list(TROUBLE)
    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning"}
    assert [rule["alert"] for rule in rules() if not rule["annotations"]["summary"]] == []


def test_no_alert_fires_on_a_calm_day(promtool: str, tmp_path: pathlib.Path) -> None:
    evaluate(promtool, tmp_path, CALM, 'count(ALERTS{alertstate="firing"}) or vector(0)', 0)


@pytest.mark.parametrize("alert", TROUBLE)
def test_an_alert_fires_when_it_is_called_for(promtool: str, tmp_path: pathlib.Path, alert: str) -> None:
    expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    evaluate(promtool, tmp_path, CALM | TROUBLE[alert], expression, 1)


def evaluate(promtool: str, folder: pathlib.Path, series: dict[str, str], expression: str, expected: int) -> None:
    """Let promtool play the series, a sample a minute, and ask it the expression after two hours."""
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": EVALUATED_AT,
                        "exp_samples": [{"labels": "{}", "value": expected}],
                    }
                ],
            }
        ],
    }
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(case), encoding="utf-8")
    played = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
