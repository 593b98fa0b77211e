"""Connexion as its documentation shows it, on the contract of ours, with SQLAlchemy and `text()` statements.

`connexion.FlaskApp`, `add_api`, `strict_validation=True` and `validate_responses=True`, Connexion's own validators and
JSON, handlers that return dicts. Of the contract it keeps the operations that it answers. Started as Connexion's
documentation says: gunicorn with uvicorn's worker class. Its pool is as large as the ten threads that it runs handlers
in.
"""

import functools
from pathlib import Path
from typing import Any

import connexion
import sqlalchemy
import yaml
from connexion.exceptions import OAuthProblem
from connexion.resolver import RelativeResolver
from jose import JWTError, jwk, jwt

from benchmarks.peers import environment

CONTRACT = Path(__file__).parents[2] / "api/openapi.yaml"
HANDLERS = "benchmarks.peers.connexion_handlers"
OPERATIONS = {"listConversations", "listMessages", "sendMessage"}

settings = environment.read()
engine = sqlalchemy.create_engine(
    settings.dsn.replace("postgresql:", "postgresql+psycopg2:"), pool_size=settings.pool_size, max_overflow=0
)
# A finished key: python-jose would parse the PEM again for every request.
key = jwk.construct(settings.public_key, "RS256")


def bearer_info(token: str) -> dict[str, Any]:
    """Connexion's `x-bearerInfoFunc`; its answer reaches the handlers as `token_info`."""
    try:
        return dict(jwt.decode(token, key, ["RS256"], audience=settings.audience, issuer=settings.issuer))
    except JWTError:
        raise OAuthProblem("the token is not valid") from None


@functools.cache
def contract() -> dict[str, Any]:
    """Our document, led to the handlers of this peer."""
    document: dict[str, Any] = yaml.safe_load(CONTRACT.read_text(encoding="utf-8"))
    document["components"]["securitySchemes"]["bearerAuth"]["x-bearerInfoFunc"] = f"{__name__}.bearer_info"
    for path in list(document["paths"]):
        item = document["paths"][path]
        for method in list(item):
            if item[method].pop("x-openapi-router-controller") and item[method]["operationId"] not in OPERATIONS:
                del item[method]
        if not item:
            del document["paths"][path]
    return document


app = connexion.FlaskApp(__name__)
app.add_api(contract(), resolver=RelativeResolver(HANDLERS), strict_validation=True, validate_responses=True)
