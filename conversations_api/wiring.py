"""How the parts are put together, once per process: after the fork, before the first request."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from conversations_api import metrics, metrics_server
from conversations_api.settings import Settings
from conversations_api.web.lanes import Limits
from handlers.services import Services
from persistence import role_safety, schema, schema_lint
from tenancy.authentication import TokenVerifier
from tenancy.rate_limits import RateLimits
from tenancy.transaction import Database, unbound_transaction
from tenancy.twilio_credentials import TwilioCredentials


class UnsafeDatabase(Exception):
    """The database must not be used as it is; the message says why."""


def services_lifespan(settings: Settings) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Services]]]:
    """The lifespan that gives every request of a process its services, and closes them at the end."""

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[dict[str, Services]]:
        services = make_services(settings)
        try:
            with metrics_server.sampling(settings, lambda: metrics.sample_pool(services.database)):
                yield {"services": services}
        finally:
            services.database.close()

    return lifespan


def make_services(settings: Settings) -> Services:
    """A connection for each thread that needs one: no request waits for one that another thread holds."""
    return Services(
        database=Database(
            settings.database_url, pool_size=Limits(handler_threads=settings.handler_threads).connections
        ),
        token_verifier=TokenVerifier(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            public_key=settings.jwt_public_key,
            jwks_url=settings.jwt_jwks_url,
            authorized_parties=settings.jwt_authorized_parties,
        ),
        twilio_credentials=make_twilio_credentials(settings),
        rate_limits=RateLimits(
            requests_per_minute=settings.rate_limit_requests_per_minute,
            sends_per_minute=settings.rate_limit_sends_per_minute,
            storage_url=settings.rate_limit_storage_url,
        ),
        public_base_url=settings.public_base_url,
        twilio_base_url=settings.twilio_base_url,
    )


def make_twilio_credentials(settings: Settings) -> TwilioCredentials:
    """What decrypts the agencies' own Twilio tokens, with the installation's account if it has one."""
    return TwilioCredentials(
        settings.secrets_key,
        account_sid=settings.twilio_account_sid,
        auth_token=settings.twilio_auth_token,
        previous_auth_token=settings.twilio_previous_auth_token,
    )


def check_owners_database(url: str) -> None:
    """Raise UnsafeDatabase when row-level security does not bind the role, or the schema is not this release's.

    Raises DatabaseUnavailable when the database does not answer.
    """
    database = Database(url, pool_size=1)
    try:
        with unbound_transaction(database, read_only=True) as connection:
            revision = schema.current(connection)
            unbound = role_safety.sees_past_policies(connection)
    finally:
        database.close()
    if unbound:
        raise UnsafeDatabase("the role sees past row-level security")
    if revision != schema.head():
        raise UnsafeDatabase(
            f"the schema is at revision {revision or 'none'}, this release needs {schema.head()}: run migrate"
        )


def check_database(url: str) -> None:
    """Raise UnsafeDatabase when role or schema do not keep agencies apart, or the schema is an earlier release's.

    Raises DatabaseUnavailable when the database does not answer.
    """
    database = Database(url, pool_size=1)
    try:
        with unbound_transaction(database, read_only=True) as connection:
            revision = schema.current(connection)
            # The rules for the schema are those of this release; the role must be safe on any.
            violations = (schema_lint if revision == schema.head() else role_safety).violations(connection)
    finally:
        database.close()
    if violations:
        more = f"; and {len(violations) - 5} more" if len(violations) > 5 else ""
        raise UnsafeDatabase("; ".join(violations[:5]) + more)
    if not schema.serves(revision):
        raise UnsafeDatabase(
            f"the schema is at revision {revision or 'none'}, this release needs {schema.head()}: run migrate"
        )
