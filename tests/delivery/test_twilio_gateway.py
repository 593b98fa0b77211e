"""What became of a create call is read off the wire: every way it can go wrong, and the class it must fall into.

The simulator plays the faults that speak HTTP; where the very bytes matter, a bare socket does.
"""

import ipaddress
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from delivery import http_exchange, outcomes, twilio_gateway
from delivery.simulator.faults import FAULTS
from delivery.simulator.server import TwilioSimulator
from delivery.twilio_gateway import Accepted, NotProcessed, Rejected, TwilioAccount, TwilioGateway, Unknown

ACCOUNT = TwilioAccount("AC" + "a" * 32, "the-secret-token")
SID = "SM" + "0123456789abcdef" * 2
CREATED = b'{"sid": "%s", "status": "queued"}' % SID.encode()
DEADLINE = 1.0
PATIENT = 20.0  # for calls that must not run into their deadline, however busy the machine is


@pytest.fixture
def simulator() -> Iterator[TwilioSimulator]:
    with TwilioSimulator({ACCOUNT.account_sid: ACCOUNT.auth_token}, status_delay_seconds=60) as running:
        yield running


@pytest.fixture
def gateway(simulator: TwilioSimulator) -> TwilioGateway:
    return gateway_to(simulator.url, total_deadline_seconds=PATIENT, connect_timeout_seconds=PATIENT)


def gateway_to(url: str, **options: Any) -> TwilioGateway:
    settings = {"connect_timeout_seconds": 1, "total_deadline_seconds": DEADLINE, "max_concurrency": 64, **options}
    return TwilioGateway(base_url=url, **settings)


def message(**changes: Any) -> twilio_gateway.OutboundMessage:
    wanted = {
        "sender": "+12025550100",
        "recipient": "+12025550101",
        "channel": "whatsapp",
        "content": "Are you open on Sunday? £5",
        "status_callback_url": "http://127.0.0.1:9/api/v1/webhooks/twilio/status/a/m/1",
        "validity_period_seconds": 3600,
    }
    return twilio_gateway.OutboundMessage(**{**wanted, **changes})


@contextmanager
def server(serve: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server whose every connection is handed to `serve`; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(8) as threads:

        def one(connection: socket.socket) -> None:
            try:
                with tls.wrap_socket(connection, server_side=True) if tls else connection as peer:
                    serve(peer)
            except OSError:
                connection.close()

        def accept() -> None:
            while True:
                try:
                    threads.submit(one, listener.accept()[0])
                except (OSError, RuntimeError):
                    return

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def answering(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Reads the request, sends these pieces, closes."""

    def serve(peer: socket.socket) -> None:
        read_request(peer)
        for piece in pieces:
            peer.sendall(piece)

    return serve


def read_request(peer: socket.socket) -> bytes:
    received = b""
    while True:
        head, _, body = received.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        if b"\r\n\r\n" in received and len(body) >= int(lengths[0] if lengths else 0):
            return received
        more = peer.recv(65536)
        if not more:
            raise ConnectionError("the request ended early")
        received += more


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def reply(status: str, body: bytes = CREATED, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


# What the simulator does -> what the gateway must say, and whether the message is on the simulator's record.
OUTCOME_OF_FAULT: list[tuple[dict[str, Any], type, bool]] = [
    ({"kind": "none"}, Accepted, True),
    ({"kind": "slow", "seconds": 0.1}, Accepted, True),
    ({"kind": "undelivered_later"}, Accepted, True),
    ({"kind": "failed_later"}, Accepted, True),
    ({"kind": "too_many_requests"}, NotProcessed, False),
    ({"kind": "too_many_requests", "retry_after": 7}, NotProcessed, False),
    *[({"kind": "reject", "code": code}, Rejected, False) for code in (21610, 63016, 21211, 30002, 21611)],
    ({"kind": "reject", "code": 63038, "http_status": 429}, Rejected, False),
    ({"kind": "reject", "code": 20003, "http_status": 401}, Rejected, False),
    ({"kind": "reject"}, Unknown, False),
    ({"kind": "reject", "http_status": 404}, Unknown, False),
    *[({"kind": "error_before_accepting", "http_status": status}, Unknown, False) for status in (500, 502, 503, 504)],
    *[({"kind": "error_after_accepting", "http_status": status}, Unknown, True) for status in (500, 503, 202, 302)],
    ({"kind": "redirect"}, Unknown, False),
    ({"kind": "close_before_reading"}, Unknown, False),
    ({"kind": "close_after_accepting"}, Unknown, True),
    ({"kind": "silence_after_accepting", "seconds": DEADLINE + 0.5}, Unknown, True),
    ({"kind": "accept_late", "seconds": 0.5}, Unknown, True),
    ({"kind": "half_reply"}, Unknown, True),
    ({"kind": "dripped_reply", "seconds": 0.05}, Unknown, True),
    ({"kind": "created_without_sid"}, Unknown, True),
    ({"kind": "nonsense_reply"}, Unknown, True),
]


@pytest.mark.parametrize(("fault", "outcome", "accepted"), OUTCOME_OF_FAULT, ids=lambda value: str(value))
def test_each_fault_of_the_carrier_falls_into_its_class(
    simulator: TwilioSimulator, fault: dict[str, Any], outcome: type, accepted: bool
) -> None:
    simulator.set_faults({"script": [fault]})
    deadline = DEADLINE if fault["kind"] in ("silence_after_accepting", "dripped_reply") else PATIENT
    gateway = gateway_to(simulator.url, total_deadline_seconds=deadline)
    result = gateway.create_message(ACCOUNT, message())
    assert type(result) is outcome
    if fault["kind"] == "accept_late":
        assert simulator.accepted == []
        time.sleep(1.0)
    assert [one["body"] for one in simulator.accepted] == ["Are you open on Sunday? £5"] * accepted
    if isinstance(result, Accepted):
        assert simulator.accepted[0]["message_sid"] == result.twilio_sid
    if isinstance(result, Rejected):
        assert (result.error_code, result.http_status) == (fault["code"], fault.get("http_status", 400))


def test_every_fault_that_can_strike_a_create_has_its_expected_outcome() -> None:
    creates = {kind for kind, (place, _) in FAULTS.items() if place == "create"}
    assert {fault["kind"] for fault, _, _ in OUTCOME_OF_FAULT} == creates


def test_a_refused_connection_was_not_processed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    result = gateway_to(f"http://127.0.0.1:{port}").create_message(ACCOUNT, message())
    assert result == NotProcessed(None, "connect_refused")


def test_a_name_that_cannot_be_looked_up_was_not_processed() -> None:
    result = gateway_to("http://no..such..host").create_message(ACCOUNT, message())
    assert result == NotProcessed(None, "name_lookup_failed")


def test_a_name_lookup_that_hangs_ends_with_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_at_last = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer_at_last.wait(10) and [])
    started = time.monotonic()
    result = gateway_to("http://carrier.example", connect_timeout_seconds=0.2).create_message(ACCOUNT, message())
    answer_at_last.set()
    assert result == NotProcessed(None, "name_lookup_timeout")
    assert time.monotonic() - started < 5


def test_a_connection_that_is_never_taken_up_was_not_processed() -> None:
    # One connection fills the kernel's queue; the handshake of the next one stays unanswered.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            gateway = gateway_to(f"http://127.0.0.1:{address[1]}", connect_timeout_seconds=0.2)
            assert gateway.create_message(ACCOUNT, message()) == NotProcessed(None, "connect_timeout")


def test_a_server_that_speaks_no_tls_was_sent_nothing_of_the_request() -> None:
    with server(answering(reply("201 Created"))) as url:
        result = gateway_to(url.replace("http:", "https:")).create_message(ACCOUNT, message())
    assert isinstance(result, NotProcessed)


def test_a_connection_reset_before_the_first_byte_was_not_processed() -> None:
    connected, was_reset = threading.Event(), threading.Event()

    def serve(peer: socket.socket) -> None:
        connected.wait(5)
        reset(peer)
        was_reset.set()

    def wait_for_the_reset() -> bool:
        connected.set()
        return was_reset.wait(5) and not time.sleep(0.05)

    with server(serve) as url:
        result = gateway_to(url).create_message(ACCOUNT, message(), may_send=wait_for_the_reset)
    assert result == NotProcessed(None, "write_reset")


def test_a_connection_closed_unread_once_bytes_were_written_is_unknown() -> None:
    with server(lambda peer: reset(peer) if peer.recv(1, socket.MSG_PEEK) else None) as url:
        assert isinstance(gateway_to(url).create_message(ACCOUNT, message()), Unknown)


def test_nothing_is_written_once_leave_to_send_is_withdrawn() -> None:
    received = []
    with server(lambda peer: received.append(peer.recv(10))) as url:
        gateway = gateway_to(url)
        withdrawn = gateway.create_message(ACCOUNT, message(), may_send=lambda: False)
        unknown = gateway.create_message(ACCOUNT, message(), may_send=lambda: 1 // 0 == 0)
        too_late = gateway.create_message(ACCOUNT, message(), may_send=lambda: not time.sleep(DEADLINE + 0.1))
    assert [withdrawn, unknown, too_late] == [
        NotProcessed(None, "leave_to_send_withdrawn"),
        NotProcessed(None, "leave_to_send_unknown"),
        NotProcessed(None, "deadline_before_write"),
    ]
    assert b"".join(received) == b""


def test_leave_to_send_is_asked_once_the_connection_stands(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    asked = []
    result = gateway.create_message(ACCOUNT, message(), may_send=lambda: asked.append(len(simulator.requests)) is None)
    assert isinstance(result, Accepted)
    assert asked == [0]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this kernel cannot be told")
def test_the_kernel_does_not_go_on_delivering_beyond_the_deadline(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    port = int(simulator.url.rpartition(":")[2])
    limits = []

    def look() -> bool:
        for connection in psutil.Process().net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                with socket.socket(fileno=os.dup(connection.fd)) as one:
                    limits.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        return True

    assert isinstance(gateway.create_message(ACCOUNT, message(), may_send=look), Accepted)
    assert [0 < limit <= PATIENT * 1000 for limit in limits] == [True]


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 201 Created\r\nContent-Length: 9999\r\n\r\n", b"HTTP/1.1 201 Cr"])
def test_the_total_deadline_ends_a_reply_that_drips(head: bytes) -> None:
    stop = threading.Event()

    def drip(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(head)
        while not stop.wait(0.05):
            peer.sendall(b"x")

    with server(drip) as url:
        started = time.monotonic()
        result = gateway_to(url).create_message(ACCOUNT, message())
        took = time.monotonic() - started
        stop.set()
    assert result == Unknown("read_timeout")
    assert DEADLINE * 0.9 < took < DEADLINE + 5


@pytest.mark.parametrize(
    ("wire", "outcome"),
    [
        (reply("201 Created"), Accepted(SID, "queued")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + reply("201 Created"), Accepted(SID, "queued")),
        (b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n" + CREATED, Accepted(SID, "queued")),
        (
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
            % (len(CREATED), CREATED),
            Accepted(SID, "queued"),
        ),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(CREATED), CREATED), Unknown),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 9999\r\n\r\n" + CREATED, Unknown("reply_cut_short")),
        (reply("201 Created", b'{"sid": "SM123"}'), Unknown("created_without_sid")),
        (reply("201 Created", b'{"sid": "%s"}' % SID.upper().encode()), Unknown("created_without_sid")),
        (reply("201 Created", b'{"sid": "%s\\n"}' % SID.encode()), Unknown("created_without_sid")),
        (reply("201 Created", b'{"sid": 5}'), Unknown("created_without_sid")),
        (reply("201 Created", b'["%s"]' % SID.encode()), Unknown("created_without_sid")),
        (reply("201 Created", b"[" * 100_000), Unknown("created_without_sid")),
        (reply("201 Created", b"\xff\xfe\xfd"), Unknown("created_without_sid")),
        (reply("200 OK"), Unknown("http_200")),
        (reply("202 Accepted"), Unknown("http_202")),
        (reply("204 No Content", b""), Unknown("http_204")),
        (reply("400 Bad Request", b'{"code": "21211"}'), Unknown("http_400")),
        (reply("400 Bad Request", b'{"code": true}'), Unknown("http_400")),
        (reply("408 Request Timeout", b""), Unknown("http_408")),
        (reply("500 Internal Server Error", b'{"code": 21211}'), Unknown("http_500")),
        (b"220 smtp.example ESMTP\r\n", Unknown("reply_not_http")),
        (b"", Unknown("reply_not_http")),
    ],
)
def test_only_a_whole_201_with_a_well_formed_sid_is_accepted(wire: bytes, outcome: Any) -> None:
    with server(answering(wire)) as url:
        result = gateway_to(url).create_message(ACCOUNT, message())
    assert result == outcome or type(result) is outcome


def test_a_redirect_is_not_followed() -> None:
    requests = []

    def serve(peer: socket.socket) -> None:
        requests.append(read_request(peer))
        peer.sendall(reply("307 Temporary Redirect", b"", "Location: /elsewhere"))

    with server(serve) as url:
        assert gateway_to(url).create_message(ACCOUNT, message()) == Unknown("http_307")
    assert len(requests) == 1


def test_a_reply_without_end_is_given_up() -> None:
    def flood(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(b"HTTP/1.1 201 Created\r\n\r\n")
        while True:
            peer.sendall(b" " * 65536)

    with server(flood) as url:
        assert gateway_to(url, total_deadline_seconds=20).create_message(ACCOUNT, message()) == Unknown("read_failed")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("999999999999", 3600.0),
        ("-3", None),
        ("soon", None),
        ("1e5", None),
        pytest.param(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0.0, id="yesterday"),
        pytest.param(format_datetime(datetime.now(UTC) + timedelta(days=9), usegmt=True), 3600.0, id="in nine days"),
    ],
)
def test_retry_after_is_read_in_both_its_forms(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"retry-after": header}
    assert outcomes.outcome_of(http_exchange.Answer(429, headers, b"")) == NotProcessed(seconds, "http_429")


@pytest.mark.parametrize(("code", "kind"), [(63038, Rejected), (20429, NotProcessed), (30001, Rejected)])
def test_429_is_about_the_sender_where_its_code_says_so(code: int, kind: type) -> None:
    # As https://github.com/twilio/twilio-php/issues/661 quotes it.
    body = b'{"code": %d, "message": "Account exceeded the 500 daily messages limit", "status": 429}' % code
    assert type(outcomes.outcome_of(http_exchange.Answer(429, {}, body))) is kind


@pytest.mark.parametrize("code", [b"null", b"true", b'"63038"', b"[63038]", b"{}"])
def test_429_without_a_code_was_not_processed(code: bytes) -> None:
    answer = http_exchange.Answer(429, {}, b'{"code": %s}' % code)
    assert outcomes.outcome_of(answer) == NotProcessed(None, "http_429")


def test_what_the_carrier_says_of_a_refusal_can_be_stored() -> None:
    answer = http_exchange.Answer(400, {}, b'{"code": 21211, "message": "a\\u0000b\\ud83d"}')
    assert outcomes.outcome_of(answer) == Rejected(21211, "a\ufffdb\ufffd", 400)


def test_a_call_that_finds_no_free_place_within_its_deadline_was_not_processed(simulator: TwilioSimulator) -> None:
    gateway = gateway_to(simulator.url, max_concurrency=1)
    occupied, leave = threading.Event(), threading.Event()

    def occupy() -> bool:
        occupied.set()
        return leave.wait(10)

    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(gateway.create_message, ACCOUNT, message(), may_send=occupy)
        assert occupied.wait(5)
        second = gateway.create_message(ACCOUNT, message())
        leave.set()
    assert (first.result(), second) == (
        NotProcessed(None, "deadline_before_write"),
        NotProcessed(None, "no_free_place"),
    )
    assert isinstance(gateway.create_message(ACCOUNT, message()), Accepted)


def test_concurrent_calls_never_mix_their_answers(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    def send(number: int) -> tuple[str, str]:
        result = gateway.create_message(ACCOUNT, message(content=f"message {number}"))
        assert isinstance(result, Accepted)
        return result.twilio_sid, f"message {number}"

    with ThreadPoolExecutor(64) as threads:
        results = list(threads.map(send, range(256)))
    assert sorted(results) == sorted((one["message_sid"], one["body"]) for one in simulator.accepted)


def test_the_environment_does_not_redirect_a_call(simulator: TwilioSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("TWILIO_EDGE", "sydney")
    monkeypatch.setenv("TWILIO_REGION", "au1")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "another-token")
    assert isinstance(gateway_to(simulator.url).create_message(ACCOUNT, message()), Accepted)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that no authority signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def test_only_configured_authorities_are_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with server(answering(reply("201 Created")), tls=context) as url:
        trusting = gateway_to(url, ca_file=str(certificate)).create_message(ACCOUNT, message())
        doubting = gateway_to(url).create_message(ACCOUNT, message())
    assert (trusting, doubting) == (Accepted(SID, "queued"), NotProcessed(None, "connect_tls"))


@pytest.mark.parametrize("url", ["ftp://carrier.example", "carrier.example", "https://", "https://carrier.example/v1"])
def test_a_base_url_that_is_no_plain_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        gateway_to(url)


def form_of(simulator: TwilioSimulator) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in simulator.accepted[-1]["form"]]


def test_whatsapp_addresses_carry_their_prefix_and_the_callback_its_retry_policy(
    simulator: TwilioSimulator, gateway: TwilioGateway
) -> None:
    gateway.create_message(ACCOUNT, message())
    assert sorted(form_of(simulator)) == [
        ("Body", "Are you open on Sunday? £5"),
        ("From", "whatsapp:+12025550100"),
        ("StatusCallback", "http://127.0.0.1:9/api/v1/webhooks/twilio/status/a/m/1#rc=5&rp=all"),
        ("To", "whatsapp:+12025550101"),
        ("ValidityPeriod", "3600"),
    ]


def test_a_messaging_service_sends_in_place_of_a_number(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    service = "MG" + "b" * 32
    result = gateway.create_message(ACCOUNT, message(sender=service, channel="sms"))
    assert isinstance(result, Accepted)
    assert result.provider_status == "accepted"
    sent = dict(form_of(simulator))
    assert (sent["To"], sent["MessagingServiceSid"], "From" in sent) == ("+12025550101", service, False)


def test_media_go_out_in_order_and_without_an_empty_body(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    urls = tuple(f"https://media.example/{n}.jpg?a=1&b=2" for n in (3, 1, 2))
    gateway.create_message(ACCOUNT, message(content="", media_urls=urls))
    sent = form_of(simulator)
    assert [value for name, value in sent if name == "MediaUrl"] == list(urls)
    assert "Body" not in dict(sent)


def test_a_template_goes_out_with_its_variables_alone(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    template = "HX" + "c" * 32
    gateway.create_message(ACCOUNT, message(content_sid=template, content_variables={"1": "Zoë"}))
    sent = dict(form_of(simulator))
    assert (sent["ContentSid"], sent["ContentVariables"]) == (template, '{"1": "Zo\\u00eb"}')
    assert "Body" not in sent


def test_a_text_that_cannot_be_encoded_is_not_processed_rather_than_raised(gateway: TwilioGateway) -> None:
    assert gateway.create_message(ACCOUNT, message(content="\ud800")) == NotProcessed(None, "error_UnicodeEncodeError")


def test_no_log_holds_a_text_a_phone_number_or_a_token(
    simulator: TwilioSimulator, gateway: TwilioGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.set_faults({"script": ["none", {"kind": "reject", "code": 21211}, "half_reply", "listing_error"]})
    for _ in range(3):
        gateway.create_message(ACCOUNT, message())
    with pytest.raises(twilio_gateway.ListingUnavailable):
        gateway.list_messages(ACCOUNT, to="whatsapp:+12025550101")
    gateway.list_messages(ACCOUNT, to="whatsapp:+12025550101")
    logged = [vars(record) for record in caplog.records]
    calls = [fields for fields in logged if fields["msg"] == "twilio_create"]
    assert [(fields["outcome"], fields["error_code"]) for fields in calls] == [
        ("accepted", None),
        ("rejected", 21211),
        ("unknown", None),
    ]
    for secret in ("2025550101", "2025550100", "Sunday", ACCOUNT.auth_token):
        assert secret not in caplog.text + repr(logged)
    assert logging.getLogger("twilio.http_client").getEffectiveLevel() == logging.WARNING


def test_nothing_that_is_printed_shows_a_secret(simulator: TwilioSimulator, gateway: TwilioGateway) -> None:
    gateway.create_message(ACCOUNT, message())
    shown = repr([ACCOUNT, message(), gateway.list_messages(ACCOUNT), Rejected(21211, "+12025550101 is wrong", 400)])
    for secret in ("2025550101", "Sunday", ACCOUNT.auth_token):
        assert secret not in shown
