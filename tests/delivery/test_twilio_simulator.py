"""The simulator behaves as Twilio does where we rely on it, misbehaves as told, and its record is the truth."""

import contextlib
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import pytest
import requests

from delivery import twilio_gateway
from delivery.simulator.faults import FAULTS, Faults
from delivery.simulator.server import TwilioSimulator
from delivery.simulator.webhooks import Inbound

SID, TOKEN = "AC" + "a" * 32, "the-secret-token"
OTHER_SID, OTHER_TOKEN = "AC" + "b" * 32, "another-token"
CONTACT, OURS = "whatsapp:+12025550101", "whatsapp:+12025550100"
SERVICE = "MG" + "c" * 32


class Receiver:
    """A webhook server that keeps what it was sent and answers as told."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = []
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.posts.append((self.path, parse_qsl(body, keep_blank_values=True), dict(self.headers)))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fields(self, name: str) -> list[str]:
        return [dict(form).get(name, "") for _, form, _ in list(self.posts)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    thread = threading.Thread(target=lambda: running.server.serve_forever(poll_interval=0.02))
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


@pytest.fixture
def simulator(receiver: Receiver) -> Iterator[TwilioSimulator]:
    accounts = {SID: TOKEN, OTHER_SID: OTHER_TOKEN}
    with TwilioSimulator(accounts, status_delay_seconds=0.02, inbound_url=f"{receiver.url}/inbound") as running:
        yield running


def create(simulator: TwilioSimulator, *, auth: tuple[str, str] = (SID, TOKEN), **changes: Any) -> requests.Response:
    form = {"To": CONTACT, "From": OURS, "Body": "Hello", **changes}
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json"
    given = {name: value for name, value in form.items() if value is not None}
    return requests.post(url, data=given, auth=auth, timeout=5)


def control(simulator: TwilioSimulator, method: str, path: str, content: Any = None) -> requests.Response:
    return requests.request(method, f"{simulator.url}/simulator/{path}", json=content, timeout=5)


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("auth", "status", "code"),
    [
        ((SID, TOKEN), 201, None),
        ((SID, "wrong"), 401, 20003),
        ((SID, ""), 401, 20003),
        (("AC" + "0" * 32, TOKEN), 401, 20003),
        ((OTHER_SID, OTHER_TOKEN), 404, 20404),
    ],
)
def test_only_the_accounts_own_token_opens_it(
    simulator: TwilioSimulator, auth: tuple[str, str], status: int, code: int | None
) -> None:
    reply = create(simulator, auth=auth)
    assert (reply.status_code, reply.json().get("code")) == (status, code)
    assert len(simulator.accepted) == (status == 201)


def test_a_request_without_credentials_is_refused(simulator: TwilioSimulator) -> None:
    reply = requests.get(f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json", timeout=5)
    assert (reply.status_code, reply.json()["code"]) == (401, 20003)
    assert set(reply.json()) == {"code", "message", "more_info", "status"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"To": None}, 21604),
        ({"To": "5550101"}, 21211),
        ({"To": "whatsapp:whatsapp:+12025550101"}, 21211),
        ({"From": None}, 21603),
        ({"From": "+0"}, 21212),
        ({"From": "+12025550100"}, 21910),
        ({"To": "+12025550101"}, 21910),
        ({"From": None, "MessagingServiceSid": "MG123"}, 21701),
        ({"Body": None}, 21602),
        ({"Body": ""}, 21602),
        ({"Body": "x" * 1601}, 21617),
        ({"MediaUrl": ["https://media.example/1"] * 11}, 21623),
        ({"MediaUrl": "file:///etc/passwd"}, 21620),
        ({"ValidityPeriod": "0"}, 21624),
        ({"ValidityPeriod": "36001"}, 21624),
        ({"ValidityPeriod": "soon"}, 21624),
        ({"StatusCallback": "not a url"}, 21609),
        ({"StatusCallback": "https://under_score.example/"}, 21609),
    ],
)
def test_a_create_that_twilio_would_refuse_is_refused_with_its_code(
    simulator: TwilioSimulator, changes: dict[str, Any], code: int
) -> None:
    reply = create(simulator, **changes)
    assert (400 <= reply.status_code < 500, reply.json()["code"]) == (True, code)
    assert simulator.accepted == []


def test_the_longest_text_in_any_script_is_kept_as_it_came(simulator: TwilioSimulator) -> None:
    text = ("ünï 🎉 £\x00 &amp; \x92" * 200)[:1600]
    sid = create(simulator, Body=text).json()["sid"]
    assert [(one["message_sid"], one["body"]) for one in simulator.accepted] == [(sid, text)]


def test_statuses_are_posted_in_order_and_signed(simulator: TwilioSimulator, receiver: Receiver) -> None:
    callback = f"{receiver.url}/status/agency/message/1?x=1"
    sid = create(simulator, StatusCallback=f"{callback}#rc=5&rp=all").json()["sid"]
    assert eventually(lambda: len(receiver.posts) == 3)
    assert receiver.fields("MessageStatus") == ["sent", "delivered", "read"]
    for path, form, headers in receiver.posts:
        assert path == "/status/agency/message/1?x=1"
        assert twilio_gateway.verify_signature(callback, form, headers["X-Twilio-Signature"], [TOKEN])
        assert not twilio_gateway.verify_signature(callback, form, headers["X-Twilio-Signature"], [OTHER_TOKEN])
        expected = {"MessageSid": sid, "SmsSid": sid, "AccountSid": SID, "To": CONTACT, "From": OURS}
        assert expected.items() <= dict(form).items()
        assert headers["I-Twilio-Idempotency-Token"]


def test_an_sms_is_delivered_but_never_read(simulator: TwilioSimulator, receiver: Receiver) -> None:
    create(simulator, To="+12025550101", From="+12025550100", StatusCallback=f"{receiver.url}/status")
    create(simulator, StatusCallback=f"{receiver.url}/status")
    assert eventually(lambda: "read" in receiver.fields("MessageStatus"))
    statuses = sorted(zip(receiver.fields("To"), receiver.fields("MessageStatus"), strict=True))
    assert statuses == [
        ("+12025550101", "delivered"),
        ("+12025550101", "sent"),
        (CONTACT, "delivered"),
        (CONTACT, "read"),
        (CONTACT, "sent"),
    ]


def test_a_failure_is_reported_with_its_code(simulator: TwilioSimulator, receiver: Receiver) -> None:
    simulator.set_faults({"script": [{"kind": "undelivered_later", "code": 30007}, "failed_later"]})
    create(simulator, StatusCallback=f"{receiver.url}/status")
    assert eventually(lambda: len(receiver.posts) == 2)
    create(simulator, StatusCallback=f"{receiver.url}/status")
    assert eventually(lambda: len(receiver.posts) == 3)
    assert list(zip(receiver.fields("MessageStatus"), receiver.fields("ErrorCode"), strict=True)) == [
        ("sent", ""),
        ("undelivered", "30007"),
        ("failed", "63016"),
    ]


@pytest.mark.parametrize(
    ("fragment", "answers", "attempts"),
    [
        ("#rc=5&rp=all", [500, 404, 503, 200], 4),
        ("#rc=2&rp=5xx", [500, 500, 500, 500], 3),
        ("#rc=5&rp=5xx", [404, 200], 1),
        ("#rc=5&rp=4xx,5xx", [404, 500, 200], 3),
        ("", [500, 200], 1),
    ],
)
def test_a_callback_is_retried_as_its_url_asks(
    simulator: TwilioSimulator, receiver: Receiver, fragment: str, answers: list[int], attempts: int
) -> None:
    simulator.set_faults({"script": ["failed_later"]})  # one status only
    receiver.statuses = list(answers)
    create(simulator, StatusCallback=f"{receiver.url}/status{fragment}")
    assert eventually(lambda: len(receiver.posts) == attempts)
    time.sleep(0.2)
    assert receiver.fields("MessageStatus") == ["failed"] * attempts


def test_a_receiver_that_is_away_is_tried_again_and_the_message_goes_its_way(simulator: TwilioSimulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/status"
    sid = create(simulator, StatusCallback=nobody).json()["sid"]
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages/{sid}.json"
    assert eventually(lambda: requests.get(url, auth=(SID, TOKEN), timeout=5).json()["status"] == "read")
    assert eventually(lambda: len(simulator.posted) >= 2)
    assert {one.http_status for one in simulator.posted} == {None}


@pytest.mark.parametrize(
    ("fault", "arrived"),
    [
        ("callback_lost", ["delivered", "read"]),
        ("callback_duplicated", ["sent", "sent", "delivered", "read"]),
        ("callback_reordered", ["delivered", "sent", "read"]),
        ({"kind": "callback_late", "seconds": 0.5}, ["delivered", "read", "sent"]),
    ],
)
def test_callbacks_go_wrong_as_told(
    simulator: TwilioSimulator, receiver: Receiver, fault: Any, arrived: list[str]
) -> None:
    simulator.set_faults({"script": [fault]})
    create(simulator, StatusCallback=f"{receiver.url}/status")
    assert eventually(lambda: len(receiver.posts) == len(arrived))
    time.sleep(0.1)
    assert receiver.fields("MessageStatus") == arrived


def test_a_held_back_last_callback_still_arrives(simulator: TwilioSimulator, receiver: Receiver) -> None:
    simulator.set_faults({"script": ["failed_later", "callback_reordered"]})
    create(simulator, StatusCallback=f"{receiver.url}/status")
    assert eventually(lambda: receiver.fields("MessageStatus") == ["failed"])


def test_what_a_contact_writes_on_whatsapp_is_posted_as_twilio_does(
    simulator: TwilioSimulator, receiver: Receiver
) -> None:
    sid, status = simulator.receive(
        Inbound(SID, CONTACT, OURS, " Öffnet ihr\t? &lt; ", media=((None, "image/jpeg"),), profile_name="Zoë")
    )
    ((path, form, headers),) = receiver.posts
    assert (status, path) == (200, "/inbound")
    assert twilio_gateway.verify_signature(f"{receiver.url}/inbound", form, headers["X-Twilio-Signature"], [TOKEN])
    assert headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    media_url = dict(form)["MediaUrl0"]
    assert media_url.startswith(f"https://api.twilio.com/2010-04-01/Accounts/{SID}/Messages/{sid}/Media/ME")
    assert dict(form) == {
        "MessageSid": sid,
        "SmsSid": sid,
        "SmsMessageSid": sid,
        "AccountSid": SID,
        "From": CONTACT,
        "To": OURS,
        "Body": " Öffnet ihr\t? &lt; ",
        "NumMedia": "1",
        "NumSegments": "1",
        "ProfileName": "Zoë",
        "WaId": "12025550101",
        "MessageType": "image",
        "ReferralNumMedia": "0",
        "SmsStatus": "received",
        "ApiVersion": "2010-04-01",
        "MediaUrl0": media_url,
        "MediaContentType0": "image/jpeg",
    }
    assert len(form) == len(dict(form))


def test_an_sms_carries_blank_fields_that_are_signed_too(simulator: TwilioSimulator, receiver: Receiver) -> None:
    simulator.receive(Inbound(SID, "+12025550101", "+12025550100", "", extra=(("OptOutType", "STOP"),)))
    ((_, form, headers),) = receiver.posts
    assert {"ToCity": "", "FromZip": "", "Body": "", "OptOutType": "STOP"}.items() <= dict(form).items()
    assert "WaId" not in dict(form)
    url, signature = f"{receiver.url}/inbound", headers["X-Twilio-Signature"]
    assert twilio_gateway.verify_signature(url, form, signature, [TOKEN])
    assert not twilio_gateway.verify_signature(url, [pair for pair in form if pair[1]], signature, [TOKEN])


def test_a_message_that_twilio_repeats_is_posted_again_and_kept_once(
    simulator: TwilioSimulator, receiver: Receiver
) -> None:
    again = Inbound(SID, CONTACT, OURS, "Hello?", message_sid="SM" + "d" * 32)
    assert [simulator.receive(again) for _ in range(2)] == [("SM" + "d" * 32, 200)] * 2
    assert receiver.posts[0][1] == receiver.posts[1][1]
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json"
    listed = requests.get(url, params={"To": OURS}, auth=(SID, TOKEN), timeout=5).json()["messages"]
    assert [(one["sid"], one["direction"], one["status"]) for one in listed] == [
        ("SM" + "d" * 32, "inbound", "received")
    ]


def test_a_contacts_message_is_listed_even_when_nobody_takes_the_webhook(
    simulator: TwilioSimulator, receiver: Receiver
) -> None:
    receiver.statuses = [503]
    refused, _ = simulator.receive(Inbound(SID, CONTACT, OURS, "one"))
    simulator.set_inbound_url(None)
    unsent = simulator.receive(Inbound(SID, CONTACT, OURS, "two"))
    assert unsent[1] is None
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json"
    listed = requests.get(url, params={"To": OURS}, auth=(SID, TOKEN), timeout=5).json()["messages"]
    assert [one["sid"] for one in listed] == [unsent[0], refused]


def test_contacts_answer_what_reached_them(receiver: Receiver) -> None:
    with TwilioSimulator(
        {SID: TOKEN},
        status_delay_seconds=0.01,
        inbound_url=f"{receiver.url}/inbound",
        answers=("See you then",),
        answer_delay_seconds=(0.0, 0.05),
        faults={"script": ["none", "failed_later"]},
    ) as simulator:
        create(simulator, From=None, MessagingServiceSid=SERVICE)
        create(simulator, To="whatsapp:+12025550199")
        assert eventually(lambda: len(receiver.posts) == 1)
        time.sleep(0.2)
    answer = dict(receiver.posts[0][1])
    assert (answer["From"], answer["Body"], answer["MessagingServiceSid"]) == (CONTACT, "See you then", SERVICE)
    assert len(receiver.posts) == 1


def test_who_texts_stop_gets_no_more_sms_until_start(simulator: TwilioSimulator) -> None:
    contact, ours = "+12025550101", "+12025550100"

    def result(**changes: Any) -> Any:
        return create(simulator, **{"To": contact, "From": ours, **changes}).json().get("code")

    simulator.receive(Inbound(SID, contact, ours, " Stop "))
    assert result() == 21610
    assert result(To="+12025550102") is None
    assert result(From="+12025550109") is None
    simulator.receive(Inbound(SID, contact, ours, "START"))
    assert result() is None
    simulator.receive(Inbound(SID, CONTACT, OURS, "STOP"))
    assert create(simulator).status_code == 201


def test_a_message_can_be_redacted(simulator: TwilioSimulator) -> None:
    sid = create(simulator, Body="private").json()["sid"]
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages/{sid}.json"
    assert requests.post(url, data={"Body": ""}, auth=(SID, TOKEN), timeout=5).json()["body"] == ""
    assert requests.get(url, auth=(SID, TOKEN), timeout=5).json()["body"] == ""
    assert requests.post(url, data={"Body": "other"}, auth=(SID, TOKEN), timeout=5).status_code == 400


def test_a_listing_can_be_narrowed_by_the_day_of_sending(simulator: TwilioSimulator) -> None:
    sid, _ = simulator.receive(Inbound(SID, CONTACT, OURS, "today"))
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json"

    def listed(**filters: str) -> list[str]:
        reply = requests.get(url, params=filters, auth=(SID, TOKEN), timeout=5)
        return [one["sid"] for one in reply.json()["messages"]]

    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert listed(DateSent=today) == listed(**{"DateSent>": "2020-01-01"}) == listed(**{"DateSent<": today}) == [sid]
    assert listed(DateSent="2020-01-01") == listed(**{"DateSent<": "2020-01-01T00:00:00Z"}) == []


def test_the_record_is_written_before_the_reply_and_taken_up_by_the_next_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "accepted.jsonl"
    with TwilioSimulator({SID: TOKEN}, record_path=path, status_delay_seconds=60) as simulator:
        simulator.set_faults({"script": ["none", "close_after_accepting", "too_many_requests"]})
        first = create(simulator, Body="one").json()["sid"]
        with pytest.raises(requests.ConnectionError):
            create(simulator, Body="two")
        create(simulator, Body="three")
        written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert written == simulator.accepted
        assert [(one["number"], one["body"], one["fault"]) for one in written] == [
            (1, "one", None),
            (2, "two", "close_after_accepting"),
        ]
    with path.open("a", encoding="utf-8") as file:
        file.write('{"number": 3, "bo')  # killed while it wrote
    with TwilioSimulator({SID: TOKEN}, record_path=path) as simulator:
        url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages/{first}.json"
        assert requests.get(url, auth=(SID, TOKEN), timeout=5).json()["body"] == "one"
        create(simulator, Body="four")
        assert [(one["number"], one["body"]) for one in simulator.accepted] == [(1, "one"), (2, "two"), (3, "four")]
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == simulator.accepted


def test_the_controls_show_what_was_accepted_since_a_number(simulator: TwilioSimulator) -> None:
    for body in ("one", "two", "three"):
        create(simulator, Body=body)
    everything = control(simulator, "GET", "messages").json()["messages"]
    assert everything == simulator.accepted
    assert [one["body"] for one in control(simulator, "GET", "messages?since=2").json()["messages"]] == ["three"]


def test_the_controls_set_and_show_faults(simulator: TwilioSimulator) -> None:
    settings = {"seed": 7, "latency_ms": 1, "script": ["too_many_requests"], "dice": []}
    assert control(simulator, "PUT", "faults", settings).status_code == 200
    assert create(simulator).status_code == 429
    assert create(simulator).status_code == 201
    shown = control(simulator, "GET", "faults").json()
    assert (shown["seed"], shown["script"], shown["struck"]) == (7, [], {"too_many_requests": 1})
    assert set(shown["kinds"]) == set(FAULTS)


@pytest.mark.parametrize(
    "settings",
    [
        {"script": ["no_such_fault"]},
        {"script": [{"kind": "slow", "minutes": 1}]},
        {"latency": 5},
        {"dice": [{"kind": "slow", "probability": 0.6}, {"kind": "half_reply", "probability": 0.6}]},
        [],
    ],
)
def test_faults_that_make_no_sense_are_refused_and_change_nothing(simulator: TwilioSimulator, settings: Any) -> None:
    simulator.set_faults({"seed": 3})
    assert control(simulator, "PUT", "faults", settings).status_code == 400
    assert control(simulator, "GET", "faults").json()["seed"] == 3


def test_the_controls_let_a_contact_write(simulator: TwilioSimulator, receiver: Receiver) -> None:
    content = {
        "account_sid": SID,
        "from": CONTACT,
        "to": OURS,
        "body": "Hello?",
        "media": [{"content_type": "image/png"}, {"content_type": "audio/ogg", "url": "https://media.example/1"}],
        "profile_name": "Zoë",
        "extra": {"OptOutType": "HELP"},
    }
    reply = control(simulator, "POST", "inbound", content).json()
    assert reply == {"message_sid": receiver.fields("MessageSid")[0], "webhook_status": 200}
    form = dict(receiver.posts[0][1])
    assert (form["NumMedia"], form["MediaUrl1"], form["OptOutType"]) == ("2", "https://media.example/1", "HELP")


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "nothing", None, 404),
        ("POST", "inbound", {"account_sid": SID}, 400),
        ("POST", "inbound", {"account_sid": "AC0", "from": CONTACT, "to": OURS}, 400),
        ("POST", "inbound", {"account_sid": SID, "from": CONTACT, "to": OURS, "colour": "red"}, 400),
    ],
)
def test_a_control_that_is_not_understood_says_so(
    simulator: TwilioSimulator, method: str, path: str, content: Any, status: int
) -> None:
    reply = control(simulator, method, path, content)
    assert reply.status_code == status
    assert reply.json()["error"]


def test_a_scripted_fault_can_wait_for_its_recipient(simulator: TwilioSimulator) -> None:
    simulator.set_faults({"script": [{"kind": "too_many_requests", "to": "whatsapp:+12025550177"}]})
    assert create(simulator).status_code == 201
    assert create(simulator, To="whatsapp:+12025550177").status_code == 429
    assert create(simulator, To="whatsapp:+12025550177").status_code == 201


def test_the_dice_fall_as_often_as_told_and_the_same_for_the_same_seed() -> None:
    def throw(seed: int) -> list[str | None]:
        dice = [{"kind": "slow", "probability": 0.1}, {"kind": "half_reply", "probability": 0.3}]
        faults = Faults.from_json({"seed": seed, "dice": dice})
        drawn = [faults.draw("create") for _ in range(2000)]
        assert faults.draw("listing") is None
        return [fault.kind if fault else None for fault in drawn]

    throws = throw(1)
    assert throws == throw(1) != throw(2)
    assert 150 < throws.count("slow") < 250
    assert 500 < throws.count("half_reply") < 700


def test_a_caller_that_hangs_up_is_accepted_all_the_same(simulator: TwilioSimulator) -> None:
    simulator.set_faults({"latency_ms": 200})
    form = {"To": CONTACT, "From": OURS, "Body": "gone"}
    url = f"{simulator.url}/2010-04-01/Accounts/{SID}/Messages.json"
    with pytest.raises(requests.Timeout):
        requests.post(url, data=form, auth=(SID, TOKEN), timeout=0.05)
    assert eventually(lambda: [one["body"] for one in simulator.accepted] == ["gone"])


def test_a_connection_can_be_used_again(simulator: TwilioSimulator) -> None:
    with contextlib.closing(http.client.HTTPConnection(simulator.url.removeprefix("http://"), timeout=5)) as connection:
        connection.connect()
        connection.auto_open = 0  # a second connection would raise NotConnected
        for _ in range(3):
            connection.request("GET", "/simulator/messages")
            assert json.load(connection.getresponse()) == {"messages": []}


def test_it_stops_at_once_with_work_in_flight_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    simulator = TwilioSimulator({SID: TOKEN}, faults={"latency_ms": 60_000})
    simulator.start()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(create, simulator) for _ in range(4)]
        assert eventually(lambda: len(simulator.requests) == 4)
        started = time.monotonic()
        simulator.stop()
        assert time.monotonic() - started < 5
        assert all(isinstance(call.exception(), requests.ConnectionError) for call in calls)
    assert set(threading.enumerate()) <= before


def test_a_port_that_is_taken_is_reported(simulator: TwilioSimulator) -> None:
    port = int(simulator.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        TwilioSimulator({SID: TOKEN}, port=port).start()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_from_the_command_line_until_told_to_stop(tmp_path: pathlib.Path, stop: signal.Signals) -> None:
    faults, answers = tmp_path / "faults.json", tmp_path / "answers.txt"
    faults.write_text('{"script": ["too_many_requests"]}', encoding="utf-8")
    answers.write_text("Yes\nNo\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "delivery.simulator.server",
        "--account",
        f"{SID}:{TOKEN}",
        "--seed",
        "4",
    ]
    command += ["--record", str(tmp_path / "record"), "--faults", str(faults), "--contacts-answer", str(answers)]
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            auth, form = (SID, TOKEN), {"To": CONTACT, "From": OURS, "Body": "Hello"}
            target = f"{url}/2010-04-01/Accounts/{SID}/Messages.json"
            assert [requests.post(target, data=form, auth=auth, timeout=5).status_code for _ in "12"] == [429, 201]
            process.send_signal(stop)
            _, complaints = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, "")
    assert len((tmp_path / "record").read_text(encoding="utf-8").splitlines()) == 1
