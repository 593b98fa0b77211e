"""What a request may reach: made once per process, handed over by the application's lifespan, never a global."""

from dataclasses import dataclass

from tenancy.authentication import TokenVerifier
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
