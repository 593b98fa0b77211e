"""JSON bodies: what cannot be read or kept is refused with the field's name, and never ends as a server error."""

import json
from typing import Any

import pytest
from starlette.types import ASGIApp

from tests.app import stubs
from tests.app.asking import AUTHORIZED, JSON, Reply, ask


def post(app: ASGIApp, body: bytes | Any, *content_type: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [*AUTHORIZED, *(("Content-Type", each) for each in content_type or ("application/json",))]
    return ask(app, method="POST", headers=headers, body=raw)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"text"', b"1", b"{", b"{}x", b"\xef\xbb\xbf{}", b"'", b"\0"])
def test_a_body_that_is_no_object_is_refused(app: ASGIApp, body: bytes) -> None:
    reply = post(app, body)
    assert (reply.status, list(reply.errors)) == (400, ["body"])
    assert stubs.calls == []


def test_a_missing_body_is_said_to_be_required(app: ASGIApp) -> None:
    assert post(app, b"").errors == {"body": ["is required"]}


def test_broken_json_is_told_where_it_breaks(app: ASGIApp) -> None:
    assert post(app, b'{"content":\n  x}').errors == {"body": ["must be JSON; line 2, column 3 is not"]}


def test_every_bad_field_is_named_at_once_with_its_rule(app: ASGIApp) -> None:
    body = {
        "content": "",
        "note": "c",
        "place": {"city": 1, "zip": "x"},
        "count": "1",
        "at": "yesterday",
        "tags": ["a", "b", "c"],
        "choice": {},
        "agency_id": "x",
        "status": "read",
    }
    assert post(app, body).errors == {
        "content": ["must not be empty", "must not be blank"],
        "note": ["must be one of: a, b"],
        "place.city": ["must be a string"],
        "place.zip": ["is not a known field"],
        "count": ["must be an integer"],
        "at": ["must be a date-time"],
        "tags": ["must have at most 2 items"],
        "choice": ["must have one of: left, right"],
        "agency_id": ["is not a known field"],
        "status": ["is not a known field"],
    }


def test_a_missing_field_is_named(app: ASGIApp) -> None:
    assert post(app, {"note": "a"}).errors == {"content": ["is required"]}


@pytest.mark.parametrize("field", ["agency_id", "id", "status", "created_at", "direction"])
def test_what_the_server_decides_cannot_be_sent(app: ASGIApp, field: str) -> None:
    assert list(post(app, {"content": "hello", field: "x"}).errors) == [field]


@pytest.mark.parametrize("content", ["", " ", "\n\t ", "\u200b", " \u200b "])
def test_content_without_a_visible_character_is_refused(app: ASGIApp, content: str) -> None:
    reply = post(app, {"content": content})
    assert list(reply.errors) == ["content"]
    assert "must not be blank" in reply.errors["content"]


@pytest.mark.parametrize("letter", ["a", "é", "e\u0301", "😀", "\u202e", "漢"])
def test_1600_characters_are_accepted_as_they_are_and_1601_are_not(app: ASGIApp, letter: str) -> None:
    exact = (letter * 1600)[:1600]
    assert post(app, json.dumps({"content": exact}, ensure_ascii=False).encode()).json == {"content": exact}
    assert post(app, {"content": exact + letter[0]}).errors == {"content": ["must have at most 1600 characters"]}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (rb'{"content":"a\u0000b"}', "content", "must not contain the character U+0000"),
        (rb'{"content":"a\ud800b"}', "content", "must not contain half of a surrogate pair"),
        (rb'{"content":"\udc00\ud800"}', "content", "must not contain half of a surrogate pair"),
        (rb'{"content":"a","place":{"city":"\u0000"}}', "place.city", "must not contain the character U+0000"),
        (rb'{"content":"a","tags":["b","\udfff"]}', "tags.1", "must not contain half of a surrogate pair"),
        (rb'{"content":"a","content":"b"}', "content", "must be given once"),
        (rb'{"content":"a","place":{"city":"b","city":"b"}}', "place.city", "must be given once"),
        (rb'{"content":"a","count":1e999}', "count", "must be a finite number"),
        (rb'{"content":"a","count":NaN}', "count", "must be a finite number"),
        (rb'{"content":"a","count":-Infinity}', "count", "must be a finite number"),
        (b'{"content":"a","count":' + b"9" * 5000 + b"}", "count", "must be a number of at most 18 digits"),
        (b'{"content":"a","count":' + b"9" * 19 + b"}", "count", "must be a number of at most 18 digits"),
        (rb'{"content":"a","x\u0000y":1}', "x?y", "is not a known field"),
        (rb'{"content":"a","x\ud800y":1}', "x?y", "is not a known field"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(app: ASGIApp, body: bytes, field: str, message: str) -> None:
    reply = post(app, body)
    assert (reply.status, reply.errors) == (400, {field: [message]})


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * 1000 + b"1]", json.dumps(dict.fromkeys(map(str, range(1001)), 1)).encode()]
)
def test_a_body_of_very_many_values_is_refused(app: ASGIApp, body: bytes) -> None:
    assert post(app, body).errors == {"body": ["must have at most 1000 values"]}


def test_a_surrogate_pair_is_one_character(app: ASGIApp) -> None:
    assert post(app, rb'{"content":"\ud83d\ude00"}').json == {"content": "😀"}


@pytest.mark.parametrize(
    "body",
    [b"[" * 30_000, b'{"a":' * 10_000, b"[" * 30_000 + b"]" * 30_000, b'{"content":' + b"[" * 500 + b"]" * 500 + b"}"],
)
def test_deep_nesting_is_refused(app: ASGIApp, body: bytes) -> None:
    reply = post(app, body)
    assert reply.status == 400
    assert ["must not be nested more than 32 deep"] in reply.errors.values()


@pytest.mark.parametrize(
    "body", [b'{"content":"caf\xe9"}', b'{"content":"\xed\xa0\x80"}', b'{"content":"\xc0\x80"}', b"\xff\xfe{\0}\0"]
)
def test_a_body_that_is_no_utf8_is_refused(app: ASGIApp, body: bytes) -> None:
    assert post(app, body).errors == {"body": ["must be UTF-8"]}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
def test_another_unicode_encoding_is_not_guessed(app: ASGIApp, encoding: str) -> None:
    reply = post(app, '{"content":"über"}'.encode(encoding))
    assert (reply.status, list(reply.errors)) == (400, ["body"])


@pytest.mark.parametrize("place", [None, {"city": "Faro"}])
def test_a_nullable_object_may_be_null_or_the_object(app: ASGIApp, place: object) -> None:
    body = {"content": "a", "place": place, "note": None}
    assert post(app, body).json == body


def test_a_number_that_is_whole_but_written_as_a_fraction_reaches_no_handler_as_text(app: ASGIApp) -> None:
    assert post(app, {"content": "a", "count": 5}).json["count"] == 5
    assert post(app, {"content": "a", "count": 5.5}).errors == {"count": ["must be an integer"]}


def test_a_refused_value_is_not_repeated(app: ASGIApp) -> None:
    reply = post(app, {"content": 5, "note": stubs.SECRET, "count": stubs.SECRET, "at": stubs.SECRET})
    assert reply.status == 400
    assert b"canary" not in reply.body
    assert b"12025550143" not in reply.body


def test_a_hundred_unknown_fields_make_an_answer_of_one_kilobyte(app: ASGIApp) -> None:
    reply = post(app, {"x" * 200 + str(number): 1 for number in range(100)})
    assert reply.status == 400
    assert len(reply.body) <= 1024


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json ;charset="UTF-8"',
        "application/json;charset=utf8",
    ],
)
def test_json_in_utf8_is_accepted_however_it_is_spelled(app: ASGIApp, content_type: str) -> None:
    assert post(app, {"content": "a"}, content_type).status == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=foo",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=latin-1",
        "application/xml",
        "json",
        "",
        "*/*",
        "application/*",
        "application/json, text/plain",
        "application/json\x00",
        "application/problem+json",
    ],
)
def test_any_other_content_type_is_415(app: ASGIApp, content_type: str) -> None:
    reply = post(app, {"content": "a"}, content_type)
    assert (reply.status, reply.json["code"]) == (415, "unsupported_media_type")


def test_a_missing_content_type_is_415(app: ASGIApp) -> None:
    assert ask(app, method="POST", body=b'{"content":"a"}').status == 415


def test_a_compressed_body_is_415(app: ASGIApp) -> None:
    headers = [*JSON, ("Content-Encoding", "gzip")]
    assert ask(app, method="POST", headers=headers, body=b"\x1f\x8b").status == 415


def test_a_body_where_none_is_asked_for_is_not_read(app: ASGIApp) -> None:
    headers = [*AUTHORIZED, ("Content-Type", "multipart/form-data; boundary=x")]
    assert (
        ask(app, headers=headers, body=b'--x\r\nContent-Disposition: form-data; name="limit"\r\n\r\n5').json["limit"]
        == 20
    )


def test_a_chunked_body_is_the_same_body(app: ASGIApp) -> None:
    reply = ask(app, method="POST", headers=JSON, body=[b'{"con', b'tent":', b"", b'"a"}'])
    assert (reply.status, reply.json) == (201, {"content": "a"})
