"""A webhook counts only with a signature by a token of the account it speaks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio import request_validator

from delivery import twilio_gateway

# The worked example of https://www.twilio.com/docs/usage/security
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+14158675309"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
]
TOKEN, SIGNATURE = "12345", "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def test_twilios_own_example_is_signed_and_verified() -> None:
    assert twilio_gateway.sign(URL, FORM, TOKEN) == SIGNATURE
    assert twilio_gateway.verify_signature(URL, FORM, SIGNATURE, [TOKEN])


_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(form=st.lists(st.tuples(_TEXT, _TEXT), max_size=8), token=st.text("0123456789abcdef", min_size=32, max_size=32))
def test_any_form_is_signed_as_twilios_library_signs_it(form: list[tuple[str, str]], token: str) -> None:
    class Fields(dict[str, list[str]]):
        getlist = dict.__getitem__

    fields = Fields()
    for name, value in form:
        fields.setdefault(name, []).append(value)
    expected = request_validator.RequestValidator(token).compute_signature(URL, fields)
    assert twilio_gateway.sign(URL, form, token) == expected


def test_the_order_of_the_fields_does_not_matter() -> None:
    assert twilio_gateway.verify_signature(URL, FORM[::-1], SIGNATURE, [TOKEN])


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        " ",
        SIGNATURE[:-1],
        SIGNATURE[:-2],
        SIGNATURE + "=",
        SIGNATURE.lower(),
        f" {SIGNATURE}",
        "Ü" * 28,
        "\ud800",
        "\0" * 28,
    ],
    ids=repr,
)
def test_anything_but_the_signature_itself_is_refused(signature: str | None) -> None:
    assert not twilio_gateway.verify_signature(URL, FORM, signature, [TOKEN])


def test_either_token_counts_while_tokens_are_rotated() -> None:
    assert twilio_gateway.verify_signature(URL, FORM, SIGNATURE, ["new", TOKEN])
    assert twilio_gateway.verify_signature(URL, FORM, SIGNATURE, [TOKEN, "new"])
    assert not twilio_gateway.verify_signature(URL, FORM, SIGNATURE, ["new", "newer"])


def test_an_account_without_a_token_accepts_nothing_not_even_what_an_empty_token_signed() -> None:
    signed_with_nothing = twilio_gateway.sign(URL, FORM, "")
    for tokens in ([], [""], ["", ""]):
        assert not twilio_gateway.verify_signature(URL, FORM, signed_with_nothing, tokens)
    assert not twilio_gateway.verify_signature(URL, FORM, signed_with_nothing, ["", TOKEN])


@pytest.mark.parametrize(
    "url",
    [
        URL.replace("https:", "http:"),
        URL.replace("mycompany", "MyCompany"),
        URL.replace("mycompany", "other"),
        URL.replace("foo=1&bar=2", "bar=2&foo=1"),
        URL.replace("myapp.php", "myapp.php/"),
        URL + "&more=1",
        URL.replace("mycompany.com", "mycompany.com:no-port"),
    ],
)
def test_another_url_is_refused(url: str) -> None:
    assert not twilio_gateway.verify_signature(url, FORM, SIGNATURE, [TOKEN])


def test_the_port_may_be_named_or_left_out() -> None:
    with_port = URL.replace("mycompany.com", "mycompany.com:443")
    assert twilio_gateway.verify_signature(with_port, FORM, SIGNATURE, [TOKEN])
    assert twilio_gateway.verify_signature(URL, FORM, twilio_gateway.sign(with_port, FORM, TOKEN), [TOKEN])


def test_a_fragment_takes_no_part_in_the_signature() -> None:
    assert twilio_gateway.sign(URL + "#rc=5&rp=all", FORM, TOKEN) == SIGNATURE


@pytest.mark.parametrize(
    "form",
    [FORM[:-1], [*FORM, ("More", "1")], [("From", "+14158675300"), *FORM[:3], FORM[4]], [*FORM, ("Digits", "12345")]],
)
def test_another_form_is_refused(form: list[tuple[str, str]]) -> None:
    assert not twilio_gateway.verify_signature(URL, form, SIGNATURE, [TOKEN])


def test_a_blank_field_is_part_of_what_is_signed() -> None:
    # A blank value adds its name to the signed text.
    form = [("Body", ""), ("From", "+14158675309")]
    signature = twilio_gateway.sign(URL, form, TOKEN)
    assert twilio_gateway.verify_signature(URL, form, signature, [TOKEN])
    assert not twilio_gateway.verify_signature(URL, form[1:], signature, [TOKEN])


def test_every_value_of_a_repeated_field_is_signed() -> None:
    form = [("MediaUrl", "https://one.example"), ("MediaUrl", "https://two.example")]
    signature = twilio_gateway.sign(URL, form, TOKEN)
    assert twilio_gateway.verify_signature(URL, form, signature, [TOKEN])
    assert not twilio_gateway.verify_signature(URL, form[:1], signature, [TOKEN])
    assert not twilio_gateway.verify_signature(URL, [*form, ("MediaUrl", "https://three.example")], signature, [TOKEN])


def test_a_form_without_fields_and_texts_of_any_script_can_be_signed() -> None:
    for form in ([], [("Body", "ünï 🎉 \x00 £")], [("ünï", "")]):
        signature = twilio_gateway.sign(URL, form, TOKEN)
        assert twilio_gateway.verify_signature(URL, form, signature, [TOKEN])


def test_text_that_is_no_unicode_is_refused_rather_than_raised() -> None:
    assert not twilio_gateway.verify_signature(URL, [("Body", "\ud800")], SIGNATURE, [TOKEN])
