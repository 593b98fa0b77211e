"""What only a wire shows: bodies that lie about their length, come late or never end, and heads that are none."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from conversations_api.web import http_protocol
from conversations_api.web.lanes import Limits
from tests.app import stubs
from tests.app.asking import JSON, ask, ask_async, hear, say, shapes_app, status_of
from tests.app.conftest import BODY_SECONDS
from tests.serving import listening

POST = b"POST /api/v1/things HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\n"
GET = b"GET /api/v1/healthz HTTP/1.1\r\nHost: a\r\n"


def code_of(heard: bytes) -> str:
    code: str = json.loads(heard.partition(b"\r\n\r\n")[2])["code"]
    return code


def test_a_body_of_64_kilobytes_is_read_and_one_byte_more_is_413(app: ASGIApp) -> None:
    exact = b'{"content":"a"}'.ljust(65_536)
    assert ask(app, method="POST", headers=JSON, body=exact).status == 201
    reply = ask(app, method="POST", headers=JSON, body=exact + b" ")
    assert (reply.status, reply.json["code"]) == (413, "body_too_large")


def test_a_chunked_body_is_counted_as_it_comes(app: ASGIApp) -> None:
    assert ask(app, method="POST", headers=JSON, body=[b" " * 1000] * 66).status == 413
    assert stubs.calls == []


@pytest.mark.parametrize("length", ["65537", "9" * 30])
def test_a_declared_length_beyond_the_limit_is_refused_without_reading(length: str) -> None:
    app = shapes_app(limits=Limits(body_seconds=0.1))
    heads = [*JSON, ("Content-Length", length)]
    assert ask(app, method="POST", headers=heads).status == 413


def test_twenty_megabytes_are_refused_and_the_client_learns_why(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for content in (b"x" * 200_000, b"x" * 20_000_000, iter([b"x" * 60_000] * 300)):
            headers = {"Authorization": "Bearer good", "Content-Type": "application/json"}
            answer = client.post("/api/v1/things", headers=headers, content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_body_that_comes_too_slowly_is_408_and_the_connection_is_closed(port: int) -> None:
    started = time.monotonic()
    heard = say(port, POST + b'Content-Length: 100\r\n\r\n{"content"', seconds=10)
    assert (status_of(heard), code_of(heard)) == (408, "request_timeout")
    assert b"\r\nconnection: close\r\n" in heard.lower()
    assert time.monotonic() - started >= BODY_SECONDS


def test_a_body_that_drips_has_one_deadline_for_the_whole() -> None:
    app = shapes_app(limits=Limits(body_seconds=0.2))
    reply = asyncio.run(ask_async(app, method="POST", headers=JSON, body=[b" "] * 100, part_seconds=0.02))
    assert reply.status == 408


def test_slow_bodies_do_not_keep_others_waiting(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        assert status_of(say(port, POST + b'Content-Length: 15\r\n\r\n{"content":"a"}')) == 201
        assert {status_of(hear(connection)) for connection in slow} == {408}
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("authorization", [b"", b"Authorization: Bearer bad\r\n", b"Authorization: Basic good\r\n"])
def test_slow_bodies_without_a_good_token_keep_nobody_waiting(authorization: bytes) -> None:
    limits = Limits(bodies=1, body_seconds=600.0, queue_seconds=60.0)
    with listening(shapes_app(limits=limits)) as port:
        head = b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + authorization
        slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(300)]
        try:
            for connection in slow:
                connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
            assert status_of(say(port, POST + b'Content-Length: 15\r\n\r\n{"content":"a"}')) == 201
            assert {status_of(hear(connection)) for connection in slow} == {401}
        finally:
            for connection in slow:
                connection.close()


def test_slow_bodies_with_a_token_are_bounded_and_keep_nobody_from_sending() -> None:
    with listening(shapes_app(limits=Limits(bodies=2, body_seconds=600.0, queue_seconds=60.0))) as port:
        slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(10)]
        try:
            for connection in slow:
                connection.sendall(POST + b"Content-Length: 15\r\n\r\n{")
                time.sleep(0.02)
            # In one piece, and with a body that comes later: who sends is not kept waiting by those who do not.
            whole = POST + b"Content-Length: 15\r\n\r\n", b'{"content":"a"}'
            assert [status_of(say(port, b"".join(whole))), status_of(say(port, *whole))] == [201, 201]
            assert status_of(say(port, GET + b"\r\n")) == 200
            # Those that have been waited for longest are told so, and not by the clock.
            assert [status_of(hear(connection)) for connection in slow[:8]] == [408] * 8
            slow[-1].sendall(b'"content":"a"}')
            assert status_of(hear(slow[-1])) == 201
        finally:
            for connection in slow:
                connection.close()


def test_who_has_just_come_when_the_process_stops_is_still_answered_and_who_says_nothing_is_not_waited_for() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(shapes_app(), http=http_protocol.HttpProtocol, ws="none", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as one,
        socket.create_connection(("127.0.0.1", port), timeout=30) as silent,
    ):
        while len(server.server_state.connections) < 2:
            time.sleep(0.01)
        server.should_exit = True
        time.sleep(0.3)  # it has been noticed by now
        one.sendall(POST + b"Content-Length: 15\r\n\r\n")
        time.sleep(0.05)
        one.sendall(b'{"content":"a"}')
        answer = hear(one)
        assert status_of(answer) == 201
        assert b"\r\nconnection: close\r\n" in answer
        assert hear(silent) == b""
        thread.join(30)
        assert not thread.is_alive()
    listener.close()


def test_connections_beyond_the_most_are_closed_and_those_that_are_open_go_on(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "MAX_CONNECTIONS", 40)
    held: list[socket.socket] = []
    try:
        first = socket.create_connection(("127.0.0.1", port), timeout=30)
        held.append(first)
        first.sendall(GET + b"\r\n")
        assert status_of(hear(first)) == 200
        refused = 0
        while not refused:
            assert len(held) <= 41
            held.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            with contextlib.suppress(ConnectionError):
                held[-1].sendall(GET + b"\r\n")
            refused += hear(held[-1]) == b""
        first.sendall(GET + b"\r\n")
        assert status_of(hear(first)) == 200
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 30
    while not say(port, GET + b"\r\n", seconds=30):
        assert time.monotonic() < deadline


def test_a_client_that_leaves_in_the_middle_of_its_body_does_no_harm(port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
    assert status_of(say(port, GET + b"\r\n")) == 200
    assert stubs.calls == []


@pytest.mark.parametrize(
    "head",
    [
        POST + b'Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{"content":"a"}\r\n0\r\n\r\n',
        POST + b'Content-Length: 15\r\nContent-Length: 16\r\n\r\n{"content":"a"}',
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        GET + b"X-Folded: a\r\n b\r\nBad Header: x\r\n\r\n",
        GET + b"X-Nul: a\0b\r\n\r\n",
        GET.replace(b"healthz", b"health\xffz") + b"\r\n",
        GET.replace(b"healthz", b"things?limit=\xff") + b"\r\n",
        b"GET /api/v1/healthz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_a_head_with_two_readings_or_none_is_refused(port: int, head: bytes) -> None:
    heard = say(port, head)
    assert 400 <= status_of(heard) < 500
    assert stubs.calls == []


def test_a_body_longer_than_declared_is_not_read_as_part_of_it(port: int) -> None:
    smuggled = b"GET /api/v1/calls/key_error HTTP/1.1\r\nHost: a\r\n\r\n"
    assert status_of(say(port, POST + b'Content-Length: 15\r\n\r\n{"content":"a"}' + smuggled)) == 201
    assert stubs.calls[0] == "make_thing"


def test_a_client_that_asks_before_it_sends_is_told_not_to(port: int) -> None:
    heard = say(port, POST + b"Content-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
    assert status_of(heard) == 413
    assert b"100 Continue" not in heard


def test_a_client_that_asks_before_it_sends_is_let_when_it_may(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(POST + b"Content-Length: 15\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(connection.recv(1000)) == 100
        connection.sendall(b'{"content":"a"}')
        assert status_of(hear(connection)) == 201


def test_a_refusal_does_not_wait_for_the_end_of_the_body_and_closes_the_connection(port: int) -> None:
    endless = POST.replace(b"application/json", b"text/plain") + b"Transfer-Encoding: chunked\r\n\r\n"
    heard = say(port, endless + b"5\r\nhello\r\n")
    assert (status_of(heard), code_of(heard)) == (415, "unsupported_media_type")
    assert b"\r\nconnection: close\r\n" in heard.lower()


def test_what_is_refused_unread_is_never_taken_for_the_next_request(port: int) -> None:
    hidden = GET + b"\r\n"
    request = POST.replace(b"POST /api/v1/things", b"POST /api/v1/nowhere")
    heard = say(port, request + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden)
    assert status_of(heard) == 404
    assert b"HTTP/1.1" not in heard[1:]


def test_the_path_decides_as_it_was_sent(port: int) -> None:
    for target in (b"/api/v1/things/%0A", b"/api/v1/things/%FF", b"/api/v1/things/%zz"):
        assert status_of(say(port, GET.replace(b"/api/v1/healthz", target) + b"\r\n")) == 400


def test_headers_of_20_kilobytes_are_431(port: int) -> None:
    heard = say(port, GET + b"X-Filler: " + b"x" * 20_000 + b"\r\n\r\n")
    assert (status_of(heard), code_of(heard)) == (431, "headers_too_large")


def test_ten_thousand_headers_are_refused(port: int) -> None:
    assert status_of(say(port, GET + b"X-A: b\r\n" * 10_000 + b"\r\n")) in (400, 431)


def test_a_websocket_finds_no_one(port: int) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    heard = say(port, GET + upgrade + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert b"101" not in heard.partition(b"\r\n")[0]


def test_a_websocket_scope_is_closed(app: ASGIApp) -> None:
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket"}, receive, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1000}]


def test_a_client_that_reads_its_answer_slowly_holds_no_thread() -> None:
    app = shapes_app(limits=Limits(handler_threads=2))

    async def scenario() -> list[int]:
        taken = asyncio.Event()
        held = asyncio.Event()

        async def slow_send(message: object) -> None:
            held.set()
            await taken.wait()

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/v1/calls/slow",
            "raw_path": b"/api/v1/calls/slow",
            "query_string": b"",
            "headers": [],
            "root_path": "",
            "http_version": "1.1",
            "state": {},
        }
        readers = [asyncio.create_task(app(dict(scope), receive, slow_send)) for _ in range(2)]
        await held.wait()
        statuses = [(await ask_async(app, "/api/v1/calls/slow")).status for _ in range(2)]
        taken.set()
        await asyncio.gather(*readers)
        return statuses

    assert asyncio.run(scenario()) == [200, 200]
