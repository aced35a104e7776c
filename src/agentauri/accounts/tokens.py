"""Access tokens: short-lived JWTs that name a user and her login session.

The algorithm is pinned; what a token's header asks for counts for nothing. A token says who somebody was when it was
signed: whether she still is, `Sessions.recognise` asks the database.
"""

from __future__ import annotations

import hashlib
import time
from uuid import uuid4

from jose import jwt
from jose.exceptions import JOSEError
from msgspec import Struct

from agentauri.accounts.errors import InvalidToken
from agentauri.types import Secret, UserId

LIFETIME = 3600
LEEWAY = 30
ALGORITHM = "HS256"
ISSUER, AUDIENCE = "agentauri", "agentauri-api"
LONGEST = 4096
REMEMBERED = 10_000
OPTIONS = {"leeway": LEEWAY} | {f"require_{name}": True for name in ("iss", "aud", "iat", "exp", "sub", "jti")}


class Claims(Struct, frozen=True, kw_only=True):
    """What a token says: a user, her session, and the version of her tokens when it was signed."""

    user_id: UserId
    username: str
    session_id: str
    version: int


class AccessTokens:
    """Signs with `secret`; believes what was signed with it or with `previous`.

    A token that was read is known again by its digest: the same bytes say the same under the same secrets, and of their
    claims only the end depends on the time.
    """

    def __init__(self, secret: Secret, previous: Secret | None = None) -> None:
        self._secret = secret.reveal()
        self._read: dict[bytes, tuple[float, Claims]] = {}
        self._keys = {_key_id(one.reveal()): one.reveal() for one in (secret, previous) if one is not None}

    def issue(self, claims: Claims) -> Secret:
        now = int(time.time())
        return Secret(
            jwt.encode(
                {
                    "iss": ISSUER, "aud": AUDIENCE, "sub": claims.user_id, "username": claims.username, "iat": now,
                    "exp": now + LIFETIME, "jti": str(uuid4()), "sid": claims.session_id, "ver": claims.version,
                },
                self._secret,
                algorithm=ALGORITHM,
                headers={"kid": _key_id(self._secret)},
            )
        )  # fmt: skip

    def read(self, token: str) -> Claims:
        """
        Raises:
            InvalidToken: not signed by us, expired, or without all that ours say.
        """
        if len(token) > LONGEST:
            raise InvalidToken
        digest = hashlib.sha256(token.encode()).digest()
        until, claims = self._read.get(digest, (0.0, None))
        if claims is not None and time.time() < until:
            return claims
        until, claims = self._verify(token)
        if len(self._read) >= REMEMBERED:
            self._read.clear()
        self._read[digest] = until, claims
        return claims

    def _verify(self, token: str) -> tuple[float, Claims]:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            said = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options=OPTIONS,
            )
        except (JOSEError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidToken from error
        version = said.get("ver")
        texts = [said.get(name) for name in ("sub", "username", "sid")]
        if not all(isinstance(text, str) for text in texts) or type(version) is not int:
            raise InvalidToken
        user_id, username, session_id = texts
        claims = Claims(user_id=UserId(user_id), username=username, session_id=session_id, version=version)
        return int(said["exp"]) + LEEWAY, claims


def _key_id(secret: str) -> str:
    """Tells secrets apart, and nothing of them."""
    return hashlib.sha256(b"agentauri jwt key id\0" + secret.encode()).hexdigest()[:16]
