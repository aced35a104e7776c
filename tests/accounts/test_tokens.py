"""An access token is believed only when we signed it, lately, and it says all that ours say."""

from __future__ import annotations

import time
from datetime import datetime, tzinfo
from typing import Any

import pytest
from jose import jwt

from agentauri.accounts import AccessTokens, Claims, InvalidToken
from agentauri.types import Secret, UserId

SECRET, OTHER = "a secret of at least thirty-two bytes 0123", "another secret of thirty-two bytes 012345"
CLAIMS = Claims(user_id=UserId("u"), username="alice", session_id="s", version=3)
TOKENS = AccessTokens(Secret(SECRET))


def forged(secret: str = SECRET, algorithm: str = "HS256", headers: Any = None, **changes: Any) -> str:
    """A token of ours with these claims changed; None takes one out."""
    token = TOKENS.issue(CLAIMS).reveal()
    claims = jwt.get_unverified_claims(token) | changes
    kid = jwt.get_unverified_header(token)["kid"]
    claims = {name: value for name, value in claims.items() if value is not None}
    return str(jwt.encode(claims, secret, algorithm=algorithm, headers={"kid": kid} if headers is None else headers))


def test_what_was_issued_is_read() -> None:
    assert TOKENS.read(TOKENS.issue(CLAIMS).reveal()) == CLAIMS
    assert TOKENS.read(forged()) == CLAIMS


def test_a_token_of_the_previous_secret_is_read_and_none_is_issued_with_it() -> None:
    old = AccessTokens(Secret(OTHER)).issue(CLAIMS).reveal()
    both = AccessTokens(Secret(SECRET), Secret(OTHER))

    assert both.read(old) == CLAIMS
    assert TOKENS.read(both.issue(CLAIMS).reveal()) == CLAIMS


NOW = int(time.time())


def test_a_token_that_was_read_before_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class InTwoHours(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> InTwoHours:
            return cls.fromtimestamp(NOW + 7200, tz)

    token = TOKENS.issue(CLAIMS).reveal()
    assert [TOKENS.read(token), TOKENS.read(token)] == [CLAIMS, CLAIMS]

    monkeypatch.setattr("jose.jwt.datetime", InTwoHours)
    monkeypatch.setattr(time, "time", lambda: NOW + 7200.0)

    with pytest.raises(InvalidToken):
        TOKENS.read(token)


@pytest.mark.parametrize(
    "token",
    [
        forged(secret=OTHER),
        forged(algorithm="HS384"),
        forged(algorithm="HS512"),
        forged(headers={}),
        forged(headers={"kid": "other"}),
        forged(headers={"kid": ["x"]}),
        forged(headers={"kid": "../../etc/passwd"}),
        forged(iss="somebody"),
        forged(aud="somebody"),
        forged(exp=NOW - 60),
        forged(iat=None),
        forged(exp=None),
        forged(sub=None),
        forged(jti=None),
        forged(sid=None),
        forged(ver=None),
        forged(ver=True),
        forged(ver="3"),
        forged(username=None),
        forged(aud=None),
        forged(iss=None),
        forged().rsplit(".", 1)[0] + ".",
        "eyJhbGciOiJub25lIn0." + forged().split(".")[1] + ".",
        "",
        "a.b.c",
        "é.é.é",
        "x" * 5000,
    ],
    ids=range(27),
)
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.read(token)
