"""Whatever bytes a request is made of, the answer is one of ours and never a server error."""

import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from tests.app.asking import AUTHORIZED, FORM, JSON, ask

latin = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
piece = st.one_of(
    latin,
    st.sampled_from(
        ["%00", "%0A", "%FF", "%2F", "..", "null", "0", "-1", "1e999", "{}", "[]", "+", "%", "\x85", "a" * 300]
    ),
)
paths = st.one_of(
    st.sampled_from(["/api/v1/things", "/api/v1/hook/1", "/api/v1/healthz"]),
    st.builds("/api/v1/things/{}".format, piece),
    st.builds("/api/v1/hook/{}".format, piece),
    st.builds("/{}".format, piece),
)
names = st.one_of(st.sampled_from(["limit", "offset", "status", "location_id", "loud", "ratio", "limit[]"]), piece)
queries = st.lists(st.builds("{}={}".format, names, piece), max_size=4).map("&".join)
header_names = st.sampled_from(
    [
        "Authorization",
        "Content-Type",
        "Content-Length",
        "Content-Encoding",
        "Transfer-Encoding",
        "Host",
        "X-Tenant-ID",
        "Idempotency-Key",
        "X_Tenant_ID",
        "X-Request-Id",
        "Cookie",
        "Origin",
        "Expect",
        "Range",
        "X-Forwarded-For",
    ]
)
headers = st.lists(st.tuples(header_names, piece), max_size=3)
usual = st.sampled_from([AUTHORIZED, JSON, FORM, (*AUTHORIZED, *FORM), ()])
bodies = st.one_of(
    st.binary(max_size=200),
    latin.map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["content", "note", "place", "city", "at", "tags", "choice", "\0"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
methods = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "TRACE", "X"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=methods,
    path=paths,
    query=queries,
    usual=usual,
    odd=headers,
    body=st.one_of(bodies, st.lists(bodies, min_size=1)),
)
@example("GET", "/api/v1/things/a\n", "", (), [], b"")
@example("POST", "/api/v1/hook/" + "9" * 5000, "", FORM, [], b"Body=x")
def test_no_bytes_make_a_server_error(
    app: ASGIApp,
    method: str,
    path: str,
    query: str,
    usual: tuple[tuple[str, str], ...],
    odd: list[tuple[str, str]],
    body: bytes | list[bytes],
) -> None:
    reply = ask(app, f"{path}?{query}", method=method, headers=[*usual, *odd], body=body)
    assert reply.status < 500
    if reply.status >= 400:
        assert len(reply.body) <= 1024
        assert reply.headers["content-type"] == "application/problem+json"
        if method != "HEAD":
            assert reply.json["status"] == reply.status
            assert reply.json["errors"] or reply.json["code"] != "invalid_request"
