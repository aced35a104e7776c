from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentauri.actions import correlation_id, delivery_id
from agentauri.actions.identity import correlation_prefix, parse_id, webhook_id
from agentauri.types import ActionId, DeliveryId, TriggerId

EVENT = "reputation-84532-0x" + "11" * 32 + "-7"


def an_id(*, epoch: int = 0, version: int = 1, kind: str = "match") -> DeliveryId:
    return delivery_id(
        origin=datetime(2026, 1, 1, 0, 0, 0, 123_000, UTC),
        organization_id="org-1",
        event_id=EVENT,
        epoch=epoch,
        trigger_id=TriggerId("t-1"),
        trigger_version=version,
        action_id=ActionId(9),
        kind=kind,
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (an_id(), "019b76da-a87b-8c24-805d-0ca7e29eb060"),
        (an_id(epoch=1), "019b76da-a87b-8c24-8f1d-98d35c9b5e18"),
        (an_id(version=2), "019b76da-a87b-8c24-8ed6-2b61b2b35da4"),
        (an_id(kind="retraction"), "019b76da-a87b-8c24-a6f0-057d217d0e7f"),
    ],
)
def test_a_delivery_id_follows_from_what_is_delivered(found: DeliveryId, expected: str) -> None:
    assert str(found) == expected


def test_match_and_retraction_share_a_correlation_id() -> None:
    assert correlation_id(TriggerId("t-1"), EVENT) == "corr_k7czgvbgr4zthodidd76tcfxbl"


def test_the_receiver_knows_a_delivery_by_its_id() -> None:
    assert webhook_id(an_id()) == "msg_019b76da-a87b-8c24-805d-0ca7e29eb060"
    assert parse_id(str(an_id())) == an_id()


@given(st.text(), st.text())
def test_a_correlation_id_can_be_looked_for_by_its_hash(trigger_id: str, event_id: str) -> None:
    from hashlib import sha256

    made = correlation_id(TriggerId(trigger_id), event_id)

    assert correlation_prefix(made) == sha256(f"{trigger_id}\x1f{event_id}".encode()).hexdigest()[:32]


@pytest.mark.parametrize("text", ["", "corr_", "corr_1", "k7czgvbgr4zthodidd76tcfxbl", "corr_" + "a" * 27])
def test_what_is_no_correlation_id_is_found_nowhere(text: str) -> None:
    assert correlation_prefix(text) is None
