"""The forms that Twilio posts: raw text, every field once, nothing refused for what a customer wrote."""

import pytest
from starlette.types import ASGIApp

from tests.app.asking import FORM, Reply, ask


def post(app: ASGIApp, body: bytes, *, target: str = "/api/v1/hook/1", content_type: str = FORM[0][1]) -> Reply:
    return ask(app, target, method="POST", headers=[("Content-Type", content_type)], body=body)


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        (b"Body=&Empty", [("Body", ""), ("Empty", "")]),
        (b"Body=a+b%2Bc&New=1&MessageSid=SM1", [("Body", "a b+c"), ("New", "1"), ("MessageSid", "SM1")]),
        (b"Body=%C3%A9%F0%9F%98%80\xc3\xa9", [("Body", "é😀é")]),
        (b"Body=%00", [("Body", "\0")]),
        (b"Body=%FF\xff%ED%A0%80", [("Body", "\ufffd" * 5)]),
        (b"Body=%zz%", [("Body", "%zz%")]),
        (b"", []),
        (b"&&", []),
    ],
)
def test_the_handler_gets_every_field_as_it_came(app: ASGIApp, body: bytes, pairs: list[tuple[str, str]]) -> None:
    reply = post(app, body)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/xml")
    assert reply.body.decode() == f"<r>1 {pairs}</r>"


def test_a_charset_of_utf8_is_accepted_as_twilio_sends_it(app: ASGIApp) -> None:
    assert post(app, b"Body=x", content_type="application/x-www-form-urlencoded; charset=UTF-8").status == 200


def test_a_repeated_field_is_refused_by_name(app: ASGIApp) -> None:
    assert post(app, b"Body=a&From=x&Body=a&From=y").errors == {
        "Body": ["must be given once"],
        "From": ["must be given once"],
    }


def test_a_rule_of_the_schema_holds_for_a_form(app: ASGIApp) -> None:
    assert post(app, b"MessageSid=XX").errors == {"MessageSid": ["must match ^SM"]}


def test_a_form_of_very_many_fields_is_refused(app: ASGIApp) -> None:
    assert post(app, b"&".join(b"a%d=" % number for number in range(1001))).errors == {
        "body": ["must have at most 1000 fields"]
    }


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_a_webhook_that_is_no_form_is_415(app: ASGIApp, content_type: str) -> None:
    assert post(app, b"{}", content_type=content_type).status == 415


@pytest.mark.parametrize("query", ["?x=1", "?Body=x", "?bodySHA256=abc", "?%zz"])
def test_a_query_behind_a_webhooks_address_is_no_valid_signature(app: ASGIApp, query: str) -> None:
    reply = post(app, b"Body=x", target=f"/api/v1/hook/1{query}")
    assert (reply.status, reply.json["code"]) == (403, "invalid_signature")
