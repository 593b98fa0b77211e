"""Schemathesis, with all of its checks and on every operation, against a live API that counts what it answers."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import api as contract_package
from tests.agencies import ACCOUNT_SID, Urls
from tests.api_client import AUTH_TOKEN, BASE_PATH, Api
from tests.serving import listening, make_app, make_settings

ROOT = Path(__file__).parents[2]
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


class Counting:
    """Passes everything on, and counts the answers by method, route and status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.answers: Counter[tuple[str, int]] = Counter()

    @property
    def total(self) -> int:
        return self.answers.total()

    @property
    def server_errors(self) -> int:
        return sum(number for (_, status), number in self.answers.items() if status >= 500)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answers[scope["method"], message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted)


@dataclass
class Target:
    """A live API with an agency that has conversations."""

    api: Api
    counting: Counting
    token: str
    world: dict[str, object] = field(default_factory=dict)


@contextmanager
def target(urls: Urls) -> Iterator[Target]:
    """Serve over this database and fill it with one agency's conversations."""
    counting = Counting(make_app(make_settings(urls)))
    with listening(counting) as port:
        api = Api(port, urls)
        agency = api.new_agency()
        me = api.of(agency, "owner")
        conversations = {}
        for number in range(4):
            channel = ["sms", "whatsapp"][number % 2]
            conversation_id = api.converse(agency, phone=f"+1202555010{number}", channel=channel)
            sent = [me.send(conversation_id, f"message {each}").json["id"] for each in range(3)]
            received = me.get(f"/conversations/{conversation_id}/messages").json["messages"][-1]["id"]
            conversations[conversation_id] = [*sent, received]
        world = {
            "agency_id": str(agency.id),
            "conversations": conversations,
            "cursors": [me.get("/conversations", limit=limit).json["next_cursor"] for limit in (1, 2, 3)],
            "account_sid": ACCOUNT_SID,
            "auth_token": AUTH_TOKEN,
            "numbers": [agency.sms_address, agency.whatsapp_address],
        }
        yield Target(api, counting, me.token, world)
        api.close()


def run_schemathesis(on: Target, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One run of the command line, in `folder`; its output is in the result, and 0 means that it found nothing."""
    world = folder / "world.json"
    world.write_text(json.dumps(on.world))
    command = [sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    command += [str(contract_package.CONTRACT), "--url", f"http://127.0.0.1:{on.api.port}{BASE_PATH}"]
    command += ["--header", f"Authorization: Bearer {on.token}", "--checks", "all", "--continue-on-failure"]
    command += ["--generation-database", "none", "--suppress-health-check", "all", "--no-color", *options]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "FUZZ_WORLD": str(world),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
