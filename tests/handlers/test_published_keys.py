"""Tokens of an issuer that publishes its keys: what requests are answered while keys change or there are none."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tenancy import authentication, jwks
from tests.agencies import Urls
from tests.api_client import AUDIENCE, BASE_PATH, ISSUER, Api
from tests.serving import served
from tests.tenancy.test_jwks import entry


@dataclass
class Issuer:
    """`keys` are what it publishes now; without any it answers 500."""

    url: str = ""
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    asked: int = 0

    def token(self, kid: str, agency_id: UUID) -> str:
        pem = KEYS[kid].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return authentication.sign_token(
            pem.decode(),
            issuer=ISSUER,
            audience=AUDIENCE,
            user_id="user_1",
            agency_id=agency_id,
            role="staff",
            lifetime=timedelta(hours=1),
            kid=kid,
        )


KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("old", "new")}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked += 1
            self.send_response(200 if made.keys else 500)
            self.end_headers()
            published = [entry(kid, key.public_key()) for kid, key in made.keys.items()]
            self.wfile.write(json.dumps({"keys": published}).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def published(issuer: Issuer, urls: Urls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """An API that asks the issuer anew whenever it may learn something, and not only once a minute."""
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.0)
    with served(urls, JWT_PUBLIC_KEY="", JWT_JWKS_URL=issuer.url) as api:
        yield api


def ask(api: Api, token: str) -> Any:
    return api.ask("GET", f"{BASE_PATH}/conversations", headers=[("Authorization", f"Bearer {token}")])


def test_without_any_keys_it_is_503_and_neither_401_nor_200_until_there_are_some(
    published: Api, issuer: Issuer
) -> None:
    agency, other = published.new_agency(), published.new_agency()
    published.converse(agency, "mine")
    published.converse(other, "theirs")
    token = issuer.token("old", agency.id)
    for bad_or_good in (token, token[:-8] + "AAAAAAAA"):
        answer = ask(published, bad_or_good)
        assert answer.refusal == (503, "keys_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert published.ask("GET", f"{BASE_PATH}/conversations").refusal == (401, "unauthenticated")
    assert published.receive(agency, "without a token").status == 200
    issuer.keys["old"] = KEYS["old"]
    assert [each["last_message_preview"] for each in ask(published, token).json["conversations"]] == ["without a token"]


def test_no_request_fails_while_an_issuer_exchanges_its_key(published: Api, issuer: Issuer) -> None:
    agency = published.new_agency()
    old, new = issuer.token("old", agency.id), issuer.token("new", agency.id)
    issuer.keys["old"] = KEYS["old"]
    assert ask(published, old).status == 200
    assert ask(published, new).refusal == (401, "unauthenticated")
    issuer.keys["new"] = KEYS["new"]
    assert [ask(published, token).status for token in (new, old, new, old)] == [200] * 4
    del issuer.keys["old"]
    assert ask(published, new).status == 200


def test_an_issuer_that_is_gone_costs_no_request_while_its_keys_are_known(published: Api, issuer: Issuer) -> None:
    agency = published.new_agency()
    token, unknown = issuer.token("old", agency.id), issuer.token("new", agency.id)
    issuer.keys["old"] = KEYS["old"]
    assert ask(published, token).status == 200
    issuer.keys.clear()
    assert ask(published, unknown).refusal == (401, "unauthenticated")
    assert [ask(published, token).status for _ in range(5)] == [200] * 5
    assert issuer.asked >= 2
