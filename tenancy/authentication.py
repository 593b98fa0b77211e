"""From a bearer token to who is asking: the only module that knows python-jose.

The library checks one thing for us, the signature, with one key and one algorithm that the key itself decides. The rest
is ours, because the library is lenient where a service must not be: to it `exp` and `aud` are optional, a future `iat`
is fine, and a claim of the wrong type is a TypeError. Whatever is wrong with a token is one InvalidToken; only its
reason, never the token, reaches a log.
"""

import logging
import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jws

from tenancy import errors, jwks, token_text
from tenancy.token_text import Refused

logger = logging.getLogger(__name__)

ROLES = frozenset({"owner", "admin", "manager", "staff", "viewer", "client_viewer"})
LEEWAY = 30  # seconds that an issuer's clock may run ahead of ours; nothing is added to `exp`

KEPT_TOKENS = 1000  # of one process; a token is sent with every request for as long as it lives

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Claims:
    """What a verified token says: the user, and the agency with the role the user holds there."""

    user_id: str
    agency_id: uuid.UUID
    role: str


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token whose signature was good under `key`, and what it says."""

    algorithm: str
    kid: str | None
    key: object
    payload: dict[str, Any]
    claims: Claims


class TokenVerifier:
    """Verifies tokens of one issuer for one audience, with a configured public key or the issuer's JWKS."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        public_key: str | None = None,
        jwks_url: str | None = None,
        authorized_parties: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`authorized_parties`: the origins that an `azp` claim may name; when empty, `azp` is not looked at.

        Raises ValueError, naming the rule, for what would verify too little.
        """
        if not issuer or not audience:
            raise ValueError("an issuer and an audience are required to verify tokens")
        if (public_key is None) == (jwks_url is None):
            raise ValueError("either a public key or a JWKS URL is required to verify tokens, and not both")
        self._issuer = issuer
        self._audience = audience
        self._authorized_parties = frozenset(authorized_parties)
        self._clock = clock
        self._keys: jwks.SingleKey | jwks.KeySet
        if jwks_url is not None:
            self._keys = jwks.KeySet(jwks_url)
        else:
            self._keys = jwks.SingleKey(jwks.read_pem(public_key or ""))
        self._kept: OrderedDict[str, _Verified] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """Raises InvalidToken, RoleForbidden (a good token with a role we do not know), or KeysUnavailable."""
        try:
            verified = await self._find_kept(token) or await self._verify(token)
        except (errors.RoleForbidden, errors.KeysUnavailable):
            raise
        except Exception as error:
            logger.info("token refused: %s", error if isinstance(error, Refused) else type(error).__name__)
            raise errors.InvalidToken() from None
        return verified.claims

    async def _find_kept(self, token: str) -> _Verified | None:
        """A token that was good before, if its key is still the issuer's. Raises Refused when its time is over."""
        kept = self._kept.get(token)
        if kept is None or await self._keys.find(kept.kid, kept.algorithm) is not kept.key:
            return None
        self._check_times(kept.payload)
        return kept

    async def _verify(self, token: str) -> _Verified:
        algorithm, kid = token_text.read_header(token)
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise Refused("no such key")
        # A list of exactly one algorithm, and that one the key's: the library would also take a string (in which
        # it looks for a substring) or nothing at all (in which case it believes the token). Given a finished key it
        # parses no PEM.
        signed = jws.verify(token, jwk.construct(key, algorithm), [algorithm])  # type: ignore[arg-type]
        payload = token_text.read_object(signed)
        verified = _Verified(algorithm, kid, key, payload, self._check(payload))
        self._kept[token] = verified
        if len(self._kept) > KEPT_TOKENS:
            self._kept.popitem(last=False)
        return verified

    def _check(self, claims: dict[str, Any]) -> Claims:
        self._check_times(claims)
        if claims.get("iss") != self._issuer:
            raise Refused("iss is not our issuer")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(each, str) for each in audiences) or self._audience not in audiences:
            raise Refused("aud does not name us")
        party = claims.get("azp", "")
        if not isinstance(party, str):
            raise Refused("azp is not a string")
        if "azp" in claims and self._authorized_parties and party not in self._authorized_parties:
            raise Refused("azp is not a known origin")
        # Clerk signs a user in before the account is complete, and says so.
        if claims.get("sts", "active") != "active":
            raise Refused("sts is not active")
        return Claims(user_id=_user_id(claims), agency_id=_agency_id(claims), role=_role(claims))

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        if "exp" not in claims:
            raise Refused("exp is missing")
        if _time(claims, "exp") <= now:
            raise Refused("exp has passed")
        for name in ("nbf", "iat"):
            if name in claims and _time(claims, name) > now + LEEWAY:
                raise Refused(f"{name} is in the future")


async def bearer_claims(token: str, services: Any) -> Claims:
    """The contract's `x-bearerInfoFunc`: whose token this is. Raises what TokenVerifier.verify raises.

    `services` is what the lifespan of the application yielded. That there is only one credential, the edge has seen to.
    """
    claims: Claims = await services.token_verifier.verify(token)
    return claims


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    # bool is an int to Python, and 1e400 an infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"{name} is not a time")
    return float(value)


def _user_id(claims: dict[str, Any]) -> str:
    subject = claims.get("sub")
    # "Printable" leaves out control characters, NUL and lone surrogates (PostgreSQL stores neither), and what
    # reorders or hides text in a log.
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise Refused("sub is not a user id")
    if subject != subject.strip():
        raise Refused("sub begins or ends with a space")
    return subject


def _agency_id(claims: dict[str, Any]) -> uuid.UUID:
    """`agency_id`, or `org_id` where an issuer puts it there; an `org_id` that is no UUID means something else."""
    agency, organisation = claims.get("agency_id"), claims.get("org_id")
    if not isinstance(organisation, str | None):
        raise Refused("org_id is not a string")
    alias = _uuid(organisation)
    if "agency_id" not in claims:
        if alias is None:
            raise Refused("agency_id is missing")
        return alias
    agency_id = _uuid(agency)
    if agency_id is None:
        raise Refused("agency_id is not a UUID")
    if alias is not None and alias != agency_id:
        raise Refused("agency_id and org_id disagree")
    return agency_id


def _uuid(value: object) -> uuid.UUID | None:
    return uuid.UUID(value) if isinstance(value, str) and _UUID.fullmatch(value) else None


def _role(claims: dict[str, Any]) -> str:
    """`role`, or `org_role` where there is none.

    No role at all is a malformed token (401); one that we do not know belongs to somebody, with no rights here (403).
    """
    role = claims["role"] if "role" in claims else claims.get("org_role")
    if not isinstance(role, str):
        raise Refused("role is missing or not a string")
    if role not in ROLES:
        raise errors.RoleForbidden()
    return role


def check_public_key(pem: str) -> None:
    """Raises ValueError, naming the rule and never the value, unless `pem` is one public key fit to verify tokens."""
    jwks.read_pem(pem)


def sign_token(
    private_key_pem: str,
    *,
    issuer: str,
    audience: str,
    user_id: str,
    agency_id: uuid.UUID,
    role: str,
    lifetime: timedelta,
    kid: str | None = None,
) -> str:
    """A token as an issuer would sign it, for the demo and the tests: RS256 for an RSA key, ES256 for an EC one."""
    key = serialization.load_pem_private_key(private_key_pem.encode("ascii"), password=None)
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "sub": user_id, "agency_id": str(agency_id), "role": role}
    times = {"iat": now, "exp": now + int(lifetime.total_seconds())}
    signing_key = jwk.construct(key, algorithm)  # type: ignore[arg-type]
    return jws.sign(claims | times, signing_key, headers={"kid": kid} if kid else None, algorithm=algorithm)


def generate_key_pair() -> tuple[str, str]:
    """(private, public) RSA key as PEM, for the demo and the tests."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode("ascii"), public.decode("ascii")
