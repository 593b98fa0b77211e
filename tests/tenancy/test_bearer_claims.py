"""What is made of a credential before our verifier sees it, and what reaches a handler."""

import contextlib
import types
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from conversations_api.web.app import build_app
from handlers import responses
from handlers.requests import Request
from tenancy import authentication
from tenancy.rate_limits import RateLimits

AGENCY = uuid.UUID("0190f0aa-5d2e-7c11-8a3b-0123456789ab")
PRIVATE, PUBLIC = authentication.generate_key_pair()
CONTRACT = {
    "openapi": "3.0.3",
    "info": {"title": "who", "version": "1"},
    "paths": {
        "/who": {
            "get": {
                "operationId": "who",
                "x-openapi-router-controller": "tests.tenancy.test_bearer_claims",
                "security": [{"bearer": []}],
                "responses": {
                    "200": {"description": "who", "content": {"application/json": {"schema": {"type": "object"}}}},
                    "401": {"description": "refused"},
                },
            }
        }
    },
    "components": {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "x-bearerInfoFunc": "tenancy.authentication.bearer_claims",
            }
        }
    },
}


def token(role: str = "staff") -> str:
    return authentication.sign_token(
        PRIVATE,
        issuer="i",
        audience="a",
        user_id="user_1",
        agency_id=AGENCY,
        role=role,
        lifetime=timedelta(hours=1),
    )


def who(request: Request) -> responses.Response:
    assert request.claims is not None
    claims = request.claims
    return responses.ok({"user": claims.user_id, "agency": str(claims.agency_id), "role": claims.role})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    verifier = authentication.TokenVerifier(issuer="i", audience="a", public_key=PUBLIC)

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        unlimited = RateLimits(requests_per_minute=0, sends_per_minute=0)
        yield {"services": types.SimpleNamespace(token_verifier=verifier, rate_limits=unlimited)}

    contract = tmp_path_factory.mktemp("contract") / "contract.yaml"
    contract.write_text(yaml.safe_dump(CONTRACT), encoding="utf-8")
    with TestClient(build_app(services_lifespan=lifespan, contract_path=contract)) as opened:
        yield opened


def test_the_claims_reach_the_handler(client: TestClient) -> None:
    answer = client.get("/who", headers={"Authorization": f"Bearer {token()}"})
    assert (answer.status_code, answer.json()) == (200, {"user": "user_1", "agency": str(AGENCY), "role": "staff"})


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Basic eDp5"],
        [b"TOKEN"],
        [b"Bearer a b"],
        [b"Bearer TOKEN b"],
        [b"Bearer TOKEN, Bearer TOKEN"],
        [b"Bearer TOKEN", b"Bearer other"],
        [b"Bearer other", b"Bearer TOKEN"],
        [b"Bearer TOKEN", b"Bearer TOKEN"],
        [b"Basic eDp5", b"Bearer TOKEN"],
        [b"Bearer TOKEN\xe9"],
        [b"Bearer \xed\xa0\x80"],
        [b"Bearer " + b"x" * 12_000],
    ],
)
def test_every_authorization_but_one_good_token_ends_in_401(client: TestClient, values: list[bytes]) -> None:
    good = token().encode()
    answer = client.get("/who", headers=[(b"Authorization", value.replace(b"TOKEN", good)) for value in values])
    assert answer.status_code == 401


def test_an_unknown_role_surfaces_as_itself(client: TestClient) -> None:
    answer = client.get("/who", headers={"Authorization": f"Bearer {token(role='root')}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "role_forbidden")
