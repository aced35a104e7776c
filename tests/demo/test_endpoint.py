"""The demo's own check of Standard Webhooks signatures, against published values and a stock library."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import pytest
from standardwebhooks.webhooks import Webhook

from agentauri.demo.endpoint import BadSignature, Endpoint, verify

SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
BODY = b'{"type":"event.matched"}'
SENT = 1767225600
HEADERS = {
    "webhook-id": "msg_1",
    "webhook-timestamp": str(SENT),
    "webhook-signature": "v1,l+VKmMxnaQ3ENlr0iil27KskLklCaXs0ndL5Whu/9tc=",
}


def test_a_right_signature_is_accepted_also_among_others() -> None:
    both = {**HEADERS, "webhook-signature": f"v1a,bm8= v1,bm8= {HEADERS['webhook-signature']}"}

    assert verify(SECRET, HEADERS, BODY, SENT) == verify(SECRET, both, BODY, SENT + 299) == "msg_1"


def test_what_a_stock_library_signs_is_accepted() -> None:
    signature = Webhook(SECRET).sign("msg_2", datetime.fromtimestamp(SENT, UTC), '{"ä":1}')
    headers = {"webhook-id": "msg_2", "webhook-timestamp": str(SENT), "webhook-signature": signature}

    assert verify(SECRET, headers, '{"ä":1}'.encode(), SENT) == "msg_2"


@pytest.mark.parametrize(
    ("headers", "body", "now"),
    [
        ({**HEADERS, "webhook-id": "msg_2"}, BODY, SENT),
        ({**HEADERS, "webhook-timestamp": str(SENT + 1)}, BODY, SENT),
        ({**HEADERS, "webhook-signature": "v1,AAAA"}, BODY, SENT),
        ({**HEADERS, "webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v2,")}, BODY, SENT),
        (HEADERS, BODY + b" ", SENT),
        (HEADERS, BODY, SENT + 301),
        (HEADERS, BODY, SENT - 301),
        ({**HEADERS, "webhook-timestamp": "now"}, BODY, SENT),
        ({}, BODY, SENT),
    ],
    ids=["id", "time", "signature", "version", "body", "old", "future", "no-number", "no-headers"],
)
def test_anything_else_is_refused(headers: dict[str, str], body: bytes, now: float) -> None:
    with pytest.raises(BadSignature):
        verify(SECRET, headers, body, now)


async def test_the_endpoint_answers_401_to_what_it_cannot_verify_and_keeps_it_out() -> None:
    async with Endpoint.open() as endpoint, aiohttp.ClientSession() as session:
        endpoint.secret = SECRET
        async with session.post(endpoint.url, data=BODY, headers=HEADERS) as response:  # signed, but years ago
            assert response.status == 401

        assert endpoint.messages.empty()
        assert len(endpoint.refused) == 1


async def test_a_repeated_message_is_told_apart() -> None:
    now = datetime.now(UTC)
    signed = {
        "webhook-id": "msg_3",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg_3", now, BODY.decode()),
    }
    async with Endpoint.open() as endpoint, aiohttp.ClientSession() as session:
        endpoint.secret = SECRET
        for _ in range(2):
            async with session.post(endpoint.url, data=BODY, headers=signed) as response:
                assert response.status == 204

        assert [endpoint.messages.get_nowait().repeat for _ in range(2)] == [False, True]
