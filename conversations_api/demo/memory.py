"""What the demo keeps between runs beside its database, and what it tells scripts: private files of the data folder.

`installation.json` holds the keys and the agencies, and is made once. `demo.json` says where everything is and which
tokens to use; it is there while the demo is ready, and only then.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency, Channel, Location, TwilioAccount
from conversations_api.embedded_postgres import postgres_files
from tenancy import authentication, twilio_credentials

ISSUER = "https://demo.faro.example"
AUDIENCE = "faro-conversations-demo"
TOKEN_LIFETIME = timedelta(hours=12)


class DemoError(Exception):
    """The demo cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """The keys that this demo made for itself, and its agencies."""

    private_key: str
    public_key: str
    secrets_key: str
    twilio: TwilioAccount
    agencies: list[Agency]

    @classmethod
    def invent(cls) -> "Installation":
        private_key, public_key = authentication.generate_key_pair()
        twilio, own = (TwilioAccount(f"AC{uuid.uuid4().hex}", f"{uuid.uuid4().hex}") for _ in range(2))
        return cls(
            private_key, public_key, twilio_credentials.generate_key(), twilio, invented_agencies.invent(twilio, own)
        )

    @property
    def accounts(self) -> dict[str, str]:
        """The token of each Twilio account."""
        own = [agency.own_account for agency in self.agencies if agency.own_account is not None]
        return {account.account_sid: account.auth_token for account in [self.twilio, *own]}

    def token(self, agency: Agency, role: str) -> str:
        """A token as the demo's agency hands it to its user of that role."""
        return self.sign(agency.id, role, invented_agencies.user_id(agency.name, role), TOKEN_LIFETIME)

    def sign(self, agency_id: uuid.UUID, role: str, user_id: str, lifetime: timedelta) -> str:
        return authentication.sign_token(
            self.private_key,
            issuer=ISSUER,
            audience=AUDIENCE,
            user_id=user_id,
            agency_id=agency_id,
            role=role,
            lifetime=lifetime,
        )


class DemoFolder:
    """The data folder of a demo."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def demo_json(self) -> Path:
        return self.path / "demo.json"

    @property
    def answers(self) -> Path:
        return self.path / "answers.txt"

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def take_up(self) -> Installation:
        """The installation of this folder; a new one where there is none."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._installation_json.exists():
            _write(self._installation_json, asdict(Installation.invent()))
        return self.read()

    def read(self) -> Installation:
        """Raises DemoError where no demo was ever started."""
        try:
            stored = json.loads(self._installation_json.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DemoError(f"no demo was ever started in {self.path}: run `conversations-api demo` first") from None
        except PermissionError:
            raise DemoError(f"the demo in {self.path} belongs to another user") from None
        agencies = [_agency(one) for one in stored.pop("agencies")]
        return Installation(**{**stored, "twilio": TwilioAccount(**stored["twilio"]), "agencies": agencies})

    def sign_token(self, *, agency: str, role: str, user_id: str, hours: float) -> str:
        """A token for an agency of the demo, by its name or the beginning of it, or for any agency by its id.

        Raises DemoError.
        """
        installation = self.read()
        if role not in authentication.ROLES:
            raise DemoError(f"there is no role {role}: one of {', '.join(invented_agencies.ROLES)}")
        if not 0 < hours <= 24 * 365:
            raise DemoError("a token is valid for more than 0 hours and at most a year")
        named = [one for one in installation.agencies if one.name.lower().startswith(agency.lower())]
        try:
            agency_id = named[0].id if len(named) == 1 else uuid.UUID(agency)
        except ValueError:
            names = ", ".join(one.name for one in installation.agencies)
            raise DemoError(f"there is no one agency {agency!r}: {names}, or an id") from None
        return installation.sign(agency_id, role, user_id, timedelta(hours=hours))

    def write_answers(self, lines: Sequence[str]) -> None:
        """What the simulator's contacts answer with."""
        self.answers.write_text("\n".join(lines), encoding="utf-8")

    def publish(self, content: Mapping[str, Any]) -> None:
        """Write demo.json whole: whoever finds it finds all of it."""
        _write(self.demo_json, content)

    def withdraw(self) -> None:
        self.demo_json.unlink(missing_ok=True)

    @property
    def _installation_json(self) -> Path:
        return self.path / "installation.json"


def _agency(stored: dict[str, Any]) -> Agency:
    own = stored["own_account"]
    return Agency(
        id=uuid.UUID(stored["id"]),
        name=stored["name"],
        locations=tuple(Location(**_ids(one, "id", "client_id")) for one in stored["locations"]),
        channels=tuple(Channel(**_ids(one, "id", "location_id")) for one in stored["channels"]),
        members=tuple((user_id, role) for user_id, role in stored["members"]),
        own_account=None if own is None else TwilioAccount(**own),
    )


def _ids(stored: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**stored, **{name: uuid.UUID(stored[name]) for name in names}}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    postgres_files.write_private(unfinished, json.dumps(content, indent=2, default=str) + "\n")
    unfinished.replace(path)
