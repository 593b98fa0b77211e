"""A webhook that is refused has cost the same, whatever it names: the stopwatch has nothing to tell apart.

What takes time is counted here: what PostgreSQL is asked, the tokens that are decrypted, the signatures that are made.
`make isolation` holds the clock.
"""

import hmac
import re
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import event

from delivery.twilio_gateway import InvalidSignature
from handlers import twilio_webhooks
from handlers.requests import Request
from handlers.services import Services
from tenancy.transaction import Database
from tenancy.twilio_credentials import TwilioCredentials
from tests.agencies import ACCOUNT_SID, Agency
from tests.api_client import AUTH_TOKEN, BASE_PATH, INBOUND, PUBLIC_BASE_URL, Api, inbound_form, new_sid
from tests.handlers.test_webhook_signatures import OLD_TOKEN, own_account
from tests.serving import SECRETS_KEY

UUIDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Work = tuple[tuple[str, ...], int, int]


class Meter:
    """Counts what a handler does."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, previous_auth_token: str | None) -> None:
        self._database = Database(api.urls.app, pool_size=1)
        self._services = SimpleNamespace(
            database=self._database,
            twilio_credentials=TwilioCredentials(
                SECRETS_KEY, account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, previous_auth_token=previous_auth_token
            ),
            public_base_url=PUBLIC_BASE_URL,
            twilio_base_url="https://api.twilio.com",
        )
        self._asked: list[str] = []
        self._calls = {"decrypt": 0, "sign": 0}
        decrypt, new = Fernet.decrypt, hmac.new

        def counted_decrypt(*arguments: Any, **named: Any) -> bytes:
            self._calls["decrypt"] += 1
            return decrypt(*arguments, **named)

        def counted_new(*arguments: Any, **named: Any) -> Any:
            self._calls["sign"] += 1
            return new(*arguments, **named)

        monkeypatch.setattr(Fernet, "decrypt", counted_decrypt)
        monkeypatch.setattr(hmac, "new", counted_new)
        event.listen(
            self._database.engine,
            "before_cursor_execute",
            lambda _c, _k, sql, *_: self._asked.append(UUIDS.sub("<uuid>", sql)),
        )

    def close(self) -> None:
        self._database.close()

    def inbound(self, form: dict[str, str]) -> Work:
        return self._refused(INBOUND, form)

    def status(self, agency_id: UUID, account_sid: str) -> Work:
        form = {"AccountSid": account_sid, "MessageSid": new_sid(), "MessageStatus": "sent"}
        message_id = uuid4()
        target = f"{BASE_PATH}/webhooks/twilio/status/{agency_id}/{message_id}/1"
        return self._refused(target, form, agency_id=str(agency_id), message_id=str(message_id), attempt=1)

    def _refused(self, target: str, form: dict[str, str], **path: Any) -> Work:
        request = Request(
            services=cast("Services", self._services),
            state={},
            claims=None,
            headers={"x-twilio-signature": "x" * 28},
            tenant_id=None,
            target=target,
            body=urlencode(form).encode(),
        )
        handler = twilio_webhooks.receive_message_status if path else twilio_webhooks.receive_inbound_message
        for _ in range(2):  # the first time statements are prepared
            self._asked.clear()
            self._calls.update(decrypt=0, sign=0)
            with pytest.raises(InvalidSignature):
                handler(request, **path)
        assert min(len(self._asked), *self._calls.values()) > 0, "something is not counted any more"
        return tuple(self._asked), self._calls["decrypt"], self._calls["sign"]


@pytest.fixture(params=[None, OLD_TOKEN], ids=["one token", "two tokens"])
def meter(request: pytest.FixtureRequest, api: Api, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Meter(api, monkeypatch, request.param)
    yield made
    made.close()


@pytest.fixture
def mine(api: Api) -> Agency:
    return api.new_agency()


@pytest.mark.parametrize("fields", [{}, {"MessagingServiceSid": "MG" + "9" * 32}], ids=["number", "number and service"])
def test_a_message_costs_the_same_whether_or_not_number_and_account_are_known(
    api: Api, mine: Agency, meter: Meter, fields: dict[str, str]
) -> None:
    owns, exchanges = api.new_agency(), api.new_agency()
    own, exchanged = own_account(api, owns), own_account(api, exchanges, previous=OLD_TOKEN)
    nobodys_number, nobodys_account = {"To": "+19995550000"}, {"AccountSid": "AC" + "f" * 32}
    costs = {
        "known number": meter.inbound(inbound_form(mine, **fields)),
        "unknown number": meter.inbound(inbound_form(mine, **nobodys_number, **fields)),
        "unknown account": meter.inbound(inbound_form(mine, **nobodys_account, **fields)),
        "own account": meter.inbound(inbound_form(owns, AccountSid=own, **fields)),
        "own account, unknown number": meter.inbound(inbound_form(owns, AccountSid=own, **nobodys_number, **fields)),
        "own account with two tokens": meter.inbound(inbound_form(exchanges, AccountSid=exchanged, **fields)),
        "another agency's account": meter.inbound(inbound_form(mine, AccountSid=own, **fields)),
    }
    assert costs == dict.fromkeys(costs, costs["unknown number"])


def test_a_report_costs_the_same_whether_or_not_agency_and_account_are_known(
    api: Api, mine: Agency, meter: Meter
) -> None:
    owns, exchanges = api.new_agency(), api.new_agency()
    own, exchanged = own_account(api, owns), own_account(api, exchanges, previous=OLD_TOKEN)
    costs = {
        "known agency": meter.status(mine.id, ACCOUNT_SID),
        "unknown agency": meter.status(uuid4(), ACCOUNT_SID),
        "unknown account": meter.status(mine.id, "AC" + "f" * 32),
        "own account": meter.status(owns.id, own),
        "own account with two tokens": meter.status(exchanges.id, exchanged),
        "own account, unknown agency": meter.status(uuid4(), own),
        "another agency's account": meter.status(mine.id, own),
    }
    assert costs == dict.fromkeys(costs, costs["unknown agency"])


@pytest.mark.parametrize("headers", [{}, {"x-twilio-signature": ""}], ids=["unsigned", "empty"])
def test_what_is_not_signed_asks_the_database_nothing(mine: Agency, headers: dict[str, str]) -> None:
    request = Request(
        services=cast("Services", SimpleNamespace(public_base_url=PUBLIC_BASE_URL)),  # there is no database
        state={},
        claims=None,
        headers=headers,
        tenant_id=None,
        target=INBOUND,
        body=urlencode(inbound_form(mine)).encode(),
    )
    with pytest.raises(InvalidSignature):
        twilio_webhooks.receive_inbound_message(request)
    with pytest.raises(InvalidSignature):
        twilio_webhooks.receive_message_status(request, str(mine.id), str(uuid4()), 1)


def test_a_service_is_found_where_the_number_is_nobodys_and_the_number_comes_first(api: Api, mine: Agency) -> None:
    other = api.new_agency()
    service_sid = "MG" + uuid4().hex
    api.sql(
        other,
        "update number_routing set address = :sid where agency_id = :agency_id and channel_id = :channel_id",
        sid=service_sid,
        channel_id=other.sms_id,
    )
    assert api.receive(mine, "To a number", MessagingServiceSid=service_sid).status == 200
    assert api.receive(other, "To the pool", MessagingServiceSid=service_sid).status == 200
    for agency, content in ((mine, "To a number"), (other, "To the pool")):
        [conversation] = api.of(agency).get("/conversations").json["conversations"]
        assert conversation["last_message_preview"] == content
