"""Where one request ends and the next one begins: two readers of one connection must not differ about that.

A proxy sends the requests of many clients over one connection. Bytes that it takes for somebody's body and we for a
request would be answered to somebody else, or run with somebody else's token.
"""

import logging
import socket
import time

import pytest

from conversations_api.web import http_protocol
from tests.app import stubs
from tests.app.test_transport import GET, POST, code_of

BODY = b'{"content":"a"}'
NEXT = b"GET /api/v1/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + BODY + b"\r\n0\r\n"
UPGRADE = b"Connection: keep-alive, Upgrade\r\nUpgrade: "


def answers(port: int, *parts: bytes, pause: float = 0.0) -> list[bytes]:
    """All that comes back on one connection until the server closes it, answer by answer; the parts are packets."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while received := connection.recv(65536):
                heard += received
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered, and closed without reading on
    return [b"HTTP/1.1 " + answer for answer in heard.split(b"HTTP/1.1 ")[1:]]


def statuses(port: int, *parts: bytes, pause: float = 0.0) -> list[int]:
    return [int(answer.split(b" ", 2)[1]) for answer in answers(port, *parts, pause=pause)]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"anything"])
@pytest.mark.parametrize("declared", [b"Content-Length: %d", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_the_body_of_a_request_that_asks_for_an_upgrade_is_no_request(
    port: int, protocol: bytes, declared: bytes, method: bytes
) -> None:
    length = declared % len(NEXT) if b"%d" in declared else declared
    head = POST.replace(b"POST", method, 1) + UPGRADE + protocol + b"\r\n" + length + b"\r\n\r\n"
    (refused,) = answers(port, head, NEXT, pause=0.05)
    assert code_of(refused) == "invalid_request"
    assert b'"field":"Upgrade"' in refused
    assert len(answers(port, head + NEXT)) == 1
    assert stubs.calls == []


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_a_request_that_asks_for_an_upgrade_is_answered_and_is_the_last_of_its_connection(
    port: int, protocol: bytes
) -> None:
    head = GET + UPGRADE + protocol + b"\r\nContent-Length: 0\r\n\r\n"
    for parts in ([head], [head, NEXT], [head + NEXT]):
        (answer,) = answers(port, *parts, pause=0.05)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("pause", [None, 0.05])
def test_a_trailer_is_no_header(port: int, pause: float | None) -> None:
    head = POST.replace(b"Authorization: Bearer good\r\n", b"") + b"Connection: close\r\n"
    trailers = b"Authorization: Bearer good\r\nX-Tenant-ID: x\r\nIdempotency-Key: k\r\nIdempotency-Key: k\r\n\r\n"
    for start, status in ((head, 401), (POST + b"Connection: close\r\n", 201)):
        parts = [start + CHUNKED + trailers] if pause is None else [start + CHUNKED, trailers]
        assert statuses(port, *parts, pause=pause or 0.0) == [status]


@pytest.mark.parametrize(
    "wrapping",
    [
        pytest.param([b"0\r\n", *[b"X: a\r\n" * 1000] * 40], id="many trailers"),
        pytest.param([b"0\r\nX: ", *[b"a" * 10_000] * 40], id="one long trailer"),
        pytest.param([b"1;x=", *[b"a" * 10_000] * 40], id="a long extension of a chunk"),
    ],
)
def test_what_a_body_is_wrapped_in_is_counted(port: int, wrapping: list[bytes]) -> None:
    (refused,) = answers(port, POST + b"Transfer-Encoding: chunked\r\n\r\n", *wrapping, pause=0.001)
    assert code_of(refused) == "body_too_large"
    assert stubs.calls == []


def test_a_body_may_come_in_single_bytes(port: int) -> None:
    body = BODY.ljust(20_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert statuses(port, POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", chunks, b"0\r\n\r\n") == [
        201
    ]


@pytest.mark.parametrize("garbage", [b"GARBAGE\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_requests_that_came_before_what_is_none_are_answered(
    port: int, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    whole = POST + b"Content-Length: 15\r\n\r\n" + BODY
    with caplog.at_level(logging.ERROR):
        assert statuses(port, whole + garbage) == [201]
        assert statuses(port, GET + b"\r\n" + whole + GET + b"\r\n" + garbage) == [200, 201, 200]
        assert statuses(port, GET.replace(b"healthz", b"calls/slow") + b"\r\n", garbage, pause=0.05) == [200]
    assert [record.message for record in caplog.records] == []


def test_a_request_that_came_before_a_broken_body_is_answered(port: int) -> None:
    slow = GET.replace(b"healthz", b"calls/slow") + b"\r\n"
    assert statuses(port, slow + POST + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n") == [200]


def test_many_requests_in_one_piece_are_all_answered_whatever_comes_behind_them(port: int) -> None:
    one = GET + b"X-Filler: " + b"x" * 900 + b"\r\n\r\n"
    assert statuses(port, one * 80 + one[:50], one[50:-2] + b"Connection: close\r\n\r\n", pause=0.05) == [200] * 81


def test_a_slow_handler_is_waited_for_while_the_next_head_does_not_come(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.05)
    assert statuses(port, GET.replace(b"healthz", b"calls/slow") + b"\r\n", b"G") == [200]


@pytest.mark.parametrize(
    "hosts", [b"", b"Host: a\r\nHost: a\r\n", b"Host: a b\r\n", b"Host: a/b\r\n", b"Host: a@b\r\n", b"Host:\r\n"]
)
def test_a_request_names_one_host(port: int, hosts: bytes) -> None:
    (refused,) = answers(port, b"GET /api/v1/healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert code_of(refused) == "invalid_request"
    assert b'"field":"Host"' in refused


@pytest.mark.parametrize("host", [b"a.example:8080", b"[::1]:80", b"127.0.0.1", b"xn--bcher-kva.example", b"a_b"])
def test_hosts_that_are_in_use_are_taken(port: int, host: bytes) -> None:
    assert statuses(port, b"GET /api/v1/healthz HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n") == [200]


def test_http_1_0_needs_no_host_and_is_not_told_to_go_on(port: int) -> None:
    assert statuses(port, b"GET /api/v1/healthz HTTP/1.0\r\n\r\n") == [200]
    expecting = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\nContent-Length: 15\r\n\r\n"
    assert statuses(port, expecting, BODY, pause=0.05) == [201]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked, chunked", b"identity"])
def test_a_body_in_another_coding_is_refused(port: int, coding: bytes) -> None:
    assert statuses(port, POST + b"Transfer-Encoding: " + coding + b"\r\n\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n") == [400]


def test_http_1_0_has_no_chunks(port: int) -> None:
    assert statuses(port, POST.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED + b"\r\n") == [400]


def test_blanks_around_a_value_are_none_of_it(port: int) -> None:
    head = POST.replace(b"good\r\n", b"good \t\r\n") + b"Connection: close\r\nContent-Length: 15 \r\n\r\n"
    assert statuses(port, head + BODY) == [201]


def test_a_target_has_no_fragment(port: int) -> None:
    assert statuses(port, GET.replace(b"healthz", b"things?limit=1#&limit=2") + b"\r\n") == [400]


@pytest.mark.parametrize("path", [b"/api/v1%2fhealthz", b"/api%2Fv1/healthz", b"/api/v1/ui%2f"])
def test_an_encoded_slash_ends_no_part_of_a_path(port: int, path: bytes) -> None:
    assert statuses(port, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == [404]
