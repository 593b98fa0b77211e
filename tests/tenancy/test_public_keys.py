"""Which configured keys the service starts with, and which rule the others break."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from tenancy import authentication

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(encoding, form).decode("ascii"))


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "must not be empty"),
        ("  \n", "must not be empty"),
        ("changeme", "shared secret"),
        ("0123456789abcdef0123456789abcdef", "shared secret"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "readable PEM"),
        (pem(RSA_KEY) * 2, "exactly one"),
        (pem(RSA_KEY).replace("PUBLIC KEY", "CERTIFICATE"), "certificate"),
        (pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "2048 bits"),  # noqa: S505 - the point
        (pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "RSA or EC P-256"),
        (pem(dsa.generate_private_key(1024)), "RSA or EC P-256"),  # noqa: S505 - refused whatever its size
    ],
)
def test_a_weak_or_wrong_public_key_is_refused_by_the_rule_it_breaks(value: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as refusal:
        authentication.check_public_key(value)
    assert not value.strip() or value.strip() not in str(refusal.value)
    with pytest.raises(ValueError, match=rule):
        authentication.TokenVerifier(issuer="i", audience="a", public_key=value)


def test_a_private_key_is_refused_where_a_public_one_belongs_and_not_printed() -> None:
    private, public = authentication.generate_key_pair()
    for value in (private, public + private, private + public):
        with pytest.raises(ValueError, match="private key") as refusal:
            authentication.check_public_key(value)
        assert private[40:80] not in str(refusal.value)


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY])
def test_a_fit_public_key_passes_the_check(key: Any) -> None:
    authentication.check_public_key(pem(key))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"issuer": "", "audience": "a", "public_key": pem(RSA_KEY)}, "issuer"),
        ({"issuer": "i", "audience": "", "public_key": pem(RSA_KEY)}, "audience"),
        ({"issuer": "i", "audience": "a"}, "either"),
        ({"issuer": "i", "audience": "a", "public_key": pem(RSA_KEY), "jwks_url": "https://i.example/"}, "not both"),
        ({"issuer": "i", "audience": "a", "jwks_url": "file:///etc/passwd"}, "http"),
    ],
)
def test_a_verifier_that_would_check_too_little_cannot_be_made(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        authentication.TokenVerifier(**settings)
