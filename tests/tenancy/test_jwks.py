"""Published keys: which are used, how seldom they are fetched, and what the service does without their issuer."""

import asyncio
import base64
import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tenancy import errors, jwks

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
WEAK_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - the point
EC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
P384_KEY = ec.generate_private_key(ec.SECP384R1()).public_key()


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def entry(kid: object, key: Any = RSA_KEY, **more: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kid": kid, "kty": "RSA", "use": "sig", "n": number(numbers.n), "e": number(numbers.e)} | more
    point, curve = key.public_numbers(), {256: "P-256", 384: "P-384"}[key.curve.key_size]
    return {"kid": kid, "kty": "EC", "use": "sig", "crv": curve, "x": number(point.x), "y": number(point.y)} | more


def document(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


class Issuer:
    """A real server on this machine; `answer` writes what the next request gets."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = self.reply(document(entry("one")))
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.paths.append(self.path)
                issuer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gives up is part of the test

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    @staticmethod
    def reply(body: bytes, status: int = 200, **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
        def write(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        return write


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> jwks.KeySet:
    return jwks.KeySet(issuer.url, monotonic=clock)


def find(keys: jwks.KeySet, kid: str | None, algorithm: str = "RS256") -> jwks.PublicKey | None:
    return asyncio.run(keys.find(kid, algorithm))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.01)


# --- which key ---


def test_a_key_is_chosen_by_kid_and_kind_among_keys_of_every_other_kind() -> None:
    found = jwks.parse(
        document(
            {"kid": "one", "kty": "oct", "k": "c2VjcmV0"},
            {"kid": "one", "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kid": "one", "kty": "new", "use": "sig"},
            entry("one", P384_KEY),
            entry("one", WEAK_RSA_KEY),
            entry("one", OTHER_RSA_KEY, use="enc"),
            entry("one", OTHER_RSA_KEY, alg="RS512"),
            entry("one", OTHER_RSA_KEY, alg="HS256"),
            entry("one", OTHER_RSA_KEY, key_ops=["encrypt"]),
            entry("one", OTHER_RSA_KEY, d="AQAB"),
            entry("one", OTHER_RSA_KEY, n="!!!!" + number(OTHER_RSA_KEY.public_numbers().n)),
            entry("one", OTHER_RSA_KEY, n=7),
            entry("one", OTHER_RSA_KEY, e="AA"),
            entry("one", OTHER_RSA_KEY, e=number(2**32 + 1)),
            entry("one", EC_KEY, x=number(5)),
            entry("one", OTHER_RSA_KEY, kty=["RSA"]),
            {"kid": "one", "kty": "RSA"},
            "text",
            None,
            [],
            entry("one"),
            entry("one", EC_KEY),
            entry("one", OTHER_RSA_KEY),  # a kid used twice means the first
            entry("two", OTHER_RSA_KEY, alg="RS256"),
            entry("three", EC_KEY, alg="ES256", key_ops=["verify"]),
        )
    )
    assert found == {
        ("one", "RS256"): RSA_KEY,
        ("one", "ES256"): EC_KEY,
        ("two", "RS256"): OTHER_RSA_KEY,
        ("three", "ES256"): EC_KEY,
    }


@pytest.mark.parametrize("kid", [None, 7, "", "k" * 257, ["one"], {"a": 1}, True])
def test_a_published_key_without_a_proper_kid_is_skipped(kid: object) -> None:
    assert set(jwks.parse(document(entry(kid), entry("proper")))) == {("proper", "RS256")}


def test_a_known_kid_with_another_algorithm_finds_nothing(keys: jwks.KeySet) -> None:
    assert find(keys, "one", "RS256") == RSA_KEY
    assert find(keys, "one", "ES256") is None
    assert find(keys, "one", "HS256") is None


@pytest.mark.parametrize("kid", [None, "", "two", "../../etc/passwd", "' or 1=1 --", "\ud800", "one\0"])
def test_an_unknown_kid_finds_nothing(keys: jwks.KeySet, kid: str | None) -> None:
    assert find(keys, "one") == RSA_KEY
    assert find(keys, kid) is None


# --- how often ---


def test_a_thousand_unknown_kids_cost_one_request_a_minute(keys: jwks.KeySet, issuer: Issuer, clock: Clock) -> None:
    async def flood() -> list[jwks.PublicKey | None]:
        return await asyncio.gather(*(keys.find(f"unknown-{n}", "RS256") for n in range(1000)))

    assert set(asyncio.run(flood())) == {None}
    assert len(issuer.paths) == 1
    clock.now += 59.9
    asyncio.run(flood())
    assert len(issuer.paths) == 1
    clock.now += 0.1
    asyncio.run(flood())
    assert len(issuer.paths) == 2


def test_requests_that_arrive_together_at_a_cold_start_share_one_fetch(keys: jwks.KeySet, issuer: Issuer) -> None:
    async def crowd() -> list[jwks.PublicKey | None]:
        return await asyncio.gather(*(keys.find("one", "RS256") for _ in range(50)))

    assert asyncio.run(crowd()) == [RSA_KEY] * 50
    assert issuer.paths == ["/keys"]


def test_a_request_that_is_cancelled_takes_the_fetch_from_nobody(keys: jwks.KeySet, issuer: Issuer) -> None:
    go = threading.Event()
    good = issuer.answer
    issuer.answer = lambda handler: (go.wait(60), good(handler))[-1]

    async def one_gives_up() -> jwks.PublicKey | None:
        impatient = asyncio.create_task(keys.find("one", "RS256"))
        patient = asyncio.create_task(keys.find("one", "RS256"))
        await asyncio.sleep(0.05)
        impatient.cancel()
        go.set()
        return await patient

    assert asyncio.run(one_gives_up()) == RSA_KEY


def test_a_failed_fetch_is_not_repeated_before_the_minute_is_over(
    keys: jwks.KeySet, issuer: Issuer, clock: Clock
) -> None:
    good, issuer.answer = issuer.answer, issuer.reply(b"", 500)
    for _ in range(20):
        with pytest.raises(errors.KeysUnavailable):
            find(keys, "one")
    assert len(issuer.paths) == 1
    issuer.answer = good
    clock.now += 60
    assert find(keys, "one") == RSA_KEY
    assert len(issuer.paths) == 2


def test_known_keys_are_refreshed_in_the_background_every_five_minutes(
    keys: jwks.KeySet, issuer: Issuer, clock: Clock
) -> None:
    assert find(keys, "one") == RSA_KEY
    clock.now += 299
    assert find(keys, "one") == RSA_KEY
    assert len(issuer.paths) == 1
    issuer.answer = issuer.reply(document(entry("two", OTHER_RSA_KEY)))
    clock.now += 1
    assert find(keys, "one") == RSA_KEY, "the one that triggers the refresh does not wait for it"
    wait_for(lambda: find(keys, "two") == OTHER_RSA_KEY)
    assert find(keys, "one") is None, "a key that its issuer withdrew is gone"
    assert len(issuer.paths) == 2


def test_a_good_request_does_not_wait_for_a_refresh_that_hangs(keys: jwks.KeySet, issuer: Issuer, clock: Clock) -> None:
    assert find(keys, "one") == RSA_KEY
    go = threading.Event()
    issuer.answer = lambda handler: (go.wait(60), None)[-1]
    clock.now += 60

    async def both() -> None:
        unknown = asyncio.create_task(keys.find("two", "RS256"))
        await asyncio.to_thread(wait_for, lambda: len(issuer.paths) == 2)
        for _ in range(1000):
            assert await keys.find("one", "RS256") == RSA_KEY
        assert not unknown.done(), "the refresh was still under way"
        go.set()
        assert await unknown is None

    asyncio.run(both())


# --- rotation and failures ---


def test_a_rotated_key_is_found_by_the_first_request_that_needs_it(
    keys: jwks.KeySet, issuer: Issuer, clock: Clock
) -> None:
    assert find(keys, "one") == RSA_KEY
    issuer.answer = issuer.reply(document(entry("one"), entry("two", OTHER_RSA_KEY)))
    clock.now += 60
    assert find(keys, "two") == OTHER_RSA_KEY
    assert find(keys, "one") == RSA_KEY


BAD_ANSWERS = {
    "server error": Issuer.reply(document(entry("two")), 500),
    "not found": Issuer.reply(document(entry("two")), 404),
    "accepted": Issuer.reply(document(entry("two")), 202),
    "redirect": Issuer.reply(document(entry("two")), 302, Location="/elsewhere"),
    "html": Issuer.reply(b"<html><body>Sign in</body></html>"),
    "empty": Issuer.reply(b""),
    "empty set": Issuer.reply(document()),
    "no key of ours": Issuer.reply(document({"kid": "two", "kty": "oct", "k": "AA"})),
    "keys is not a list": Issuer.reply(json.dumps({"keys": {"two": entry("two")}}).encode()),
    "a list": Issuer.reply(json.dumps([entry("two")]).encode()),
    "deep": Issuer.reply(b"[" * 100_000),
    "long number": Issuer.reply(b'{"keys": ' + b"9" * 5000 + b"}"),
    "not UTF-8": Issuer.reply(b"\xff\xfe\xfd"),
    "two megabytes": Issuer.reply(document(entry("two"), "x" * 2_000_000)),
    "too many keys": Issuer.reply(document(entry("two"), *[None] * 1000)),
    "compressed": Issuer.reply(gzip.compress(document(entry("two"))), Content_Encoding="gzip"),
    "cut short": Issuer.reply(document(entry("two")), Content_Length="9999"),
    "closed": lambda handler: handler.connection.close(),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_without_a_good_answer_the_cached_keys_serve_on_and_a_cold_start_waits(
    keys: jwks.KeySet, issuer: Issuer, clock: Clock, answer: Callable[[http.server.BaseHTTPRequestHandler], None]
) -> None:
    assert find(keys, "one") == RSA_KEY
    issuer.answer = answer
    clock.now += 3600
    assert find(keys, "two") is None
    assert find(keys, "one") == RSA_KEY
    with pytest.raises(errors.KeysUnavailable):
        find(jwks.KeySet(issuer.url), "two")
    assert set(issuer.paths) == {"/keys"}, "no redirect is followed"


def test_cached_keys_outlive_their_issuer_by_a_day(keys: jwks.KeySet, issuer: Issuer, clock: Clock) -> None:
    assert find(keys, "one") == RSA_KEY
    good, issuer.answer = issuer.answer, issuer.reply(b"", 503)
    clock.now += 24 * 3600
    assert find(keys, "one") == RSA_KEY
    wait_for(lambda: len(issuer.paths) == 2)
    clock.now += 1
    with pytest.raises(errors.KeysUnavailable):
        find(keys, "one")
    issuer.answer = good
    clock.now += 60
    assert find(keys, "one") == RSA_KEY


def test_an_issuer_that_cannot_be_reached_is_no_reason_to_refuse_or_accept(clock: Clock) -> None:
    with pytest.raises(errors.KeysUnavailable):
        find(jwks.KeySet("http://127.0.0.1:9/keys", monotonic=clock), "one")


def test_an_issuer_that_dribbles_is_given_up_after_two_seconds(issuer: Issuer) -> None:
    over = threading.Event()

    def dribble(handler: http.server.BaseHTTPRequestHandler) -> None:
        # Every single read succeeds in time; only a limit on the whole fetch ends this.
        prefix = b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if handler.path == "/body" else b"X: ")
        handler.wfile.write(prefix)
        while not over.wait(0.2):
            handler.wfile.write(b"x")

    async def all_at_once() -> list[object]:
        slow = [jwks.KeySet(issuer.url.replace("/keys", path)) for path in ("/headers", "/body")]
        return await asyncio.gather(*(keys.find("one", "RS256") for keys in slow), return_exceptions=True)

    issuer.answer = dribble
    threads = {thread for thread in threading.enumerate() if thread.name == "jwks-refresh"}
    try:
        assert [type(each) for each in asyncio.run(all_at_once())] == [errors.KeysUnavailable] * 2
        wait_for(lambda: not {t for t in threading.enumerate() if t.name == "jwks-refresh"} - threads)
    finally:
        over.set()


def test_proxies_of_the_environment_are_not_asked(
    keys: jwks.KeySet, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert find(keys, "one") == RSA_KEY
    assert issuer.paths == ["/keys"], "a proxy would have been asked for the whole address"


@pytest.mark.parametrize(
    "url",
    [
        *["", "keys", "/keys", "//issuer.example/keys", "http:///keys", "data:application/json,{}"],
        *["file:///etc/passwd", "ftp://issuer.example/keys"],
        *["https://user:secret@issuer.example/keys", "https://user@issuer.example/keys"],
    ],
)
def test_only_plain_http_addresses_are_ever_asked(url: str) -> None:
    with pytest.raises(ValueError, match="must") as refusal:
        jwks.KeySet(url)
    assert "secret" not in str(refusal.value)
