"""The Twilio account that a channel sends from: the agency's own, or the installation's."""

from delivery.carrier import TwilioAccount
from persistence import twilio_accounts
from persistence.connection import TenantConnection
from tenancy.twilio_credentials import TwilioCredentials


def find(connection: TenantConnection, credentials: TwilioCredentials, *, account_sid: str) -> TwilioAccount | None:
    """The account with its tokens, or None when neither the bound agency nor the installation has it.

    Raises ValueError when a stored token was encrypted with a key that is no longer configured.
    """
    stored = twilio_accounts.find(connection, account_sid=account_sid)
    if stored is not None:
        previous = stored.previous_auth_token
        return TwilioAccount(
            account_sid, credentials.decrypt(stored.auth_token), previous and credentials.decrypt(previous)
        )
    installation = credentials.installation_account
    if installation is not None and installation.account_sid == account_sid:
        return TwilioAccount(account_sid, installation.auth_token, installation.previous_auth_token)
    return None
