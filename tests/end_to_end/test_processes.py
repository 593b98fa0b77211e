"""How the processes of an installation start, stop and die: what was begun is ended, and nothing is left behind."""

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from sqlalchemy.engine import make_url

from conversations_api.demo.invented_agencies import Agency
from conversations_api.embedded_postgres import EmbeddedPostgres
from conversations_api.web import http_protocol
from tests.stack import Stack, database_of_its_own, running


@pytest.fixture
def own_stack(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """An installation that a test may stop and kill."""
    with (
        database_of_its_own(postgres, migrated_template) as urls,
        running(urls, tmp_path_factory.mktemp("stack")) as stack,
    ):
        yield stack


def a_conversation(stack: Stack, agency: Agency) -> str:
    assert stack.write(agency.channels[1], "+12125550123", "Hello?")[1] == 200
    return str(next(stack.conversations(agency))["id"])


def hear(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and JSON body of the one answer after which the other side closes."""
    heard = b""
    while part := connection.recv(65_536):
        heard += part
    head, _, body = heard.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def test_what_is_no_http_is_answered_like_every_other_error(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        status, problem = hear(connection)
    assert (status, problem["code"], problem["status"]) == (400, "invalid_request", 400)


def test_a_head_that_is_far_too_large_is_refused_before_it_is_whole(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * http_protocol.MAX_HEAD_BYTES)
        for _ in range(100):  # and it does not stop sending
            connection.sendall(b"x" * 1000)
        status, problem = hear(connection)
    assert (status, problem["code"]) == (431, "headers_too_large")


def test_a_head_that_does_not_end_costs_the_connection_and_an_idle_one_stays(stack: Stack) -> None:
    def is_served(connection: http.client.HTTPConnection) -> bool:
        connection.request("GET", "/api/v1/healthz")
        return connection.getresponse().read() == b'{"status":"ok"}'

    idle = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    assert is_served(idle)
    address = idle.sock.getsockname()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as slow:
        started = time.monotonic()
        slow.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nHost: a\r\n")
        assert slow.recv(65_536) == b""
        assert time.monotonic() - started > http_protocol.HEAD_SECONDS / 2
    assert is_served(idle)
    assert idle.sock.getsockname() == address
    idle.close()


def test_a_request_that_is_under_way_when_the_api_is_stopped_gets_its_answer(own_stack: Stack) -> None:
    agency = own_stack.agencies[0]
    conversation_id = a_conversation(own_stack, agency)
    body = json.dumps({"content": "Under way"}).encode()
    with socket.create_connection(("127.0.0.1", own_stack.port), timeout=30) as connection:
        head = [
            f"POST /api/v1/conversations/{conversation_id}/messages HTTP/1.1",
            "Host: a",
            f"Authorization: Bearer {own_stack.token(agency)}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body[:5])
        time.sleep(0.5)
        api = own_stack.children["serve"].process
        api.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", own_stack.port), timeout=30)
        connection.sendall(body[5:])
        status, message = hear(connection)
    assert (status, message["content"]) == (201, "Under way")
    assert api.wait(60) == 0


def test_no_two_processes_share_a_connection_to_the_database(stack: Stack) -> None:
    """A connection that was open before a fork would be one that two processes talk over at once."""
    master = psutil.Process(stack.children["serve"].process.pid)
    forked = master.children()
    assert len(forked) == 2
    deadline = time.monotonic() + 60
    while not all(ports_to_the_database(stack, process) for process in forked):
        assert time.monotonic() < deadline
        with ThreadPoolExecutor(16) as pool:  # each of its threads has a new connection, which either may accept
            list(pool.map(lambda _: stack.get(stack.agencies[0], "/conversations"), range(32)))
    one, two = (ports_to_the_database(stack, process) for process in forked)
    assert one & two == set()
    assert ports_to_the_database(stack, master) == set()


def ports_to_the_database(stack: Stack, process: psutil.Process) -> set[int]:
    """Our own ends of a process's connections to PostgreSQL."""
    port = make_url(stack.urls.app).port
    connections = process.net_connections("tcp")
    return {one.laddr.port for one in connections if one.raddr and one.raddr.port == port}


def test_a_killed_master_takes_its_processes_along(own_stack: Stack) -> None:
    master = own_stack.children["serve"].process
    forked = psutil.Process(master.pid).children(recursive=True)
    assert len(forked) == 2
    master.kill()
    _, alive = psutil.wait_procs(forked, timeout=60)
    assert alive == []


def test_a_call_that_is_under_way_when_the_worker_is_stopped_is_ended_and_recorded(own_stack: Stack) -> None:
    agency = own_stack.agencies[0]
    conversation_id = a_conversation(own_stack, agency)
    own_stack.simulator.set_faults({"script": [{"kind": "slow", "seconds": 2.0}]})
    sent = own_stack.post(agency, f"/conversations/{conversation_id}/messages", {"content": "Slowly"}).json
    while not own_stack.simulator.accepted:
        time.sleep(0.02)
    worker = own_stack.children["worker"].process
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    message = own_stack.get(agency, f"/messages/{sent['id']}").json
    assert message["twilio_sid"] == own_stack.simulator.accepted[0]["message_sid"]
    assert message["status"] in ("sent", "delivered")
    log = (own_stack.folder / "worker.log").read_text().splitlines()
    assert json.loads(log[-1])["finished"] is True


def test_what_was_queued_while_no_worker_ran_is_sent_when_one_starts(own_stack: Stack) -> None:
    agency = own_stack.agencies[0]
    conversation_id = a_conversation(own_stack, agency)
    own_stack.stop("worker")
    sent = own_stack.post(agency, f"/conversations/{conversation_id}/messages", {"content": "Later"}).json
    assert own_stack.get(agency, f"/messages/{sent['id']}").json["status"] == "queued"
    own_stack.start("worker")
    deadline = time.monotonic() + 90
    while own_stack.get(agency, f"/messages/{sent['id']}").json["status"] != "delivered":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [one["body"] for one in own_stack.simulator.accepted] == ["Later"]
