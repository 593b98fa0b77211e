"""The Twilio accounts that agencies own; tokens leave here as they are stored, encrypted."""

from dataclasses import dataclass

from sqlalchemy import text

from persistence.connection import TenantConnection

FIND = text("""
    select auth_token, previous_auth_token
    from twilio_accounts
    where agency_id = :agency_id
    and account_sid = :account_sid
""")


@dataclass(frozen=True)
class EncryptedTokens:
    """The primary token, and the one before it while a rotation lasts."""

    auth_token: str
    previous_auth_token: str | None


def find(connection: TenantConnection, *, account_sid: str) -> EncryptedTokens | None:
    """The tokens of an account of the bound agency, or None."""
    row = connection.execute(FIND, account_sid=account_sid).first()
    return EncryptedTokens(row.auth_token, row.previous_auth_token) if row else None
