"""Stored Twilio tokens: unreadable without SECRETS_KEY, and readable all through the exchange of a key."""

import base64
import hashlib
import traceback

import pytest
from sqlalchemy import text

from tenancy import twilio_credentials
from tenancy.transaction import Database, tenant_transaction
from tenancy.twilio_credentials import CredentialsUnreadable, TwilioCredentials
from tests.agencies import Agency, Urls

# As random as any, and the same in each process: they stand in the names of tests.
OLD, NEW, OTHER = (
    base64.urlsafe_b64encode(hashlib.sha256(name).digest()).decode() for name in (b"old", b"new", b"other")
)
TOKEN = "0123456789abcdef0123456789abcdef"
OTHERS_TOKEN = "fedcba9876543210fedcba9876543210"
INSTALLATION_SID, OWN_SID = "AC" + "e" * 32, "AC" + "f" * 32


def test_a_stored_token_comes_back_and_does_not_show_what_it_is() -> None:
    credentials = TwilioCredentials(NEW)
    stored = credentials.encrypt(TOKEN)
    assert credentials.decrypt(stored) == TOKEN
    assert TOKEN not in stored
    assert TOKEN.encode() not in base64.urlsafe_b64decode(stored)
    assert credentials.encrypt(TOKEN) != stored, "equal tokens must not look equal"


def test_a_key_is_exchanged_without_a_pause() -> None:
    before, during, after = TwilioCredentials(OLD), TwilioCredentials(f"{NEW}, {OLD}"), TwilioCredentials(NEW)
    stored = before.encrypt(TOKEN)
    assert during.decrypt(stored) == TOKEN
    stored_anew = during.encrypt(during.decrypt(stored))
    assert after.decrypt(stored_anew) == TOKEN, "the first key encrypts"
    with pytest.raises(CredentialsUnreadable):
        before.decrypt(stored_anew)
    with pytest.raises(CredentialsUnreadable):
        after.decrypt(stored)


@pytest.mark.parametrize("stored", ["", "plain", TOKEN, "gAAAAAB", "é", "\0", "\ud800", "CHANGED", "CUT"])
def test_what_was_not_encrypted_by_us_is_unreadable(stored: str) -> None:
    credentials = TwilioCredentials(NEW)
    good = credentials.encrypt(TOKEN)
    if stored == "CHANGED":
        stored = good[:40] + ("A" if good[40] != "A" else "B") + good[41:]
    if stored == "CUT":
        stored = good[:-4]
    with pytest.raises(CredentialsUnreadable, match="SECRETS_KEY"):
        credentials.decrypt(stored)


def test_the_error_shows_neither_the_stored_value_nor_a_key() -> None:
    stored = TwilioCredentials(OTHER).encrypt(TOKEN)
    try:
        TwilioCredentials(NEW).decrypt(stored)
    except CredentialsUnreadable as error:
        text = "".join(traceback.format_exception(error)) + repr(error)
        assert not any(secret in text for secret in (stored, NEW, OTHER, TOKEN))
    else:
        raise AssertionError("a token of another key was decrypted")


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        "changeme",
        TOKEN,
        f"{NEW},",
        f"{NEW},,{OLD}",
        f"{NEW} {OLD}",
        NEW[:-1],
        NEW + "A",
        NEW[:5] + "!" + NEW[5:],
        NEW[:-5] + "é" + NEW[-4:],
        base64.urlsafe_b64encode(bytes(range(31))).decode(),
        base64.urlsafe_b64encode(bytes(range(33))).decode(),
        base64.urlsafe_b64encode(bytes(32)).decode(),
        base64.urlsafe_b64encode(b"password" * 4).decode(),
        f"{NEW},{base64.urlsafe_b64encode(bytes(32)).decode()}",
    ],
)
def test_a_weak_or_mistyped_key_is_refused_by_name_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match="SECRETS_KEY must be keys") as refusal:
        TwilioCredentials(value)
    assert len(value) < 5 or value not in str(refusal.value)
    with pytest.raises(ValueError, match=r"^must be keys"):
        twilio_credentials.check_keys(value)


@pytest.mark.parametrize("value", [NEW, f"{NEW},{OLD}", f" {NEW} , {OLD} , {OTHER} "])
def test_one_or_more_random_keys_are_fit(value: str) -> None:
    twilio_credentials.check_keys(value)
    assert TwilioCredentials(value).decrypt(TwilioCredentials(NEW).encrypt(TOKEN)) == TOKEN


def test_half_an_account_of_the_installation_is_refused_by_name() -> None:
    for half in ({"account_sid": "AC" + "0" * 32}, {"auth_token": TOKEN}):
        with pytest.raises(ValueError, match="TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN"):
            TwilioCredentials(NEW, **half)


def test_nothing_secret_is_printed() -> None:
    credentials = TwilioCredentials(NEW, account_sid="AC" + "0" * 32, auth_token=TOKEN, previous_auth_token=TOKEN[::-1])
    for shown in (repr(credentials), str(credentials)):
        assert not any(secret in shown for secret in (NEW, TOKEN, TOKEN[::-1]))


# --- whose account it is ---

INSERT = """
    insert into twilio_accounts (agency_id, account_sid, auth_token, previous_auth_token)
    values (:agency_id, :account_sid, :auth_token, :previous_auth_token)"""


def store(urls: Urls, agency: Agency, account_sid: str, auth_token: str, previous: str | None = None) -> None:
    """As an operator would, in the owner's role."""
    owner = Database(urls.owner, pool_size=1)
    try:
        with tenant_transaction(owner, agency.id) as connection:
            values = {"auth_token": auth_token, "previous_auth_token": previous}
            connection.execute(text(INSERT), account_sid=account_sid, **values)
    finally:
        owner.close()


def tokens_of(database: Database, agency: Agency, account_sid: str) -> tuple[str, str | None] | None:
    credentials = TwilioCredentials(f"{NEW},{OLD}", account_sid=INSTALLATION_SID, auth_token=TOKEN)
    with tenant_transaction(database, agency.id, read_only=True) as connection:
        return credentials.find_tokens(connection, account_sid=account_sid)


def test_the_account_of_the_installation_serves_every_agency(
    database: Database, agency: Agency, other_agency: Agency
) -> None:
    assert tokens_of(database, agency, INSTALLATION_SID) == (TOKEN, None)
    assert tokens_of(database, other_agency, INSTALLATION_SID) == (TOKEN, None)
    assert tokens_of(database, agency, OWN_SID) is None


def test_an_agencys_own_account_is_its_alone(
    urls: Urls, database: Database, worker_database: Database, agency: Agency, other_agency: Agency
) -> None:
    primary, previous = TwilioCredentials(NEW).encrypt("a" * 32), TwilioCredentials(OLD).encrypt("b" * 32)
    store(urls, agency, OWN_SID, primary, previous)
    store(urls, other_agency, INSTALLATION_SID, TwilioCredentials(NEW).encrypt(OTHERS_TOKEN))
    for pool in (database, worker_database):
        assert tokens_of(pool, agency, OWN_SID) == ("a" * 32, "b" * 32)
        assert tokens_of(pool, other_agency, OWN_SID) is None
        assert tokens_of(pool, agency, INSTALLATION_SID) == (TOKEN, None)
        assert tokens_of(pool, other_agency, INSTALLATION_SID) == (OTHERS_TOKEN, None), "its own comes first"


def test_what_a_signature_is_held_against_is_the_accounts_or_nobodys(
    urls: Urls, database: Database, agency: Agency, other_agency: Agency
) -> None:
    store(urls, agency, OWN_SID, TwilioCredentials(NEW).encrypt("a" * 32), TwilioCredentials(OLD).encrypt("b" * 32))
    store(urls, other_agency, INSTALLATION_SID, TwilioCredentials(NEW).encrypt(OTHERS_TOKEN))
    asked = [(agency, OWN_SID), (agency, INSTALLATION_SID), (other_agency, INSTALLATION_SID), (other_agency, OWN_SID)]

    def tokens() -> list[tuple[str, str]]:
        credentials = TwilioCredentials(f"{NEW},{OLD}", account_sid=INSTALLATION_SID, auth_token=TOKEN)
        found = []
        for whose, account_sid in asked:
            with tenant_transaction(database, whose.id, read_only=True) as connection:
                found.append(credentials.find_signing_tokens(connection, account_sid=account_sid))
        return found

    first, second = tokens(), tokens()
    assert first[0] == ("a" * 32, "b" * 32)
    assert [primary for primary, _ in first[1:3]] == [TOKEN, OTHERS_TOKEN]
    # Four places are left to fill, and in each process one random token fills them.
    nobodys = [{found[3][0], *(previous for _, previous in found[1:])} for found in (first, second)]
    assert [len(each) for each in nobodys] == [1, 1]
    assert len(nobodys[0] | nobodys[1] | {TOKEN, OTHERS_TOKEN}) == 4


def test_a_stored_token_of_a_key_that_was_taken_away_is_said_to_be_unreadable(
    urls: Urls, database: Database, agency: Agency
) -> None:
    store(urls, agency, INSTALLATION_SID, TwilioCredentials(OTHER).encrypt(TOKEN))
    with pytest.raises(CredentialsUnreadable):
        tokens_of(database, agency, INSTALLATION_SID)


def test_a_generated_key_is_fit_and_like_no_other() -> None:
    keys = {twilio_credentials.generate_key() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        TwilioCredentials(key)
