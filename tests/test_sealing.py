"""Secrets at rest open with any listed key, for their own purpose, or not at all."""

import pytest

from agentauri.sealing import Sealer, Unreadable

OLD, NEW = b"o" * 32, b"n" * 32


def test_the_first_key_seals_and_every_listed_key_opens() -> None:
    sealed = Sealer((OLD,)).seal(b"token", "action")

    assert Sealer((NEW, OLD)).open(sealed, "action") == b"token"
    assert b"token" not in sealed


@pytest.mark.parametrize("purpose", ["signing", ""])
def test_a_sealed_value_does_not_open_for_another_purpose(purpose: str) -> None:
    with pytest.raises(Unreadable):
        Sealer((OLD,)).open(Sealer((OLD,)).seal(b"token", "action"), purpose)


def test_a_lost_key_or_a_changed_value_is_told() -> None:
    sealed = Sealer((OLD,)).seal(b"token", "action")

    with pytest.raises(Unreadable, match="ENCRYPTION_KEY"):
        Sealer((NEW,)).open(sealed, "action")
    with pytest.raises(Unreadable, match="changed"):
        Sealer((OLD,)).open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "action")
