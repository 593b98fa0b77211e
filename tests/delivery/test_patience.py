"""Settings that contradict each other stop the worker before it can conclude anything from them."""

import pytest

from conversations_api import settings

ENVIRONMENT = {
    "WORKER_DATABASE_URL": "postgresql://faro_worker@localhost/faro",
    "PUBLIC_BASE_URL": "https://api.example.com",
    "SECRETS_KEY": "Zx3kq0Jm1v7QdYt5uWnB8sLcRfHgPaEoKiTbNyMVwDU=",
}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RECONCILE_GRACE_SECONDS": "15"}, "RECONCILE_GRACE_SECONDS must be more than SEND_DEADLINE_SECONDS"),
        ({"SEND_DEADLINE_SECONDS": "60"}, "RECONCILE_GRACE_SECONDS must be more than SEND_DEADLINE_SECONDS"),
        ({"SEND_CONNECT_TIMEOUT_SECONDS": "20"}, "SEND_DEADLINE_SECONDS must not be less than"),
        ({"RECONCILE_HOLD_SECONDS": "179"}, "RECONCILE_HOLD_SECONDS must leave time"),
    ],
)
def test_a_patience_that_proves_nothing_is_refused(variables: dict[str, str], named: str) -> None:
    with pytest.raises(settings.SettingsError, match=named):
        settings.read("worker", ENVIRONMENT | variables)


def test_the_defaults_agree_with_each_other() -> None:
    assert settings.read("worker", ENVIRONMENT).reconcile_grace_seconds == 60.0
