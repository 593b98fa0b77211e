"""What a request may reach: made once per process, handed over by the application's lifespan, never a global."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import connexion

from tenancy import access
from tenancy.authentication import TokenVerifier
from tenancy.errors import RateLimited
from tenancy.rate_limits import RateLimits
from tenancy.transaction import Database
from tenancy.twilio_credentials import TwilioCredentials


@dataclass(frozen=True)
class Services:
    """`public_base_url` is where Twilio reaches this API; signatures are computed over it, never over Host."""

    database: Database
    token_verifier: TokenVerifier
    twilio_credentials: TwilioCredentials
    rate_limits: RateLimits
    public_base_url: str
    twilio_base_url: str


def current() -> Services:
    """The services of the application that the running request belongs to."""
    services: Services = connexion.request.state.services
    return services


@contextmanager
def open_inbox(*, sending: bool = False) -> Iterator[access.Inbox]:
    """The transaction of the agency that the running request acts for; see `tenancy.access.open_inbox`."""
    request = connexion.request

    def count(agency_id: UUID) -> None:
        usage = current().rate_limits.spend(agency_id, sending=sending)
        request.state.rate_limits = usage.quotas  # for the headers of the answer, whatever it will be
        if usage.retry_after is not None:
            raise RateLimited(usage.retry_after)

    with access.open_inbox(
        current().database,
        request.context["token_info"]["claims"],
        header=request.headers.get("X-Tenant-ID"),
        query=request.query_params.get("tenant_id"),
        sending=sending,
        count=count,
    ) as inbox:
        request.state.agency_id = str(inbox.connection.agency_id)  # for the log
        yield inbox
