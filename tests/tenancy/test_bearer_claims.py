"""What Connexion makes of a credential before and after our hook sees it."""

import contextlib
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import connexion
import pytest
from connexion.context import context
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from starlette.testclient import TestClient

from tenancy import authentication, errors

AGENCY = uuid.UUID("0190f0aa-5d2e-7c11-8a3b-0123456789ab")
PRIVATE, PUBLIC = authentication.generate_key_pair()
CONTRACT = {
    "openapi": "3.0.3",
    "info": {"title": "who", "version": "1"},
    "paths": {
        "/who": {
            "get": {"operationId": "who", "security": [{"bearer": []}], "responses": {"200": {"description": "who"}}}
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


def who() -> dict[str, str]:
    claims = context["token_info"]["claims"]
    return {"user": context["user"], "agency": str(claims.agency_id), "role": claims.role}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    verifier = authentication.TokenVerifier(issuer="i", audience="a", public_key=PUBLIC)

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        yield {"services": types.SimpleNamespace(token_verifier=verifier)}

    def refuse(request: ConnexionRequest, error: Exception) -> ConnexionResponse:
        status = 401 if isinstance(error, errors.InvalidToken) else 403
        return ConnexionResponse(status_code=status, body=type(error).__name__)

    resolve: Callable[[str], Any] = {"who": who}.__getitem__
    app = connexion.FlaskApp(__name__, lifespan=lifespan)
    app.add_api(CONTRACT, resolver=connexion.Resolver(resolve))
    app.add_error_handler(errors.InvalidToken, refuse)
    app.add_error_handler(errors.RoleForbidden, refuse)
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def test_the_hook_hands_the_claims_to_the_handler(client: TestClient) -> None:
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
        [b"Bearer " + b"x" * 20_000],
    ],
)
def test_every_authorization_but_one_good_token_ends_in_401(client: TestClient, values: list[bytes]) -> None:
    good = token().encode()
    answer = client.get("/who", headers=[(b"Authorization", value.replace(b"TOKEN", good)) for value in values])
    assert answer.status_code == 401


def test_an_unknown_role_surfaces_as_itself(client: TestClient) -> None:
    answer = client.get("/who", headers={"Authorization": f"Bearer {token(role='root')}"})
    assert (answer.status_code, answer.text) == (403, "RoleForbidden")
