"""The `demo` command: everything on one machine, from an embedded PostgreSQL to contacts who answer.

This process only supervises: it starts the same `serve` and `worker` as an installation does, and the simulator, waits,
and stops them again, the database last. A signal leaves a note that is looked at between the steps.
"""

import random
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx

from conversations_api import addresses, migrating, settings
from conversations_api.demo import invented_agencies, past, traffic, words
from conversations_api.demo.invented_agencies import Agency
from conversations_api.demo.memory import DemoError, DemoFolder, Installation
from conversations_api.demo.programs import Programs, Urls
from conversations_api.demo.traffic import Life
from conversations_api.embedded_postgres import DataFolderInUse, EmbeddedPostgres, EmbeddedPostgresError
from tenancy.transaction import Database, DatabaseUnavailable
from tenancy.twilio_credentials import TwilioCredentials

__all__ = ["DemoError", "run"]

SETTLE_SECONDS = 60.0
WRITING_AGAIN = 4


class _Stop(Exception):
    """Somebody asked to stop before everything was up."""


def run(data_folder: Path) -> None:
    """Until SIGINT, SIGTERM or SIGHUP. Raises DemoError and SettingsError."""
    Demo(DemoFolder(data_folder)).run()


class Demo:
    """One run of the demo."""

    def __init__(self, folder: DemoFolder) -> None:
        self._folder = folder
        self._asked_to_stop = False
        configuration = settings.read("demo")
        environment = settings.inherited_environment()
        # It holds keys that everybody who may read its folder knows: for this machine, unless asked otherwise.
        self._host = configuration.host if environment.get("HOST") else "127.0.0.1"
        self._port = configuration.port
        self._given_urls = [
            environment.get(name, "") for name in ("DATABASE_URL", "WORKER_DATABASE_URL", "MIGRATION_DATABASE_URL")
        ]
        if any(self._given_urls) and not all(self._given_urls):
            raise DemoError(
                "DATABASE_URL, WORKER_DATABASE_URL and MIGRATION_DATABASE_URL replace the embedded PostgreSQL together"
            )

    def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        try:
            with ExitStack() as stack:
                self._start(stack)
                while True:
                    self._check()
                    self._programs.require_running()
                    time.sleep(0.2)
        except _Stop:
            _say("Stopped.")
        except (DemoError, EmbeddedPostgresError, DatabaseUnavailable, traffic.LoadFailed) as error:
            # A terminal's Ctrl-C also reaches what is started with psql.
            if not self._asked_to_stop:
                raise DemoError(str(error) or "the database does not answer") from error

    def _start(self, stack: ExitStack) -> None:
        try:
            addresses.check(self._host, self._port)
        except addresses.AddressInUse as error:
            raise DemoError(f"{error}, for example: PORT={self._port + 1} make demo") from None
        installation = self._folder.take_up()
        urls = self._database(stack)
        self._folder.withdraw()
        migrating.migrate(urls.owner)
        owner = Database(urls.owner, pool_size=1)
        stack.callback(owner.close)
        self._install(owner, installation)
        self._programs = Programs(self._folder, installation, urls, host=self._host, port=self._port)
        stack.callback(self._stop)
        self._folder.write_answers(traffic.answers())
        empty = [agency for agency in installation.agencies if not past.has_been_invented(owner, agency)]
        _say("Starting the API, a worker and a simulated Twilio ...")
        self._programs.start(contacts_answer=not empty, check=self._check)
        life = Life(
            simulator_url=self._programs.simulator_url,
            api_url=self._programs.api_url,
            token_of=lambda agency: installation.token(agency, "staff"),
        )
        stack.callback(life.close)
        if empty:
            self._fill(owner, empty, life)
        self._write_again(owner, installation, life)
        self._announce(installation, urls)

    def _database(self, stack: ExitStack) -> Urls:
        if all(self._given_urls):
            return Urls(*self._given_urls)
        _say("Starting PostgreSQL ...")
        try:
            server = stack.enter_context(EmbeddedPostgres(self._folder.path))
        except DataFolderInUse as error:
            raise DemoError(f"the demo is already running: {error}") from None
        return Urls(app=server.app_url, worker=server.worker_url, owner=server.owner_url)

    def _install(self, owner: Database, installation: Installation) -> None:
        if invented_agencies.others_are_at_home(owner, installation.agencies):
            raise DemoError("the database that DATABASE_URL names holds other agencies: the demo needs an empty one")
        credentials = TwilioCredentials(installation.secrets_key)
        for agency in installation.agencies:
            invented_agencies.install(owner, agency, credentials)

    def _fill(self, owner: Database, empty: list[Agency], life: Life) -> None:
        """Contacts do not answer meanwhile, or they would still be writing when the past is made up."""
        life.play(traffic.scripts(empty), _show_progress, self._check)
        self._settle(owner, empty)
        for agency in empty:
            past.invent(owner, agency)
        self._programs.stop_simulator()
        self._programs.start_simulator(contacts_answer=True, check=self._check)

    def _write_again(self, owner: Database, installation: Installation, life: Life) -> None:
        """Where nobody has written for a while a few contacts do: an inbox whose newest message is old looks dead."""
        for agency in installation.agencies:
            if past.has_gone_quiet(owner, agency):
                scripts = [script for script in traffic.scripts([agency]) if not script.opts_out]
                for script in random.sample(scripts, WRITING_AGAIN):
                    content = random.choice(traffic.answers())  # noqa: S311
                    life.write(script.channel, script.phone, script.name, content, message_sid=None)

    def _settle(self, owner: Database, agencies: list[Agency]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self._check()
            self._programs.require_running()
            if not any(past.count_unsettled(owner, agency) for agency in agencies):
                break
            time.sleep(0.2)
        time.sleep(1.0)  # what was delivered may be read a moment later

    def _announce(self, installation: Installation, urls: Urls) -> None:
        content = words.for_scripts(installation, self._programs, urls.app)
        conversation_id = _sendable_conversation(content)
        self._folder.publish(content)
        _say(words.for_people(self._folder, content, conversation_id))

    def _stop(self) -> None:
        self._folder.withdraw()
        if self._asked_to_stop:
            _say("\nStopping ...")
        self._programs.stop()

    def _ask_to_stop(self, *_: object) -> None:
        self._asked_to_stop = True

    def _check(self) -> None:
        if self._asked_to_stop:
            raise _Stop


def _sendable_conversation(content: dict[str, Any]) -> str:
    """A conversation of the first agency that takes a message now and does not stop doing so in the night: an SMS."""
    headers = {"Authorization": f"Bearer {content['agencies'][0]['tokens']['staff']}"}
    answer = httpx.get(f"{content['api_url']}/conversations?limit=100", headers=headers, timeout=30.0, trust_env=False)
    answer.raise_for_status()
    found = [one for one in answer.json()["conversations"] if one["messaging"]["can_send_freeform"]]
    found.sort(key=lambda one: one["channel"] != "sms")  # stable: the newest first
    return str(found[0]["id"])


def _show_progress(done: int, total: int) -> None:
    percent, before = 100 * done // total, 100 * (done - 1) // total
    if sys.stdout.isatty():
        if percent != before:
            bar = "#" * (percent * 40 // 100)
            _say(f"\rContacts write, staff answer  [{bar:<40}] {percent:3d} %", end="\n" if done == total else "")
    elif percent // 10 != before // 10:
        _say(f"Contacts write, staff answer: {percent} % of {total} messages")


def _say(text: str, end: str = "\n") -> None:
    with suppress(OSError):  # a terminal that has gone
        print(text, end=end, flush=True)
