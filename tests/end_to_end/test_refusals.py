"""A command that cannot or must not run says why in one line, names the setting, and shows none of its value."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conversations_api import addresses, settings
from conversations_api.embedded_postgres import EmbeddedPostgres
from tenancy import transaction, twilio_credentials
from tests.agencies import Urls, make_agency
from tests.commands import ROOT, refusal, run
from tests.stack import AUDIENCE, ISSUER, PUBLIC_KEY

SECRETS_KEY = twilio_credentials.generate_key()
NEEDED = {
    "serve": ["DATABASE_URL", "JWT_ISSUER", "JWT_AUDIENCE", "PUBLIC_BASE_URL", "SECRETS_KEY"],
    "worker": ["WORKER_DATABASE_URL", "PUBLIC_BASE_URL", "SECRETS_KEY"],
    "migrate": ["MIGRATION_DATABASE_URL"],
}


def environment(command: str, database_url: str, **variables: str) -> dict[str, str]:
    """Everything that the command needs, and settings beside it."""
    database = {"serve": "DATABASE_URL", "worker": "WORKER_DATABASE_URL", "migrate": "MIGRATION_DATABASE_URL"}[command]
    return {
        database: database_url,
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_PUBLIC_KEY": PUBLIC_KEY,
        "PUBLIC_BASE_URL": "https://api.example.com",
        "SECRETS_KEY": SECRETS_KEY,
        **variables,
    }


@pytest.mark.parametrize("command", NEEDED)
def test_all_settings_that_are_missing_are_named_at_once(command: str) -> None:
    result = run(command)
    assert result.returncode == 2
    said = refusal(result)
    assert [variable for variable in NEEDED[command] if f"{variable} is not set" not in said] == []
    assert ("JWT_JWKS_URL and JWT_PUBLIC_KEY" in said) == (command == "serve")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SECRETS_KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="),
        ("SECRETS_KEY", "correct-horse-battery-staple"),
        ("PUBLIC_BASE_URL", "http://api.example.com"),
        ("PUBLIC_BASE_URL", "https://under_score.example.com"),
        ("JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----"),
        ("JWT_JWKS_URL", "http://login.example.com/jwks.json"),
        ("TWILIO_ACCOUNT_SID", "AC-not-one"),
        ("TWILIO_AUTH_TOKEN", "hunter2-hunter2"),
        ("WEB_CONCURRENCY", "many-many-many"),
        ("DATABASE_URL", "mysql://faro:hunter2@db/faro"),
    ],
)
def test_a_weak_setting_is_named_and_not_shown(variable: str, value: str) -> None:
    result = run("serve", environment=environment("serve", "postgresql://nobody@127.0.0.1/faro") | {variable: value})
    assert result.returncode == 2
    assert variable in refusal(result)
    assert value not in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(("role", "violation"), [("superuser", "is a superuser"), ("owner", "owns")])
def test_a_role_that_could_see_past_row_level_security_is_refused(
    urls: Urls, command: str, role: str, violation: str
) -> None:
    said = refusal(run(command, environment=environment(command, getattr(urls, role))))
    assert violation in said
    assert "DATABASE_URL: " in said


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_another_schema_than_this_releases_is_refused_until_migrated(postgres: EmbeddedPostgres, command: str) -> None:
    name = f"faro_unmigrated_{command}"
    postgres.create_database(name)
    login = {"serve": "faro_app", "worker": "faro_worker"}[command]
    said = refusal(run(command, environment=environment(command, postgres.url(login, name))))
    assert "run migrate" in said

    owner = environment("migrate", postgres.url("faro_owner", name))
    migrated = run("migrate", environment=owner)
    assert migrated.returncode == 0, migrated.stderr
    again = run("migrate", environment=owner)
    assert again.returncode == 0, again.stderr
    # Now something else is in the way.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"HOST": "127.0.0.1", "PORT": str(port)} if command == "serve" else {"SECRETS_KEY": ""}
        said = refusal(run(command, environment=environment(command, postgres.url(login, name), **variables)))
    assert (f"port {port}" if command == "serve" else "SECRETS_KEY") in said
    postgres.drop_database(name)


@pytest.mark.parametrize("command", NEEDED)
def test_a_database_that_does_not_answer_is_named_and_its_password_is_not(command: str) -> None:
    url = "postgresql://faro_app:hunter2@127.0.0.1:1/faro"
    result = run(command, environment=environment(command, url))
    assert "DATABASE_URL: the database does not answer" in refusal(result)
    assert "hunter2" not in result.stderr


def test_a_revision_that_does_not_exist_is_refused(urls: Urls) -> None:
    assert "9999" in refusal(run("migrate", "--revision", "9999", environment=environment("migrate", urls.owner)))


def test_a_revision_that_does_not_get_its_lock_is_told_in_one_line_and_may_be_run_again(
    postgres: EmbeddedPostgres,
) -> None:
    postgres.create_database("faro_locked")
    owner = environment("migrate", postgres.url("faro_owner", "faro_locked"))
    assert run("migrate", "--revision", "0001", environment=owner).returncode == 0
    with transaction.session(postgres.url("faro_app", "faro_locked")) as reader, reader.cursor() as cursor:
        cursor.execute("begin; select from messages")
        assert "the revision that was under way was not applied" in refusal(run("migrate", environment=owner))
        cursor.execute("commit")
    again = run("migrate", environment=owner)
    assert again.returncode == 0, again.stderr
    postgres.drop_database("faro_locked")


def test_the_applications_role_cannot_migrate(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("faro_not_mine")
    said = refusal(run("migrate", environment=environment("migrate", postgres.url("faro_app", "faro_not_mine"))))
    assert "permission denied" in said
    postgres.drop_database("faro_not_mine")


def test_a_token_of_the_demo_needs_a_demo(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("nothing"))
    assert "no demo was ever started" in refusal(run("token", "--agency", "Harbor", "--data-folder", folder))


def test_the_demo_says_how_to_install_what_it_needs_beyond_the_service() -> None:
    without = "import sys; sys.modules['psutil'] = None; from conversations_api import cli; cli.main(['demo'])"
    result = subprocess.run([sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "pip install 'faro-conversations[demo]'" in refusal(result)


def test_the_demo_takes_all_three_database_urls_or_none(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://faro_app:hunter2@127.0.0.1:1/faro"}
    said = refusal(run("demo", "--data-folder", str(tmp_path / ".data"), environment=variables))
    assert "WORKER_DATABASE_URL and MIGRATION_DATABASE_URL" in said


def test_the_demo_does_not_move_in_with_other_agencies(urls: Urls, tmp_path: Path) -> None:
    make_agency(urls.owner, 1)
    variables = {
        "DATABASE_URL": urls.app,
        "WORKER_DATABASE_URL": urls.worker,
        "MIGRATION_DATABASE_URL": urls.owner,
        "PORT": str(addresses.free_port()),
    }
    said = refusal(run("demo", "--data-folder", str(tmp_path / ".data"), environment=variables))
    assert "holds other agencies" in said


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "demo", "token"])
def test_help_names_what_the_command_needs(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert f"conversations-api {command}" in result.stdout
    assert [variable for variable in NEEDED.get(command, []) if variable not in result.stdout] == []
    named = {word.strip("(),.:") for word in result.stdout.split() if word.strip("(),.:").isupper() and "_" in word}
    assert {word for word in named if word not in settings.VARIABLES} <= {"DATA_FOLDER"}
