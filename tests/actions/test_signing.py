from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks

from agentauri.actions.signing import key_of, new_secret, signatures

BODY = b'{"type":"event.matched"}'
SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
PREVIOUS = "whsec_cHJldmlvdXMtc2VjcmV0LXByZXZpb3VzLXNlY3JldCE="
SIGNED = "v1,l+VKmMxnaQ3ENlr0iil27KskLklCaXs0ndL5Whu/9tc="
SIGNED_BEFORE = "v1,5PmSHDKW8Pyln+Sj9jNVcW69NsF86BMrZpWNIl+jkNQ="


def test_a_body_is_signed_with_id_and_time() -> None:
    assert signatures([key_of(SECRET)], "msg_1", 1767225600, BODY) == SIGNED
    assert signatures([key_of(PREVIOUS)], "msg_1", 1767225600, BODY) == SIGNED_BEFORE


def test_during_a_rotation_both_secrets_sign_the_newest_first() -> None:
    assert signatures([key_of(SECRET), key_of(PREVIOUS)], "msg_1", 1767225600, BODY) == f"{SIGNED} {SIGNED_BEFORE}"


@pytest.mark.parametrize("verifier", [SECRET, PREVIOUS])
def test_a_stock_verifier_accepts_either_secret_during_a_rotation(verifier: str) -> None:
    now = int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signatures([key_of(SECRET), key_of(PREVIOUS)], "msg_1", now, BODY),
    }

    assert standardwebhooks.Webhook(verifier).verify(BODY.decode(), headers) == json.loads(BODY)


def test_a_new_secret_has_32_bytes_and_is_never_the_same() -> None:
    assert len(key_of(new_secret())) == 32
    assert new_secret() != new_secret()


@pytest.mark.parametrize(
    "secret",
    ["", "QUJD", "whsec_", "whsec_!!!", "whsec_" + base64.b64encode(b"x" * 23).decode(), "whsec_" + "QUJD" * 40],
)
def test_a_secret_of_another_form_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="signing secret"):
        key_of(secret)
