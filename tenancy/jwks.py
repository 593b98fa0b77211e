"""The public keys that verify tokens: one that was configured, or the set that the issuer publishes (JWKS, RFC 7517).

Nothing in a token decides where this module goes: it asks the one configured URL, at most once in COOL_DOWN seconds
whatever arrives and whatever came back, in a thread of its own, and serves the last good set until it is MAX_STALE old.
A key decides its algorithm here, so a token can only agree with it.
"""

import asyncio
import base64
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tenancy import errors, token_text

logger = logging.getLogger(__name__)

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Keys: TypeAlias = Mapping[tuple[str, str], PublicKey]  # by (kid, algorithm): a kid may name one key of each kind

COOL_DOWN = 60.0  # seconds from one fetch to the next, failed ones included
REFRESH_AFTER = 300.0  # seconds after which a set in use is fetched again, in the background
MAX_STALE = 24 * 3600.0  # seconds that the last good set outlives an issuer that cannot be reached
FETCH_TIMEOUT = 2.0  # seconds for everything: name, connection, headers, body
MAX_SET_BYTES = 1_000_000
MAX_KEYS = 1000
# A wait is a little longer than the fetch itself, so that the fetch reports its own failure.
WAIT_TIMEOUT = FETCH_TIMEOUT + 0.5


def algorithm_of(key: PublicKey) -> str:
    """The one JWS algorithm that `key` verifies. Raises ValueError, naming the rule, for a weak key."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise ValueError("must have at least 2048 bits, being an RSA key")
        # More bits, or a huge exponent, would let whoever publishes keys make every verification slow.
        if key.key_size > 8192 or key.public_numbers().e >= 2**32:
            raise ValueError("must have at most 8192 bits and an exponent below 2^32, being an RSA key")
        return "RS256"
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("must be on the curve P-256, being an EC key")
    return "ES256"


def read_pem(pem: str) -> PublicKey:
    """The one public key in `pem`.

    Raises ValueError naming the rule that is broken and never the value; the message reads on from a setting's name.
    """
    if not pem.strip():
        raise ValueError("must not be empty")
    if "PRIVATE KEY" in pem:
        raise ValueError("must be a public key, and contains a private key")
    if pem.count("-----BEGIN ") != 1 or "PUBLIC KEY-----" not in pem:
        raise ValueError("must be exactly one public key in PEM, and no shared secret or certificate")
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii"))
    except Exception:
        raise ValueError("must be readable PEM") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError("must be an RSA or EC P-256 key")
    algorithm_of(key)
    return key


def parse(document: bytes) -> Keys:
    """The usable keys of a JWKS document; all others are skipped. Raises ValueError when there is none.

    A set without one usable key counts as a failed fetch: it is far more often an accident than a revocation.
    """
    found = json.loads(document)
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("not a JWKS document")
    keys: dict[tuple[str, str], PublicKey] = {}
    for entry in entries:
        try:
            kid, key = _read_key(entry)
            keys.setdefault((kid, algorithm_of(key)), key)
        except Exception:
            logger.debug("a key of the JWKS is skipped")
    if not keys:
        raise ValueError("no usable key in the JWKS document")
    return keys


def _read_key(entry: dict[str, Any]) -> tuple[str, PublicKey]:
    kid, key_type = entry["kid"], entry["kty"]
    if not isinstance(kid, str) or not 0 < len(kid) <= token_text.MAX_KID:
        raise ValueError("kid")
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("use")
    # A private key that its issuer published is known to everybody.
    if "d" in entry or "k" in entry:
        raise ValueError("not a public key")
    if key_type == "RSA" and entry.get("alg", "RS256") == "RS256":
        return kid, rsa.RSAPublicNumbers(_number(entry["e"]), _number(entry["n"])).public_key()
    if key_type == "EC" and entry.get("alg", "ES256") == "ES256" and entry["crv"] == "P-256":
        x, y = _number(entry["x"]), _number(entry["y"])
        return kid, ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    raise ValueError("kind")


def _number(text: str) -> int:
    if len(text) > 2048:
        raise ValueError("number")
    return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "big")


def check_url(url: str) -> None:
    """Raises ValueError, naming the rule, for a URL that a key set must not come from."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain credentials")


async def fetch(url: str) -> bytes:
    """The body at `url`. Raises for anything but a complete 200 within FETCH_TIMEOUT and MAX_SET_BYTES."""
    # Proxies and netrc of the environment could send this elsewhere. The body is read raw: unpacked, 1 MB may be 1 GB.
    async with asyncio.timeout(FETCH_TIMEOUT), httpx.AsyncClient(trust_env=False, follow_redirects=False) as client:
        accept = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with client.stream("GET", url, headers=accept) as response:
            if response.status_code != 200:
                raise ValueError(f"the JWKS URL answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_SET_BYTES:
                    raise ValueError("the JWKS document is too large")
            return bytes(body)


class SingleKey:
    """A configured public key. It has no kid of its own, so it serves any, as long as the algorithm is the key's."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self._algorithm = algorithm_of(key)

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        return self._key if algorithm == self._algorithm else None


class KeySet:
    """The issuer's published keys, refreshed by use.

    A request whose key is known never waits. One with an unknown kid waits for the refresh that is under way, or starts
    one if the cool-down allows it, and is otherwise answered at once.
    """

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        check_url(url)
        self._url = url
        # Not the wall clock: a host whose clock jumps must neither drop good keys nor hammer the issuer.
        self._monotonic = monotonic
        self._fetched: tuple[Keys, float] = ({}, -math.inf)  # one value, so that no reader sees half of a refresh
        self._tried_at = -math.inf
        self._refresh: Future[None] | None = None
        self._lock = threading.Lock()

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key, or None if the issuer has no such key. Raises KeysUnavailable when there is no set to look in."""
        if kid is None:
            return None
        keys, age = self._current()
        key = keys.get((kid, algorithm))
        if key is not None:
            if age >= REFRESH_AFTER:
                self._start_refresh()
            return key
        refresh = self._start_refresh()
        if refresh is not None:
            # asyncio.wait cancels nothing: others wait for the same refresh.
            await asyncio.wait([asyncio.wrap_future(refresh)], timeout=WAIT_TIMEOUT)
        keys, _ = self._current()
        if not keys:
            raise errors.KeysUnavailable()
        return keys.get((kid, algorithm))

    def _current(self) -> tuple[Keys, float]:
        """The set that may be served now, and its age in seconds."""
        keys, fetched_at = self._fetched
        age = self._monotonic() - fetched_at
        return (keys if age <= MAX_STALE else {}), age

    def _start_refresh(self) -> Future[None] | None:
        """The refresh to wait for: the one under way, a new one, or None while the cool-down lasts."""
        with self._lock:
            if self._refresh is not None and not self._refresh.done():
                return self._refresh
            if self._monotonic() - self._tried_at < COOL_DOWN:
                return None
            self._tried_at = self._monotonic()
            self._refresh = Future()
            # A daemon: a resolver that hangs must not keep the process from ending.
            threading.Thread(target=self._run, args=(self._refresh,), name="jwks-refresh", daemon=True).start()
            return self._refresh

    def _run(self, refresh: Future[None]) -> None:
        try:
            self._fetched = (parse(asyncio.run(fetch(self._url))), self._monotonic())
        except Exception as error:
            # The class only: the text of a parser's error may quote what the issuer sent.
            logger.warning("the JWKS could not be refreshed: %s", type(error).__name__)
        finally:
            refresh.set_result(None)
