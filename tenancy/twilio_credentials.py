"""The tokens of Twilio accounts: an agency's own, stored encrypted, and the one account of the installation.

The first key of SECRETS_KEY encrypts and every one of them decrypts, so a key is exchanged without a pause: put the new
one in front, encrypt what is stored anew, and only then take the old one away.
"""

import base64
import secrets
from contextlib import suppress

from cryptography.fernet import Fernet, InvalidToken

from persistence import twilio_accounts
from persistence.connection import TenantConnection

KEY_BYTES = 32
# A random key has 30 different bytes on average; one with fewer than 16 was typed or padded.
LEAST_DIFFERENT_BYTES = 16


class CredentialsUnreadable(Exception):
    """A stored Twilio token was not encrypted with any key of SECRETS_KEY."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class TwilioCredentials:
    """Finds the tokens of an account; shows none of them, and no key, when printed."""

    def __init__(
        self,
        secrets_key: str,
        *,
        account_sid: str | None = None,
        auth_token: str | None = None,
        previous_auth_token: str | None = None,
    ) -> None:
        """`secrets_key` is the value of SECRETS_KEY; the rest is the account of the installation, if there is one.

        Raises ValueError naming the setting.
        """
        if (account_sid is None) != (auth_token is None):
            raise ValueError("TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN must be set together")
        try:
            self._fernets = [Fernet(key) for key in _keys(secrets_key)]
        except ValueError as error:
            raise ValueError(f"SECRETS_KEY {error}") from None
        self._account_sid = account_sid
        self._tokens = (auth_token, previous_auth_token) if auth_token else None
        # Random, and known to nobody: nothing is ever signed with it.
        self._nobodys_token = self.encrypt(secrets.token_hex(16))

    def encrypt(self, token: str) -> str:
        return self._fernets[0].encrypt(token.encode()).decode("ascii")

    def decrypt(self, stored: str) -> str:
        """Takes as long whichever key fits. Raises CredentialsUnreadable."""
        decrypted = None
        for fernet in self._fernets:
            with suppress(InvalidToken, ValueError):
                decrypted = fernet.decrypt(stored.encode()).decode()
        if decrypted is None:
            raise CredentialsUnreadable
        return decrypted

    def find_tokens(self, connection: TenantConnection, *, account_sid: str) -> tuple[str, str | None] | None:
        """(primary, previous) token of an account that the bound agency owns, or else of the installation's own.

        The agency's own comes first. Raises CredentialsUnreadable.
        """
        stored = twilio_accounts.find(connection, account_sid=account_sid)
        if stored is None:
            return self._tokens if account_sid == self._account_sid else None
        previous = stored.previous_auth_token
        return self.decrypt(stored.auth_token), None if previous is None else self.decrypt(previous)

    def find_signing_tokens(self, connection: TenantConnection, *, account_sid: str) -> tuple[str, str]:
        """The same, to hold a signature against: where there is none, one that nobody has.

        An account that there is not costs as much as one that there is: one look-up and two decryptions.
        """
        stored = twilio_accounts.find(connection, account_sid=account_sid)
        own = (None, None) if stored is None else (stored.auth_token, stored.previous_auth_token)
        primary, previous = (self.decrypt(token or self._nobodys_token) for token in own)
        if stored is None and self._tokens is not None and account_sid == self._account_sid:
            return self._tokens[0], self._tokens[1] or previous
        return primary, previous


def check_keys(secrets_key: str) -> None:
    """Raises ValueError, naming the rule and never the value, unless this is one or more fit keys.

    The message reads on from the name of the setting.
    """
    _keys(secrets_key)


def generate_key() -> str:
    """A new key, as SECRETS_KEY takes it."""
    return Fernet.generate_key().decode("ascii")


def _keys(secrets_key: str) -> list[str]:
    keys = [key.strip() for key in secrets_key.split(",")]
    for key in keys:
        try:
            # Strictly: the library skips characters that it does not know, and so takes what was mistyped.
            raw = base64.b64decode(key, altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        if len(raw) != KEY_BYTES:
            raise ValueError(f"must be keys of {KEY_BYTES} bytes in URL-safe base64, separated by commas")
        if len(set(raw)) < LEAST_DIFFERENT_BYTES:
            raise ValueError("must be keys from a random generator")
    return keys
