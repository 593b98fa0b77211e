"""Both webhooks take what the right Twilio account signed, whole and as it was sent; everything else is one 403."""

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from delivery import twilio_gateway
from tenancy.twilio_credentials import TwilioCredentials
from tests.agencies import ACCOUNT_SID, Agency, Urls
from tests.api_client import (
    AUTH_TOKEN,
    BASE_PATH,
    EMPTY_TWIML,
    FORM,
    INBOUND,
    PUBLIC_BASE_URL,
    Answer,
    Api,
    inbound_form,
)
from tests.serving import SECRETS_KEY, served

OWN_TOKEN, OLD_TOKEN = "1" * 32, "2" * 32
TOKENS = {AUTH_TOKEN: 200, OLD_TOKEN: 200, OWN_TOKEN: 403, "": 403}


@dataclass(frozen=True)
class Webhook:
    """One of the two, with a form that it accepts when it is signed."""

    api: Api
    agency: Agency
    path: str
    form: dict[str, str]

    def sign(self, token: str = AUTH_TOKEN, *, url: str | None = None, form: dict[str, str] | None = None) -> str:
        return twilio_gateway.sign(url or PUBLIC_BASE_URL + self.path, list((form or self.form).items()), token)

    def post(
        self, signature: str | None, *, path: str | None = None, form: dict[str, str] | None = None, **headers: str
    ) -> Answer:
        sent = [("Content-Type", FORM), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if signature is not None:
            sent.append(("X-Twilio-Signature", signature))
        return self.api.ask("POST", path or self.path, headers=sent, body=urlencode(form or self.form).encode())

    def stored(self) -> int:
        """How many messages and events the agency has."""
        [row] = self.api.sql(
            self.agency,
            """select (select count(*) from messages where agency_id = :agency_id)
            + (select count(*) from provider_events where agency_id = :agency_id) as number""",
        )
        return int(row.number)


@pytest.fixture(params=["inbound", "status"])
def webhook(request: pytest.FixtureRequest, api: Api) -> Webhook:
    agency = api.new_agency()
    if request.param == "inbound":
        return Webhook(api, agency, INBOUND, inbound_form(agency))
    form = {"AccountSid": ACCOUNT_SID, "MessageSid": "SM" + "3" * 32, "MessageStatus": "sent", "RawDlrDoneDate": ""}
    return Webhook(api, agency, f"{BASE_PATH}/webhooks/twilio/status/{agency.id}/{uuid4()}/1", form)


def refused(answer: Answer) -> bool:
    return answer.refusal == (403, "invalid_signature") and answer.errors == {}


def own_account(api: Api, agency: Agency, *, previous: str | None = None) -> str:
    """Give the agency a Twilio account of its own, with OWN_TOKEN, for all its numbers."""
    account_sid = "AC" + uuid4().hex
    encrypt = TwilioCredentials(SECRETS_KEY).encrypt
    api.sql(
        agency,
        """insert into twilio_accounts (agency_id, account_sid, auth_token, previous_auth_token)
        values (:agency_id, :account_sid, :token, :previous)""",
        account_sid=account_sid,
        token=encrypt(OWN_TOKEN),
        previous=previous and encrypt(previous),
    )
    for table in ("channels", "number_routing"):
        api.sql(agency, f"update {table} set account_sid = :sid where agency_id = :agency_id", sid=account_sid)  # noqa: S608
    return account_sid


def test_what_twilio_signed_is_taken(webhook: Webhook) -> None:
    answer = webhook.post(webhook.sign())
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/xml", EMPTY_TWIML)
    assert webhook.stored() == 1


@pytest.mark.parametrize("signature", [None, "", "x", "=", "\xe9", "A" * 28, "a" * 5000])
def test_a_missing_or_wrong_signature_is_refused(webhook: Webhook, signature: str | None) -> None:
    assert refused(webhook.post(signature))
    assert webhook.stored() == 0


def test_an_unsigned_one_is_answered_like_one_with_a_wrong_signature(webhook: Webhook) -> None:
    unsigned, empty, wrong = (webhook.post(signature) for signature in (None, "", "x" * 28))
    for answer in (unsigned, empty):
        request_id = answer.headers["x-request-id"].encode()
        assert answer.body.replace(request_id, b"") == wrong.body.replace(wrong.headers["x-request-id"].encode(), b"")
        assert answer.headers.keys() == wrong.headers.keys()
        differing = {name for name, value in answer.headers.items() if value != wrong.headers[name]}
        assert differing <= {"date", "x-request-id"}


def test_a_signature_is_compared_whole(webhook: Webhook) -> None:
    good = webhook.sign()
    for almost in (good[:-1], good[1:], good + "=", good.swapcase(), f"{good},{good}", f"sha1={good}"):
        assert refused(webhook.post(almost))
    assert webhook.stored() == 0


def test_two_signatures_are_none(webhook: Webhook) -> None:
    good = webhook.sign()
    headers = [("Content-Type", FORM), ("X-Twilio-Signature", "x"), ("X-Twilio-Signature", good)]
    assert refused(webhook.api.ask("POST", webhook.path, headers=headers, body=urlencode(webhook.form).encode()))


def test_another_accounts_token_is_refused(webhook: Webhook) -> None:
    assert refused(webhook.post(webhook.sign("0" * 32)))
    assert refused(webhook.post(webhook.sign("")))
    assert refused(webhook.post(webhook.sign(OLD_TOKEN)))
    assert webhook.stored() == 0


def test_the_algorithm_is_not_for_the_caller_to_choose(webhook: Webhook) -> None:
    answer = webhook.post("x", X_Twilio_Signature_Settings="alg=none", I_Twilio_Signature_Version="2")
    assert refused(answer)


@pytest.mark.parametrize(
    "base",
    [
        "http://api.example.com",
        "https://API.example.com",
        "https://api.example.com.",
        "https://api.example.com:8443",
        "",
        "https://evil.example",
    ],
)
def test_the_signature_covers_the_public_address_and_no_other(webhook: Webhook, base: str) -> None:
    assert refused(webhook.post(webhook.sign(url=base + webhook.path)))
    assert webhook.stored() == 0


@pytest.mark.parametrize("suffix", ["/", "?", "?a=b", "#x"])
def test_the_signature_covers_the_path_as_it_came(webhook: Webhook, suffix: str) -> None:
    signature = twilio_gateway.sign(PUBLIC_BASE_URL + webhook.path, [("x", suffix)], AUTH_TOKEN)
    assert refused(webhook.post(signature))
    assert refused(webhook.post(webhook.sign(url=PUBLIC_BASE_URL + webhook.path + "/")))


def test_the_default_port_may_be_named(webhook: Webhook) -> None:
    assert webhook.post(webhook.sign(url="https://api.example.com:443" + webhook.path)).status == 200


def test_what_a_proxy_says_of_the_address_is_not_believed(webhook: Webhook) -> None:
    forged = {"Host": "evil.example", "X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "http"}
    headers = [("Content-Type", FORM), ("X-Twilio-Signature", webhook.sign(url="http://evil.example" + webhook.path))]
    headers += [(name.replace("_", "-"), value) for name, value in forged.items() if name != "Host"]
    assert refused(webhook.api.ask("POST", webhook.path, headers=headers, body=urlencode(webhook.form).encode()))
    assert webhook.post(webhook.sign(), X_Forwarded_Host="evil.example", Forwarded="host=evil.example").status == 200


def test_text_moved_from_the_form_to_the_address_is_refused(webhook: Webhook) -> None:
    # The signed text is address and form in one: without a rule about queries both readings of it would validate.
    moved = "AccountSid" + webhook.form["AccountSid"]
    rest = {name: value for name, value in webhook.form.items() if name != "AccountSid"}
    url = f"{PUBLIC_BASE_URL}{webhook.path}?{moved}"
    assert refused(webhook.post(webhook.sign(url=url, form=rest), path=f"{webhook.path}?{moved}", form=rest))
    assert webhook.stored() == 0


def test_text_moved_from_the_form_to_the_path_is_refused(webhook: Webhook) -> None:
    # The signed text is the same for both: the first field of the form in order of the alphabet is where the path ends.
    moved = "AccountSid" + webhook.form["AccountSid"]
    rest = {name: value for name, value in webhook.form.items() if name != "AccountSid"}
    assert webhook.sign() == webhook.sign(url=PUBLIC_BASE_URL + webhook.path + moved, form=rest)
    answer = webhook.post(webhook.sign(), path=webhook.path + moved, form=rest)
    assert answer.status in (400, 404)
    assert webhook.stored() == 0


@pytest.mark.parametrize("first", [("2", ""), ("", "2"), ("2x", "y"), (" 2", "")], ids=str)
def test_a_field_that_could_be_the_end_of_the_address_is_refused(webhook: Webhook, first: tuple[str, str]) -> None:
    # Of `.../12` the signed text is that of `.../1` with a field `2` before all others, which Twilio never sends.
    form = {first[0]: first[1], **webhook.form}
    assert webhook.sign(form=form) == webhook.sign(url=PUBLIC_BASE_URL + webhook.path + "".join(first))
    assert refused(webhook.post(webhook.sign(form=form), form=form))
    assert webhook.stored() == 0


def test_every_field_is_covered_the_blank_ones_too(webhook: Webhook) -> None:
    blank = next(name for name, value in webhook.form.items() if value == "")
    for changed in (
        {**webhook.form, "Body": "changed"},
        {**webhook.form, "Extra": "1"},
        {name: value for name, value in webhook.form.items() if name != blank},
        {**webhook.form, blank: " "},
    ):
        assert refused(webhook.post(webhook.sign(), form=changed))
    assert webhook.stored() == 0


def test_new_fields_of_twilios_are_taken(webhook: Webhook) -> None:
    form = {**webhook.form, "NewThing[0]": "{}", "newÜñï.2-_": "\N{GRINNING FACE}", "A" * 300: "b" * 3000}
    assert webhook.post(webhook.sign(form=form), form=form).status == 200


def test_a_repeated_field_is_400_even_when_it_is_signed(webhook: Webhook) -> None:
    pairs = [*webhook.form.items(), ("MessageSid", "SM" + "4" * 32)]
    answer = webhook.api.post_signed(webhook.path, pairs)
    assert answer.refusal == (400, "invalid_request")
    assert answer.errors == {"MessageSid": "must be given once"}
    assert webhook.stored() == 0


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data; boundary=x", None])
def test_a_body_that_is_no_form_is_415_whatever_its_signature(webhook: Webhook, content_type: str | None) -> None:
    # Over JSON Twilio signs the address only; the body would not be covered.
    signature = twilio_gateway.sign(PUBLIC_BASE_URL + webhook.path, [], AUTH_TOKEN)
    headers = [("X-Twilio-Signature", signature), *([("Content-Type", content_type)] if content_type else [])]
    answer = webhook.api.ask(
        "POST", webhook.path, headers=headers, body=b'{"AccountSid": "' + ACCOUNT_SID.encode() + b'"}'
    )
    assert answer.refusal == (415, "unsupported_media_type")
    assert webhook.stored() == 0


def test_an_unknown_account_is_refused_like_a_wrong_signature(webhook: Webhook) -> None:
    wrong = webhook.post("x")
    for account_sid in ("AC" + "f" * 32, "", "AC", "\x00", "' or 1=1 --"):
        form = {**webhook.form, "AccountSid": account_sid}
        answer = webhook.post(webhook.sign(form=form), form=form)
        assert refused(answer)
        masked = [each.body.replace(each.headers["x-request-id"].encode(), b"") for each in (answer, wrong)]
        assert masked[0] == masked[1]
    assert webhook.stored() == 0


def test_an_agencys_own_account_signs_with_its_own_token_and_the_one_before(webhook: Webhook) -> None:
    account_sid = own_account(webhook.api, webhook.agency, previous=OLD_TOKEN)
    form = {**webhook.form, "AccountSid": account_sid}
    for number, (token, status) in enumerate({OWN_TOKEN: 200, OLD_TOKEN: 200, AUTH_TOKEN: 403, "9" * 32: 403}.items()):
        form["MessageSid"] = f"SM{number:032}"
        assert webhook.post(webhook.sign(token, form=form), form=form).status == status
    assert webhook.stored() == 2


def test_while_an_accounts_token_cannot_be_decrypted_its_webhooks_are_to_come_again(webhook: Webhook) -> None:
    form = {**webhook.form, "AccountSid": own_account(webhook.api, webhook.agency)}
    webhook.api.sql(webhook.agency, "update twilio_accounts set auth_token = 'gAAAA' where agency_id = :agency_id")
    answer = webhook.post(webhook.sign(OWN_TOKEN, form=form), form=form)
    assert answer.refusal == (503, "keys_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert webhook.stored() == 0


def test_the_installations_token_and_the_one_before_count_while_they_are_exchanged(urls: Urls) -> None:
    with served(urls, TWILIO_PREVIOUS_AUTH_TOKEN=OLD_TOKEN) as api:
        agency, other = api.new_agency(), api.new_agency()
        answers = {token: api.post_signed(INBOUND, inbound_form(agency).items(), token=token) for token in TOKENS}
        assert {token: answer.status for token, answer in answers.items()} == TOKENS
        counts = [len(api.sql(each, "select 1 from messages where agency_id = :agency_id")) for each in (agency, other)]
    assert counts == [2, 0]


def test_another_agencys_account_cannot_speak_for_this_one(webhook: Webhook) -> None:
    stranger = webhook.api.new_agency()
    form = {**webhook.form, "AccountSid": own_account(webhook.api, stranger)}
    assert refused(webhook.post(webhook.sign(OWN_TOKEN, form=form), form=form))
    assert webhook.stored() == 0


def test_a_number_that_is_nobodys_is_refused_like_a_wrong_signature(api: Api) -> None:
    unknown = {**inbound_form(api.new_agency()), "To": "+19995550000"}
    assert refused(api.post_signed(INBOUND, unknown.items()))
    assert refused(api.post_form(INBOUND, urlencode(unknown).encode(), "x"))
