"""Query, path and header parameters: one reading each, every bad one named, no value shown."""

import pytest
from starlette.types import ASGIApp

from tests.app import stubs
from tests.app.asking import AUTHORIZED, FORM, ask

ID = "00000000-0000-4000-8000-000000000001"


NO_LIMITS = ["0", "101", "-1", "abc", "5.0", "1e1", "true", "null", "1,2", ""]
NO_LIMITS += ["%00", "+5", "%205", "5%20", "0x5", "05", "1_0", "-0", "%D9%A5", "9" * 5000, "-" + "9" * 400]


@pytest.mark.parametrize("value", NO_LIMITS)
def test_a_limit_that_is_no_integer_from_1_to_100_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things?limit={value}")
    assert (reply.status, list(reply.errors)) == (400, ["limit"])
    assert stubs.calls == []


@pytest.mark.parametrize("limit", [1, 100])
def test_the_bounds_of_a_limit_are_accepted_and_reach_the_handler_as_integers(app: ASGIApp, limit: int) -> None:
    assert ask(app, f"/api/v1/things?limit={limit}").json == {"limit": limit, "offset": 0}


def test_defaults_of_the_contract_reach_the_handler(app: ASGIApp) -> None:
    assert ask(app).json == {"limit": 20, "offset": 0}


def test_a_message_names_the_rule(app: ASGIApp) -> None:
    errors = ask(app, "/api/v1/things?limit=101&offset=-1&status=gone&location_id=x&ratio=0&loud=yes").errors
    assert errors == {
        "limit": ["must be at most 100"],
        "offset": ["must be at least 0"],
        "status": ["must be one of: open, resolved"],
        "location_id": ["must be a UUID"],
        "ratio": ["must be greater than 0"],
        "loud": ["must be true or false"],
    }


@pytest.mark.parametrize(
    "query", ["limit=1&limit=2", "status=open&status=resolved", "limit=1&li%6Dit=1", "limit=1&limit", "status=&status="]
)
def test_a_repeated_parameter_is_refused_by_name(app: ASGIApp, query: str) -> None:
    reply = ask(app, f"/api/v1/things?{query}")
    assert (reply.status, list(reply.errors)) == (400, [query.partition("=")[0]])
    assert reply.errors[query.partition("=")[0]] == ["must be given once"]


@pytest.mark.parametrize("offset", [2**63, 2**63 - 1, 10**400, 10_001])
def test_an_offset_that_no_database_can_hold_is_refused(app: ASGIApp, offset: int) -> None:
    reply = ask(app, f"/api/v1/things?offset={offset}")
    assert reply.errors == {"offset": ["must be at most 10000"]}


def test_a_refused_number_is_not_repeated(app: ASGIApp) -> None:
    reply = ask(app, "/api/v1/things?offset=" + "9" * 5000)
    assert reply.status == 400
    assert b"999" not in reply.body
    assert len(reply.body) <= 1024


@pytest.mark.parametrize(
    "value", ["zzz", "%00", "", ID.upper().replace("8", "G"), ID + "%0A", "%7B" + ID + "%7D", ID[:-1]]
)
def test_an_id_in_the_query_that_is_no_uuid_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things?location_id={value}")
    assert (reply.status, reply.errors) == (400, {"location_id": ["must be a UUID"]})


@pytest.mark.parametrize("value", ["zzz", ID + "%E2%80%A8", ID.replace("-", ""), "..", "%2E%2E", "%20" + ID])
def test_an_id_in_the_path_that_is_no_uuid_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things/{value}")
    assert (reply.status, reply.errors) == (400, {"thing_id": ["must be a UUID"]})
    assert reply.json["instance"] == "/api/v1/things/{thing_id}"


@pytest.mark.parametrize("value", [ID + "%0A", "%0A" + ID, "a%0Ab", "%00", ID + "%00", "%0D%0A", "%1B[31m", "%7F"])
def test_a_control_character_in_the_path_reaches_no_router_behind_the_edge(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things/{value}", headers=())
    assert (reply.status, reply.errors) == (400, {"thing_id": ["must not contain control characters"]})
    assert stubs.calls == []


@pytest.mark.parametrize("value", ["abc", "+5", "05", "1.5", "0", "-1", "9" * 5000, "%D9%A5", "%205"])
def test_a_number_in_the_path_that_is_none_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/hook/{value}", method="POST", headers=FORM, body=b"Body=x")
    assert (reply.status, list(reply.errors)) == (400, ["number"])


def test_an_encoded_slash_in_an_id_leads_nowhere(app: ASGIApp) -> None:
    assert ask(app, f"/api/v1/things/{ID}%2F..").json["code"] == "route_not_found"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("agency_id=1", "agency_id"),
        ("limit[]=5", "limit[]"),
        ("Limit=5", "Limit"),
        ("limit%00=5", "limit?"),
        ("=5", "?"),
    ],
)
def test_an_unknown_parameter_is_refused_by_name(app: ASGIApp, query: str, named: str) -> None:
    reply = ask(app, f"/api/v1/things?{query}")
    assert (reply.status, reply.errors) == (400, {named: ["is not a parameter of this operation"]})


def test_every_bad_parameter_is_named_at_once(app: ASGIApp) -> None:
    reply = ask(app, "/api/v1/things?limit=0&x=1&location_id=zzz", headers=[*AUTHORIZED, ("X-Tenant-ID", "A,B")])
    assert set(reply.errors) == {"limit", "x", "location_id", "X-Tenant-ID"}


def test_more_errors_than_fit_a_kilobyte_are_cut_and_it_says_so(app: ASGIApp) -> None:
    query = "&".join(f"unknown{number}=1" for number in range(40))
    reply = ask(app, f"/api/v1/things?{query}")
    listed = len(reply.json["errors"])
    assert 5 < listed < 40
    assert reply.json["detail"] == f"The request breaks more rules than fit here; the first {listed} are listed."
    assert len(reply.body) <= 1024


def test_a_long_unknown_name_is_cut(app: ASGIApp) -> None:
    assert list(ask(app, f"/api/v1/things?{'n' * 3000}=1").errors) == ["n" * 64]


@pytest.mark.parametrize("value", ["%FF", "%C3%28", "%ED%A0%80", "%C0%80", "%zz", "%", "%4", "\xe9", "\x01", "a b"])
def test_what_is_not_percent_encoded_utf8_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things?status={value}")
    assert (reply.status, reply.errors) == (400, {"status": ["must be percent-encoded UTF-8"]})


@pytest.mark.parametrize("value", ["%FF", "%C3%28", "%ED%A0%80", "%zz", "%4"])
def test_a_path_that_is_not_percent_encoded_utf8_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, f"/api/v1/things/{value}")
    assert (reply.status, reply.errors) == (400, {"thing_id": ["must be percent-encoded UTF-8"]})


def test_a_bad_name_in_the_query_is_refused(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/things?%FF=1").status == 400


def test_a_query_of_many_parts_or_bytes_is_refused(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/things?" + "&".join("a" * 5000)).json["errors"][0]["field"] == "query"
    assert ask(app, "/api/v1/things?status=" + "a" * 9000).json["errors"][0]["field"] == "query"


def test_empty_parts_of_a_query_mean_nothing(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/things?&limit=5&&").json["limit"] == 5


@pytest.mark.parametrize("value", ["", "x" * 256, "a\tb", "caf\xe9", "a b", "\x7f"])
def test_an_idempotency_key_that_is_no_printable_ascii_is_refused(app: ASGIApp, value: str) -> None:
    reply = ask(app, headers=[*AUTHORIZED, ("Idempotency-Key", value)])
    assert (reply.status, list(reply.errors)) == (400, ["Idempotency-Key"])


def test_an_idempotency_key_of_255_characters_is_accepted(app: ASGIApp) -> None:
    assert ask(app, headers=[*AUTHORIZED, ("Idempotency-Key", "x" * 255)]).status == 200


@pytest.mark.parametrize("value", ["", "x", "{" + ID + "}", f"{ID},{ID}", "A" * 10_000, ID + "\0", "\xe9"])
def test_a_malformed_tenant_header_is_refused_by_name(app: ASGIApp, value: str) -> None:
    reply = ask(app, headers=[*AUTHORIZED, ("X-Tenant-ID", value)])
    assert (reply.status, reply.errors) == (400, {"X-Tenant-ID": ["must be a UUID"]})


def test_a_bad_parameter_is_not_looked_at_without_a_token(app: ASGIApp) -> None:
    assert ask(app, "/api/v1/things?limit=0", headers=()).status == 401
