"""Thousands of tokens made to be believed by mistake: none is, and each is refused in the same way.

Whoever attacks does not hold the private key. The tokens signed with it here stand for an issuer that was talked into
signing nonsense, which must be refused just as calmly.
"""

import asyncio
import base64
import http.server
import itertools
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from tenancy import authentication, errors
from tests.agencies import Urls
from tests.serving import served

AGENCY, VICTIM = str(uuid.uuid4()), str(uuid.uuid4())
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
STRANGERS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
NOW = int(time.time())
CLAIMS = {
    "iss": "https://issuer.example",
    "aud": "faro",
    "sub": "user_1",
    "agency_id": AGENCY,
    "role": "staff",
    "iat": NOW,
    "exp": NOW + 86_400,  # longer than any run
}
ODD_VALUES: list[Any] = [
    *[
        None,
        True,
        False,
        [],
        {},
        [[]],
        [None],
        {"": None},
        "",
        " ",
        "\0",
        "\n",
        "\ud800",
        "\u202e",
        "\ufeff",
        "A" * 600,
    ],
    *["null", "true", "0", "-1", "1e400", "NaN", "[]", "{}", "*", "%", "' or 1=1 --", "../../etc/passwd", "${jndi:x}"],
    *[
        ["faro", 1],
        ["https://issuer.example"],
        ["staff"],
        [AGENCY],
        {"$eq": AGENCY},
        {"role": "admin"},
        "faro ",
        "FARO",
    ],
    *[f"{{{AGENCY}}}", AGENCY.replace("-", ""), f"urn:uuid:{AGENCY}", f"{AGENCY}\0", f"{AGENCY},{VICTIM}"],
    *[
        "https://issuer.example/",
        "https://issuer.example.evil.example",
        "http://issuer.example",
        "HTTPS://ISSUER.EXAMPLE",
    ],
]
NUMBERS = ["0", "-0", "-1", "1e400", "-1e400", "1E999", "NaN", "Infinity", "-Infinity", "9" * 21, "9" * 309, "9" * 4301]
NUMBERS += ["0.0", "1e-400", str(NOW - 1), str(NOW - 3600), f"{NOW - 3600}.999", f'"{NOW + 3600}"', f"[{NOW + 3600}]"]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def signature(text: str, key: Any) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return bytes(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))
    r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def signed(header: str | bytes, payload: str | bytes, key: Any) -> str:
    raw = [part.encode() if isinstance(part, str) else part for part in (header, payload)]
    text = f"{encode(raw[0])}.{encode(raw[1])}"
    return f"{text}.{encode(signature(text, key))}"


def good(algorithm: str, **claims: Any) -> str:
    return signed(dump({"alg": algorithm, "kid": "one", "typ": "JWT"}), dump(CLAIMS | claims), KEYS[algorithm])


def confused_algorithms(algorithm: str) -> Iterator[str]:
    """The public key, in every form it is published in, as the secret of an HMAC; other people's keys; no key."""
    public = KEYS[algorithm].public_key()
    encodings = serialization.Encoding
    spki, secrets = serialization.PublicFormat.SubjectPublicKeyInfo, [b"", b"secret", b"None", b"null", b"\0" * 32]
    pem, der = public.public_bytes(encodings.PEM, spki), public.public_bytes(encodings.DER, spki)
    secrets += [pem, pem.strip(), pem.replace(b"\n", b"\r\n"), pem.replace(b"\n", b""), der, base64.b64encode(der)]
    secrets += [b"".join(pem.splitlines()[1:-1]), der.hex().encode(), hash_of(der), hash_of(pem)]
    secrets.append(public.public_bytes(encodings.OpenSSH, serialization.PublicFormat.OpenSSH))
    if algorithm == "RS256":
        pkcs1 = serialization.PublicFormat.PKCS1
        secrets += [public.public_bytes(encodings.PEM, pkcs1), public.public_bytes(encodings.DER, pkcs1)]
    else:
        point = serialization.PublicFormat.UncompressedPoint
        secrets.append(public.public_bytes(encodings.X962, point))
    published = published_key(algorithm, "one")
    secrets += [dump(published).encode(), json.dumps(published).encode(), dump({"keys": [published]}).encode()]
    secrets += [str(value).encode() for value in published.values()]
    for name, secret, kid in itertools.product(("HS256", "HS384", "HS512", algorithm), secrets, ("one", "two", None)):
        digest = {"HS384": hashes.SHA384(), "HS512": hashes.SHA512()}.get(name, hashes.SHA256())
        text = f"{encode(dump({'alg': name, 'kid': kid, 'typ': 'JWT'}).encode())}.{encode(dump(CLAIMS).encode())}"
        tag = hmac.HMAC(secret, digest)
        tag.update(text.encode())
        yield f"{text}.{encode(tag.finalize())}"
    for name, key in itertools.product(
        (
            "RS256",
            "RS384",
            "RS512",
            "PS256",
            "ES256",
            "ES256K",
            "ES384",
            "EdDSA",
            "dir",
            "A256KW",
            "RS25",
            "S256",
            "RS256 ",
        ),
        [*STRANGERS.values(), *KEYS.values()],
    ):
        if KEYS.get(name) is not key:
            yield signed(dump({"alg": name, "kid": "one"}), dump(CLAIMS), key)
    for letters in itertools.product(*zip("none", "NONE", strict=True)):
        text = f"{encode(dump({'alg': ''.join(letters), 'kid': 'one'}).encode())}.{encode(dump(CLAIMS).encode())}"
        yield from (text, f"{text}.", f"{text}.{good(algorithm).split('.')[2]}", f"{text}.AA", f"{text}.e30")


def hash_of(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def damaged_signatures(algorithm: str) -> Iterator[str]:
    text, _, encoded = good(algorithm).rpartition(".")
    tag = base64.urlsafe_b64decode(encoded + "==")
    for length in range(len(encoded)):
        yield f"{text}.{encoded[:length]}"
    for bit in range(len(tag) * 8):
        changed = bytearray(tag)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"{text}.{encode(bytes(changed))}"
    # The bits that the last character carries too many: a lenient decoder gives the same signature for each.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    yield from (f"{text}.{encoded[:-1]}{last}" for last in alphabet if last != encoded[-1])
    yield from (f"{text}.{encoded}{junk}" for junk in ("=", "==", "A", "AA", "AAAA", "!", "\n", "\0", "%3D", ".", " "))
    yield from (f"{text}.{encoded[:9]}{junk}{encoded[9:]}" for junk in ("\n", "!", "=", " ", "\r\n", "\u200b", ","))
    for other in (bytes(len(tag)), b"\xff" * len(tag), tag[::-1], tag + tag, b"\0" + tag, tag + b"\0", text.encode()):
        yield f"{text}.{encode(other)}"
    if algorithm == "ES256":
        # "Psychic" signatures: r and s of zero, or of the order of the curve, verify anything in careless code.
        order = (0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551).to_bytes(32, "big")
        yield from (
            f"{text}.{encode(r + s)}" for r, s in itertools.product((bytes(32), order, tag[:32]), (bytes(32), order))
        )
        numbers = (int.from_bytes(tag[:32], "big"), int.from_bytes(tag[32:], "big"))
        yield f"{text}.{encode(utils.encode_dss_signature(*numbers))}"


def exchanged_parts(algorithm: str) -> Iterator[str]:
    """Parts of good tokens put together anew, and what only looks like a token."""
    header, payload, tag = good(algorithm).split(".")
    for change in ({"agency_id": VICTIM}, {"role": "owner"}, {"sub": "admin"}, {"exp": NOW + 10**6}, {"aud": ["faro"]}):
        _, other_payload, other_tag = good(algorithm, **change).split(".")
        yield f"{header}.{other_payload}.{tag}"
        if algorithm == "RS256":
            yield f"{header}.{payload}.{other_tag}"
    parts = (header, payload, tag)
    yield from (".".join(order) for order in itertools.permutations(parts) if order != parts)
    yield from (".".join(parts[:count]) for count in (1, 2))
    yield from (".".join((*parts, *["e30"] * count)) for count in range(1, 8))
    yield from ("." * count for count in range(8))
    whole = ".".join(parts)
    for junk in (
        " ",
        "\n",
        "\0",
        '"',
        "'",
        ",",
        "\ufeff",
        "\xa0",
        "é",
        "\u0430",
        "\ud800",
        "Bearer ",
        "%20",
        "#",
        "/",
        "=",
    ):
        yield from (junk, junk + whole, whole + junk, whole.replace(".", junk), f"{header}.{junk}.{tag}")
        yield from (whole.replace(".", f"{junk}.", 1), whole.replace(".", f".{junk}", 1), f"{junk}.{payload}.{tag}")
    yield from (whole + whole, f"{whole} {whole}", f"{whole},{whole}", whole.upper(), whole.lower(), whole[::-1])
    yield whole.replace(".", "\u3002")
    yield json.dumps({"protected": header, "payload": payload, "signature": tag})
    # Encrypted tokens, among them a small one that would grow to megabytes.
    for management, content in itertools.product(("dir", "RSA-OAEP", "RSA1_5", "A256KW"), ("A256GCM", "A128CBC-HS256")):
        for extra in ({}, {"zip": "DEF"}):
            head = encode(dump({"alg": management, "enc": content, "kid": "one"} | extra).encode())
            yield from (f"{head}..AAAA.{'A' * 4000}.AAAA", f"{head}.{tag}.AAAA.AAAA.AAAA", f"{head}.{payload}.{tag}")


def odd_claims(algorithm: str) -> Iterator[str]:
    """Signed by the issuer, and still not what a claim may be."""
    head, key = dump({"alg": algorithm, "kid": "one"}), KEYS[algorithm]
    for name in ("iss", "aud", "sub", "agency_id", "exp", "nbf", "iat", "sts"):
        for value in ODD_VALUES:
            # A plain word is a user id, whatever it seems to mean.
            if name != "sub" or not isinstance(value, str) or len(value) > 255 or not value.strip().isprintable():
                yield signed(head, dump(CLAIMS | {name: value}), key)
        if name not in ("nbf", "iat", "sts"):
            yield signed(head, dump({each: CLAIMS[each] for each in CLAIMS if each != name}), key)
    for value in ODD_VALUES:
        if not isinstance(value, str):
            yield signed(head, dump(CLAIMS | {"role": value}), key)
            if value is not None:
                yield signed(head, dump(CLAIMS | {"org_id": value}), key)
    yield signed(head, dump(CLAIMS | {"org_id": VICTIM}), key)
    yield signed(head, dump({name: CLAIMS[name] for name in CLAIMS if name != "role"}), key)
    for literal in NUMBERS:
        yield signed(head, dump(CLAIMS | {"exp": "@"}).replace('"@"', literal), key)
    for name, literal in itertools.product(("nbf", "iat", "extra"), ("1e400", "NaN", "9" * 21, "9" * 4301)):
        if (name, literal) != ("extra", "1e400"):
            yield signed(head, dump(CLAIMS | {name: "@"}).replace('"@"', literal), key)


def odd_headers(algorithm: str) -> Iterator[str]:
    key, payload = KEYS[algorithm], dump(CLAIMS)
    for name in ("crit", "b64", "jku", "x5u", "jwk", "x5c", "zip", "enc", "cty", "alg", "typ"):
        for value in [*ODD_VALUES, published_key(algorithm, "one"), "http://127.0.0.1:9/keys", ["exp"], 0, 1]:
            yield signed(dump({"alg": algorithm, "kid": "one"} | {name: value}), payload, key)
    for value in [*ODD_VALUES, "k" * 257, 1, ["one"]]:
        if not isinstance(value, str) or not value or len(value) > 256:
            yield signed(dump({"alg": algorithm, "kid": value}), payload, key)


def odd_json(algorithm: str) -> Iterator[str]:
    """Signed bytes that parsers disagree about, or that exhaust one."""
    head, payload, key = dump({"alg": algorithm, "kid": "one"}), dump(CLAIMS), KEYS[algorithm]
    for whole, is_header in ((head, True), (payload, False)):
        bad: list[str | bytes] = [f"{whole}{each}" for each in (",", "}", " x", "\0", whole, "//", "#", "]")]
        bad += [f"{each}{whole}" for each in ("\ufeff", "[", ",", "\0", "x", ")]}',\n")]
        bad += [whole.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7")][:4]
        bad += [whole.encode() + each for each in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80")]
        bad += [whole[:length] for length in range(len(whole))]
        bad += [f"[{whole}]", f'"{whole}"', "null", "true", "0", '""', "[]", "{}", whole.replace('"', "'")]
        bad += [whole.replace(":", "=", 1), whole.replace("{", "{,", 1), whole.replace("}", ",}")]
        for name in json.loads(whole):
            bad += [whole[:-1] + f',"{name}":{value}}}' for value in ("null", '"x"', dump(json.loads(whole)[name]))]
        for depth in (300, 500, 900, 990, 1000, 1010, 1500, 2500):
            bad += [whole[:-1] + f',"a":{"[" * depth}{"]" * depth}}}', "[" * depth, '{"a":' * (depth // 3)]
            bad += ['{"a":' * (depth // 3) + "1" + "}" * (depth // 3)]
        bad += [whole[:-1] + f',"a":{sign}{"9" * digits}}}' for sign in ("", "-") for digits in (21, 400, 4300, 4301)]
        bad += [
            whole[:-1] + f',"a":{literal}}}' for literal in ("NaN", "Infinity", "-Infinity", "0x1", "01", "+1", ".5")
        ]
        bad += [whole[:-1] + f',"a":"{"x" * length}"}}' for length in (8192, 20_000, 100_000)]
        for each in bad:
            yield signed(each, payload, key) if is_header else signed(head, each, key)


def fuzzed(algorithm: str, count: int) -> Iterator[str]:
    """A good token with a few of its characters changed, added or taken away."""
    dice, token = random.Random(f"faro {algorithm}"), good(algorithm)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \0é\u20ac"
    for _ in range(count):
        text = list(token)
        for _ in range(dice.choice((1, 1, 1, 2, 3, 10))):
            place = dice.randrange(len(text))
            text[place : place + dice.choice((0, 1, 1, 1, 5))] = dice.choices(alphabet, k=dice.choice((0, 1, 1, 1, 3)))
        if "".join(text) != token:
            yield "".join(text)


def unknown_roles(algorithm: str) -> Iterator[str]:
    head, key = dump({"alg": algorithm, "kid": "one"}), KEYS[algorithm]
    for value in [
        *ODD_VALUES,
        "Staff",
        "STAFF",
        "staff ",
        "org:admin",
        "root",
        "superuser",
        "owner,admin",
        "own\u0435r",
    ]:
        if isinstance(value, str):
            yield signed(head, dump(CLAIMS | {"role": value}), key)


def published_key(algorithm: str, kid: str) -> dict[str, str]:
    numbers = KEYS[algorithm].public_key().public_numbers()

    def text(value: int) -> str:
        return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))

    if algorithm == "RS256":
        return {"kid": kid, "kty": "RSA", "use": "sig", "n": text(numbers.n), "e": text(numbers.e)}
    return {"kid": kid, "kty": "EC", "use": "sig", "crv": "P-256", "x": text(numbers.x), "y": text(numbers.y)}


@pytest.fixture(scope="module")
def hostile() -> dict[str, tuple[set[str], set[str]]]:
    """By algorithm: the tokens to be refused as tokens, and those refused for their role."""
    made = {}
    for algorithm in KEYS:
        makers = (confused_algorithms, damaged_signatures, exchanged_parts, odd_claims, odd_headers, odd_json)
        tokens = {token for make in makers for token in make(algorithm)} | set(fuzzed(algorithm, 1000))
        made[algorithm] = (tokens, set(unknown_roles(algorithm)))
    return made


@pytest.fixture
def published() -> Iterator[tuple[str, list[str]]]:
    """The address of a key set with both keys, and the requests that reached it."""
    body = dump({"keys": [published_key(algorithm, "one") for algorithm in KEYS]}).encode()
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/keys", requests
    server.shutdown()
    server.server_close()
    thread.join()


def verifier(**keys: Any) -> authentication.TokenVerifier:
    return authentication.TokenVerifier(issuer="https://issuer.example", audience="faro", **keys)


async def outcomes(ours: authentication.TokenVerifier, tokens: set[str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for token in tokens:
        try:
            await ours.verify(token)
        except Exception as error:
            counted[type(error).__name__] += 1
        else:
            counted["accepted"] += 1
    return counted


def test_five_thousand_hostile_tokens_are_refused_by_a_configured_key(
    hostile: dict[str, tuple[set[str], set[str]]],
) -> None:
    assert sum(len(tokens | roles) for tokens, roles in hostile.values()) >= 5000
    for algorithm, (tokens, roles) in hostile.items():
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = KEYS[algorithm].public_key().public_bytes(serialization.Encoding.PEM, form).decode()
        ours = verifier(public_key=pem)
        assert asyncio.run(ours.verify(good(algorithm))).user_id == "user_1"
        assert asyncio.run(outcomes(ours, tokens)) == {errors.InvalidToken.__name__: len(tokens)}
        assert asyncio.run(outcomes(ours, roles)) == {errors.RoleForbidden.__name__: len(roles)}
        assert asyncio.run(ours.verify(good(algorithm))).user_id == "user_1"


def test_five_thousand_hostile_tokens_are_refused_by_published_keys_and_cost_one_request(
    hostile: dict[str, tuple[set[str], set[str]]], published: tuple[str, list[str]]
) -> None:
    url, requests = published
    ours = verifier(jwks_url=url)
    for algorithm, (tokens, roles) in hostile.items():
        assert asyncio.run(ours.verify(good(algorithm))).user_id == "user_1"
        assert asyncio.run(outcomes(ours, tokens)) == {errors.InvalidToken.__name__: len(tokens)}
        assert asyncio.run(outcomes(ours, roles)) == {errors.RoleForbidden.__name__: len(roles)}
        assert asyncio.run(ours.verify(good(algorithm))).user_id == "user_1"
    assert requests == ["/keys"]


def test_hostile_tokens_are_one_answer_over_http_and_no_address_in_them_is_asked(
    hostile: dict[str, tuple[set[str], set[str]]], published: tuple[str, list[str]], urls: Urls
) -> None:
    """A part of them, as a header carries them: the whole way, from the socket to the answer."""
    url, requests = published
    elsewhere = url.replace("/keys", "/elsewhere")
    pointing = {
        signed(dump({"alg": algorithm, "kid": "two", name: elsewhere}), dump(CLAIMS), STRANGERS[algorithm])
        for algorithm in KEYS
        for name in ("jku", "x5u", "kid", "jwk", "iss")
    }
    # What no header can carry never gets here.
    sendable = sorted(token for tokens, _ in hostile.values() for token in tokens if token.isprintable())
    sendable = [token for token in sendable if token.isascii() and token.strip() == token]
    chosen = [*random.Random(7).sample(sendable, 400), *sorted(pointing)]
    with served(urls, JWT_PUBLIC_KEY="", JWT_JWKS_URL=url, JWT_ISSUER=str(CLAIMS["iss"])) as api:
        agency = api.new_agency()
        api.converse(agency)

        def ask(token: str) -> Any:
            headers = [("Authorization", f"Bearer {token}"), ("X-Request-Id", "same")]
            return api.ask("GET", "/api/v1/conversations", headers=headers)

        good_token = good("RS256", agency_id=str(agency.id))
        assert ask(good_token).json["total"] == 1
        refusals = [ask(token) for token in chosen]
        assert {answer.status for answer in refusals if answer.status != 401} <= {431}  # a token of 20 kB
        assert len({answer.body for answer in refusals if answer.status == 401}) == 1
        assert ask(good_token).status == 200
    assert requests == ["/keys"]
