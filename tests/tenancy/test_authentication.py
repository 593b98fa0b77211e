"""Which tokens say who is asking, and what each rule refuses."""

import ast
import asyncio
import base64
import json
import logging
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from tenancy import authentication, errors

NOW = 1_800_000_000
AGENCY = uuid.UUID("0190f0aa-5d2e-7c11-8a3b-0123456789ab")
OTHER_AGENCY = uuid.UUID("0190f0aa-5d2e-7c11-8a3b-ba9876543210")
GOOD = {
    "iss": "https://issuer.example",
    "aud": "faro",
    "sub": "user_1",
    "agency_id": str(AGENCY),
    "role": "staff",
    "iat": NOW,
    "exp": NOW + 3600,
}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ABSENT = object()


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def sign(claims: object, *, header: dict[str, Any] | None = None, key: Any = RSA_KEY) -> str:
    """A compact JWS made by hand, so that nothing of what is tested takes part in making it."""
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    head = {"alg": algorithm, "typ": "JWT"} | (header or {})
    head = {name: value for name, value in head.items() if value is not ABSENT}
    text = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(claims).encode())}"
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{text}.{encode(signature)}"


def changed(**claims: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | claims).items() if value is not ABSENT}


def pem(key: Any) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(encoding, form).decode("ascii"))


def verifier(key: Any = RSA_KEY, *, now: float = NOW, **settings: Any) -> authentication.TokenVerifier:
    return authentication.TokenVerifier(
        issuer="https://issuer.example", audience="faro", public_key=pem(key), clock=lambda: now, **settings
    )


def verify(token: str, **settings: Any) -> authentication.Claims:
    return asyncio.run(verifier(**settings).verify(token))


# --- what is accepted ---


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["RS256", "ES256"])
def test_a_good_token_says_who_is_asking(key: Any) -> None:
    assert verify(sign(GOOD, key=key), key=key) == authentication.Claims("user_1", AGENCY, "staff")


@pytest.mark.parametrize("role", ["owner", "admin", "manager", "staff", "viewer", "client_viewer"])
def test_each_known_role_is_accepted(role: str) -> None:
    assert verify(sign(changed(role=role))).role == role


@pytest.mark.parametrize(
    ("claims", "header"),
    [
        (changed(aud=["other", "faro"]), {}),
        (changed(exp=NOW + 0.5), {}),
        (changed(nbf=NOW + 30, iat=NOW + 30), {}),
        (changed(iat=ABSENT), {}),
        (changed(agency_id=str(AGENCY).upper()), {}),
        (changed(agency_id=ABSENT, org_id=str(AGENCY)), {}),
        (changed(org_id=str(AGENCY).upper()), {}),
        (changed(org_id="org_2abcDEF"), {}),
        (changed(org_id=None), {}),
        (changed(role=ABSENT, org_role="staff"), {}),
        (changed(sts="active"), {}),
        (changed(azp="https://anything.example"), {}),
        (changed(email="someone@example.com", nested={"a": [1, {"b": None}]}), {}),
        (GOOD, {"typ": ABSENT}),
        (GOOD, {"typ": "at+jwt"}),
        (GOOD, {"kid": "a configured key has no name, so any will do"}),
    ],
)
def test_what_issuers_really_send_is_accepted(claims: dict[str, Any], header: dict[str, Any]) -> None:
    assert verify(sign(claims, header=header)) == authentication.Claims("user_1", AGENCY, "staff")


@pytest.mark.parametrize("subject", ["ü" * 255, "auth0|5f7c8ec7c33c6c004bbafe82", "first last"])
def test_a_subject_of_255_printable_characters_is_accepted(subject: str) -> None:
    assert verify(sign(changed(sub=subject))).user_id == subject


def test_a_token_we_sign_verifies_and_ends_after_its_lifetime() -> None:
    private, public = authentication.generate_key_pair()
    token = authentication.sign_token(
        private,
        issuer="i",
        audience="a",
        user_id="user_1",
        agency_id=AGENCY,
        role="viewer",
        lifetime=timedelta(minutes=5),
    )
    ours = authentication.TokenVerifier(issuer="i", audience="a", public_key=public)
    assert asyncio.run(ours.verify(token)) == authentication.Claims("user_1", AGENCY, "viewer")
    payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert payload["exp"] - payload["iat"] == 300


def test_a_token_we_sign_with_an_ec_key_verifies() -> None:
    private = EC_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    token = authentication.sign_token(
        private, issuer="i", audience="a", user_id="u", agency_id=AGENCY, role="owner", lifetime=timedelta(hours=1)
    )
    ours = authentication.TokenVerifier(issuer="i", audience="a", public_key=pem(EC_KEY))
    assert asyncio.run(ours.verify(token)).role == "owner"


# --- what is refused ---


@pytest.mark.parametrize(
    "exp", [ABSENT, None, [], {}, "soon", str(NOW + 3600), True, False, NOW, NOW - 1, -1, 0, float("nan")]
)
def test_exp_must_be_a_time_to_come(exp: Any) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(changed(exp=exp)))


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "Infinity", "9" * 21, "9" * 4301])
def test_exp_must_be_a_number_of_ordinary_size(literal: str) -> None:
    text = json.dumps(changed(exp="EXP")).replace('"EXP"', literal)
    header = json.dumps({"alg": "RS256"})
    signing_input = f"{encode(header.encode())}.{encode(text.encode())}"
    signature = RSA_KEY.sign(signing_input.encode(), padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(errors.InvalidToken):
        verify(f"{signing_input}.{encode(signature)}")


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize("value", [NOW + 31, NOW + 30.5, None, "0", True, [], {"a": 1}])
def test_nbf_and_iat_must_not_lie_beyond_the_leeway(name: str, value: Any) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(changed(**{name: value})))


def test_a_clock_that_jumps_changes_only_whether_the_token_is_accepted() -> None:
    token, now = sign(changed(exp=NOW + 60)), [float(NOW)]
    ours = authentication.TokenVerifier(
        issuer="https://issuer.example", audience="faro", public_key=pem(RSA_KEY), clock=lambda: now[0]
    )
    asyncio.run(ours.verify(token))
    for jump in (3600, -3600):
        now[0] = NOW + jump
        with pytest.raises(errors.InvalidToken):
            asyncio.run(ours.verify(token))
    now[0] = NOW
    assert asyncio.run(ours.verify(token)).user_id == "user_1"


@pytest.mark.parametrize(
    "claims",
    [
        *[changed(iss=each) for each in (ABSENT, None, "", "https://issuer.example/", ["https://issuer.example"])],
        *[changed(aud=each) for each in (ABSENT, None, "", "far", "farois", [], ["other"], ["faro", 1], [["faro"]])],
        *[changed(aud=each) for each in ({"faro": 1}, "Faro", ["faro", None], True)],
        *[changed(sub=each) for each in (ABSENT, None, "", 7, True, [], {}, "a" * 256, "a\0b", "a\nb", "\x7f")],
        *[changed(sub=each) for each in (" ", " a", "a ", "\ud800", "a\u202eb", "a\u200bb", "a\u2028b", "\x85")],
        *[changed(agency_id=each) for each in (ABSENT, None, "", 7, [str(AGENCY)], AGENCY.hex, f"{{{AGENCY}}}")],
        *[changed(agency_id=each) for each in (f"urn:uuid:{AGENCY}", f"{AGENCY} ", f"{AGENCY}\n", f"{AGENCY}\0")],
        changed(agency_id=str(AGENCY)[:-1] + "\N{FULLWIDTH DIGIT ONE}"),
        changed(agency_id=ABSENT, org_id="org_2abcDEF"),
        changed(agency_id=None, org_id=str(AGENCY)),
        changed(org_id=str(OTHER_AGENCY)),
        changed(org_id=[str(AGENCY)]),
        changed(org_id=7),
        *[changed(role=each) for each in (ABSENT, None, 7, True, ["admin"], {"admin": True})],
        changed(role=None, org_role="admin"),
        changed(role=ABSENT, org_role=["admin"]),
        *[changed(sts=each) for each in ("pending", "Active", None, True, [])],
        *[changed(azp=each) for each in (None, 7, ["https://app.example"])],
    ],
)
def test_a_claim_that_is_not_what_it_must_be_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(claims))


@pytest.mark.parametrize("role", ["", "Admin", "ADMIN", "org:admin", "root", "admin ", "client viewer", "\ud800"])
@pytest.mark.parametrize("claim", ["role", "org_role"])
def test_a_role_we_do_not_know_gives_no_access(role: str, claim: str) -> None:
    with pytest.raises(errors.RoleForbidden):
        verify(sign(changed(**({"role": ABSENT} | {claim: role}))))


def test_an_unknown_role_in_a_token_that_is_not_valid_tells_nothing_more() -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(changed(role="root", exp=NOW)))
    with pytest.raises(errors.InvalidToken):
        verify(sign(changed(role="root"))[:-8])


@pytest.mark.parametrize(
    "payload", [None, True, 1, "text", [], [GOOD], "", {}], ids=lambda payload: json.dumps(payload)[:9]
)
def test_a_payload_must_be_an_object_with_claims(payload: object) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(payload))


def test_a_party_must_be_a_known_origin_where_origins_are_configured() -> None:
    known = {"authorized_parties": ["https://app.example", "https://admin.example"]}
    assert verify(sign(changed(azp="https://admin.example")), **known).user_id == "user_1"
    assert verify(sign(GOOD), **known).user_id == "user_1", "tokens that no browser asked for have no azp"
    for party in ("https://evil.example", "https://app.example.evil.example", "", "https://APP.example"):
        with pytest.raises(errors.InvalidToken):
            verify(sign(changed(azp=party)), **known)


@pytest.mark.parametrize(
    "header",
    [
        *[{"alg": each} for each in (ABSENT, None, "none", "RS384", "PS256", "HS256", "rs256", "ES256", ["RS256"], {})],
        *[{"kid": each} for each in (None, 7, "", "k" * 257, ["a"], {"a": 1})],
        *[{"typ": each} for each in (None, 7, "", "logout+jwt", "dpop+jwt", ["JWT"])],
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/cert"},
        {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        {"x5c": ["MIIB"]},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"cty": "JWT"},
    ],
)
def test_a_header_that_asks_for_more_than_a_plain_signature_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(GOOD, header=header))


def test_a_key_verifies_its_own_algorithm_only() -> None:
    with pytest.raises(errors.InvalidToken):
        verify(sign(GOOD, key=EC_KEY), key=RSA_KEY)
    with pytest.raises(errors.InvalidToken):
        verify(sign(GOOD, key=RSA_KEY), key=EC_KEY)


def token_of_length(length: int) -> str:
    signature = 342  # of a key of 2048 bits
    for extra in ("", "x", "xx"):  # no base64 text has 4n + 1 characters, so the payload moves the header's length
        claims = changed(extra=extra)
        payload = len(encode(json.dumps(claims).encode()))
        for size in range(5000, 6200):
            header = {"alg": "RS256", "pad": "x" * size}
            if len(encode(json.dumps(header).encode())) + payload + signature + 2 == length:
                return sign(claims, header=header | {"typ": ABSENT})
    raise AssertionError(length)


def test_a_token_of_8192_characters_is_read_and_one_more_is_not() -> None:
    longest, too_long = token_of_length(8192), token_of_length(8193)
    assert (len(longest), len(too_long)) == (8192, 8193)
    assert verify(longest).user_id == "user_1"
    with pytest.raises(errors.InvalidToken):
        verify(too_long)


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["list"]])
def test_a_token_that_is_not_text_is_refused(value: Any) -> None:
    with pytest.raises(errors.InvalidToken):
        verify(value)


def test_a_refusal_is_logged_with_its_reason_and_never_with_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = sign(changed(sub="canary-user", exp=NOW - 1))
    with pytest.raises(errors.InvalidToken) as refusal:
        verify(token)
    assert "exp has passed" in caplog.text
    for part in (*token.split("."), "canary-user"):
        assert part not in caplog.text
    assert refusal.value.__cause__ is None
    assert str(refusal.value) == "A valid bearer token is needed."


def test_the_library_is_given_a_key_and_a_list_of_one_algorithm() -> None:
    """It would look for a substring in a string, and believe any token when given nothing."""
    source = Path(authentication.__file__).read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func).startswith(("jws.", "jwt.", "jwk.get"))]
    assert {ast.unparse(call.func) for call in named} == {"jws.verify", "jws.sign"}
    verifying = [call for call in named if ast.unparse(call.func) == "jws.verify"]
    assert [len(call.args) for call in verifying] == [3]
    for call in verifying:
        assert isinstance(call.args[2], ast.List)
        assert len(call.args[2].elts) == 1


def test_encrypted_tokens_have_no_code_in_the_service() -> None:
    # The library's JWE part is where its compression bombs were; nothing may pull it in.
    modules = "tenancy.authentication, conversations_api.serving, conversations_api.working, handlers.messages"
    program = f"import sys, {modules}; sys.exit('jose.jwe' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
