"""A client that sends exactly what a test means, and holds every answer to what the contract promises of all of them.

An `Api` is a served API with the database behind it. Each test makes agencies of its own there, so that the rows of
every other test are the ones that must not show up.
"""

import http.client
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy
import uuid_utils.compat as uuid_utils
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from delivery import twilio_gateway
from handlers import problems
from persistence import conversation_counts
from tenancy import authentication
from tenancy.transaction import Database, tenant_transaction
from tests.agencies import ACCOUNT_SID, CONTACT_PHONE, Agency, Urls, make_agency, set_status

ISSUER = "https://login.example.com"
AUDIENCE = "faro"
PUBLIC_BASE_URL = "https://api.example.com"
AUTH_TOKEN = "9f86d081884c7d659a2feaa0c55ad015"
BASE_PATH = "/api/v1"
INBOUND = f"{BASE_PATH}/webhooks/twilio/inbound"
FORM = "application/x-www-form-urlencoded"
EMPTY_TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


def _key_pair() -> tuple[str, str]:
    """(private, public) as PEM: an EC key, because an RSA key takes longer to load than a request to answer."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode("ascii"), public.decode("ascii")


PRIVATE_KEY, PUBLIC_KEY = _key_pair()

Pairs = Iterable[tuple[str, str]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Answer:
    """A whole answer; a header that occurs twice fails the test."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The machine code of a problem."""
        return str(self.json["code"])

    @property
    def errors(self) -> dict[str, str]:
        return {error["field"]: error["message"] for error in self.json["errors"]}

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and code."""
        return self.status, self.code


def check_promises(answer: Answer, method: str) -> None:
    """What every answer keeps, whatever was asked."""
    headers = answer.headers
    assert _REQUEST_ID.fullmatch(headers["x-request-id"])
    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Authorization, X-Tenant-ID"
    assert answer.status < 500 or answer.status == 503, answer.body
    if answer.status < 400 or method == "HEAD":
        return
    assert headers["content-type"] == problems.MEDIA_TYPE
    assert len(answer.body) <= 1024
    problem = answer.json
    assert list(problem) == ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"]
    assert problem["type"] == f"urn:faro:problem:{problem['code']}"
    assert problem["status"] == answer.status == problems.KINDS[problem["code"]].status
    assert problem["request_id"] == headers["x-request-id"]
    assert ("retry-after" in headers) == (answer.status in (409, 429, 503))
    assert ("www-authenticate" in headers) == (answer.status == 401)
    assert ("allow" in headers) == (answer.status == 405)


class Api:
    """A served API and the database behind it."""

    def __init__(self, port: int, urls: Urls) -> None:
        self.port = port
        self.urls = urls
        self._numbers = itertools.count(1)
        self._tokens: dict[tuple[UUID, str, str], str] = {}
        self._owner = Database(urls.owner, pool_size=2)

    def close(self) -> None:
        self._owner.close()

    def ask(
        self, method: str, target: str, *, headers: Pairs = (), body: bytes | None = None, seconds: float = 90.0
    ) -> Answer:
        """One request on a connection of its own; `target` is the raw path and query."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            assert len(found) == len(response.getheaders()), f"repeated: {response.getheaders()}"
            answer = Answer(response.status, found, response.read())
        finally:
            connection.close()
        check_promises(answer, method)
        return answer

    def new_agency(self, *, status: str = "active") -> Agency:
        return make_agency(self.urls.owner, next(self._numbers), status=status)

    def token(self, agency_id: UUID, role: str = "staff", user_id: str = "user_1") -> str:
        key = (agency_id, role, user_id)
        if key not in self._tokens:
            self._tokens[key] = authentication.sign_token(
                PRIVATE_KEY,
                issuer=ISSUER,
                audience=AUDIENCE,
                user_id=user_id,
                agency_id=agency_id,
                role=role,
                lifetime=timedelta(hours=12),
            )
        return self._tokens[key]

    def of(self, agency: Agency, role: str = "staff", user_id: str = "user_1") -> "Caller":
        """Somebody who works for the agency."""
        return Caller(self, self.token(agency.id, role, user_id))

    def sql(self, agency: Agency | UUID, statement: str, **parameters: Any) -> list[Any]:
        """What an operator does, as the owner of the tables and bound to the agency; the rows, if there are any."""
        agency_id = agency if isinstance(agency, UUID) else agency.id
        with tenant_transaction(self._owner, agency_id) as connection:
            result = connection.execute(sqlalchemy.text(statement), **parameters)
            return list(result) if result.returns_rows else []

    def set_status(self, agency: Agency | UUID, status: str, conversation_id: str | None = None) -> None:
        """Sort a conversation, or all of them: what no operation does."""
        agency_id = agency if isinstance(agency, UUID) else agency.id
        with tenant_transaction(self._owner, agency_id) as connection:
            set_status(connection, status, conversation_id)

    def recount(self, agency_id: UUID) -> None:
        """What an operator does who has written conversations by hand."""
        with tenant_transaction(self._owner, agency_id) as connection:
            conversation_counts.recount(connection)

    def post_signed(self, path: str, form: Pairs, *, token: str = AUTH_TOKEN, signed_path: str | None = None) -> Answer:
        """A form post as Twilio makes it: signed over the public address and the form."""
        pairs = list(form)
        signature = twilio_gateway.sign(PUBLIC_BASE_URL + (signed_path or path), pairs, token)
        return self.post_form(path, urlencode(pairs, errors="surrogateescape").encode(), signature)

    def post_form(self, path: str, body: bytes, signature: str | None) -> Answer:
        headers = [("Content-Type", FORM)]
        if signature is not None:
            headers.append(("X-Twilio-Signature", signature))
        return self.ask("POST", path, headers=headers, body=body)

    def receive(self, agency: Agency, content: str = "Hello", **fields: str) -> Answer:
        """A contact writes over SMS, unless the fields say otherwise."""
        return self.post_signed(INBOUND, inbound_form(agency, content, **fields).items())

    def converse(
        self, agency: Agency, content: str = "Hello", *, phone: str = CONTACT_PHONE, channel: str = "sms"
    ) -> str:
        """The id of the conversation with this contact, who has just written."""
        prefix = "whatsapp:" if channel == "whatsapp" else ""
        to = agency.whatsapp_address if channel == "whatsapp" else agency.sms_address
        assert self.receive(agency, content, From=prefix + phone, To=to).status == 200
        rows = self.sql(
            agency,
            """select conversations.id from conversations
            join contacts on contacts.agency_id = conversations.agency_id and contacts.id = conversations.contact_id
            where conversations.agency_id = :agency_id and contacts.phone = :phone
            and conversations.channel_id = :channel_id""",
            phone=phone,
            channel_id=agency.whatsapp_id if channel == "whatsapp" else agency.sms_id,
        )
        return str(rows[0].id)


@dataclass(frozen=True)
class Caller:
    """A user with a token; paths are given without `/api/v1`."""

    api: Api
    token: str

    def get(self, path: str, *, headers: Pairs = (), **query: object) -> Answer:
        target = BASE_PATH + path + ("?" + urlencode(query) if query else "")
        return self.api.ask("GET", target, headers=[*self._authorization, *headers])

    def post(self, path: str, body: Any = None, *, key: str | None = None, headers: Pairs = ()) -> Answer:
        sent = [*self._authorization, *headers]
        if key is not None:
            sent.append(("Idempotency-Key", key))
        if body is None:
            return self.api.ask("POST", BASE_PATH + path, headers=sent, body=b"")
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.api.ask("POST", BASE_PATH + path, headers=[*sent, ("Content-Type", "application/json")], body=raw)

    def send(self, conversation_id: str, content: str = "Hi", *, key: str | None = None, headers: Pairs = ()) -> Answer:
        return self.post(f"/conversations/{conversation_id}/messages", {"content": content}, key=key, headers=headers)

    @property
    def _authorization(self) -> list[tuple[str, str]]:
        return [("Authorization", f"Bearer {self.token}")]


def new_sid(prefix: str = "SM") -> str:
    return prefix + uuid_utils.uuid4().hex


def inbound_form(agency: Agency, content: str = "Hello", **fields: str) -> dict[str, str]:
    """The fields that Twilio sends for an SMS; those given replace or add to them."""
    form = {
        "ToCountry": "US",
        "MessageSid": new_sid(),
        "AccountSid": ACCOUNT_SID,
        "From": CONTACT_PHONE,
        "To": agency.sms_address,
        "Body": content,
        "NumMedia": "0",
        "FromCity": "",
        "ApiVersion": "2010-04-01",
    }
    return form | fields
