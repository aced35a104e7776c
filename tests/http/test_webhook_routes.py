"""Signing secrets: listed by a hint, replaced with an overlap in which both sign."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from agentauri.config import RetentionConfig
from agentauri.janitor import Janitor
from support.events import insert_by_hand
from support.receiver import Received, Receiver
from support.reused import reused_database

from .conftest import Answer, Api

MakeKey = Callable[..., Awaitable[str]]


class Hook:
    """A webhook, and what becomes of its secret."""

    def __init__(self, api: Api, admin: str, receiver: Receiver, action: dict[str, Any]) -> None:
        self.api, self.admin, self.receiver = api, admin, receiver
        self.id: int = action["id"]
        self.secret: str = action["signing_secret"]
        self._events = 0

    async def ask_to_rotate(self, body: Any = None) -> Answer:
        return await self.api.ask("POST", f"/api/v1/webhooks/{self.id}/rotate-secret", key=self.admin, json=body)

    async def rotate(self, **body: Any) -> dict[str, Any]:
        answer = await self.ask_to_rotate(body)
        assert answer.status == 200, answer.body
        rotated: dict[str, Any] = answer.json()
        return rotated

    async def sent(self) -> Received:
        """One more request."""
        self._events += 1
        async with self.api.house.database.transaction() as tx:
            await insert_by_hand(tx, f"e{self._events}", log_index=self._events)
        while await self.api.house.evaluator.step():
            pass
        while await self.api.house.dispatcher.step():
            pass
        return self.receiver.requests[-1]

    async def time_passes(self) -> None:
        async with self.api.house.database.transaction() as tx:
            await tx.run("UPDATE signing_secrets SET expires_at = now() WHERE expires_at IS NOT NULL")


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "routes")


@pytest.fixture
async def admin(make_key: MakeKey) -> str:
    return await make_key(key_type="admin", permissions=("read", "write", "delete", "admin"))


@pytest.fixture
async def hook(api: Api, admin: str, receiver: Receiver) -> Hook:
    body = {
        "name": "t",
        "match_all": True,
        "actions": [{"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}],
    }
    made = await api.ask("POST", "/api/v1/triggers", key=admin, json=body)
    return Hook(api, admin, receiver, made.json()["actions"][0])


def fits(secret: str, request: Received) -> bool:
    try:
        Webhook(secret).verify(request.body, dict(request.headers))
    except WebhookVerificationError:
        return False
    return True


def first_fits(secret: str, request: Received) -> bool:
    """By hand, and looking at the first signature alone."""
    given = {name.lower(): value for name, value in request.headers.items()}
    signed = f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return given["webhook-signature"].split(" ")[0] == f"v1,{base64.b64encode(digest).decode()}"


async def test_until_the_overlap_ends_both_sign_the_newest_first(hook: Hook) -> None:
    answer = await hook.ask_to_rotate()
    rotated = answer.json()
    assert (answer.status, rotated["action_ids"]) == (200, [hook.id])
    assert rotated["previous_expires_at"] > rotated["created_at"]
    request = await hook.sent()
    assert fits(rotated["signing_secret"], request)
    assert fits(hook.secret, request)
    assert first_fits(rotated["signing_secret"], request)
    assert len(request.headers["webhook-signature"].split(" ")) == 2

    await hook.time_passes()
    request = await hook.sent()
    assert fits(rotated["signing_secret"], request)
    assert not fits(hook.secret, request)
    assert len(request.headers["webhook-signature"].split(" ")) == 1


async def test_without_an_overlap_the_old_secret_ends_at_once(hook: Hook) -> None:
    await hook.rotate()
    rotated = await hook.rotate(overlap_seconds=0)
    assert rotated["previous_expires_at"] is None
    request = await hook.sent()
    assert first_fits(rotated["signing_secret"], request)
    assert not fits(hook.secret, request)
    assert len(request.headers["webhook-signature"].split(" ")) == 1


async def test_whoever_missed_the_answer_may_rotate_again_and_the_oldest_still_signs(hook: Hook) -> None:
    secrets = [hook.secret, *[(await hook.rotate())["signing_secret"] for _ in range(2)]]
    request = await hook.sent()
    assert all(fits(secret, request) for secret in secrets)
    assert first_fits(secrets[-1], request)


async def test_another_rotation_gives_what_is_running_out_no_more_time(hook: Hook, api: Api) -> None:
    first = await hook.rotate(overlap_seconds=60)
    second = await hook.rotate(overlap_seconds=3600)
    listed = (await api.ask("GET", "/api/v1/webhooks/secrets", key=hook.admin)).json()["data"]
    ends = [None, second["previous_expires_at"], first["previous_expires_at"]]
    assert [one["expires_at"] for one in listed] == ends


async def test_however_often_it_is_rotated_a_request_has_few_signatures(hook: Hook) -> None:
    secrets = [(await hook.rotate())["signing_secret"] for _ in range(7)]
    request = await hook.sent()
    assert len(request.headers["webhook-signature"].split(" ")) == 5
    assert all(fits(secret, request) for secret in secrets[-5:])


async def test_secrets_are_listed_by_a_hint_and_only_while_they_sign(hook: Hook, api: Api) -> None:
    rotated = await hook.rotate(overlap_seconds=60)
    listed = await api.ask("GET", "/api/v1/webhooks/secrets", key=hook.admin)
    new, old = listed.json()["data"]
    assert (new["action_id"], new["follow_id"], new["expires_at"]) == (hook.id, None, None)
    assert (old["action_id"], old["expires_at"]) == (hook.id, rotated["previous_expires_at"])
    assert new["hint"] == f"{rotated['signing_secret'][:10]}…"
    assert hook.secret.encode() not in listed.body
    assert rotated["signing_secret"].encode() not in listed.body
    await hook.time_passes()
    listed = await api.ask("GET", "/api/v1/webhooks/secrets", key=hook.admin)
    assert [one["hint"] for one in listed.json()["data"]] == [new["hint"]]


async def test_what_has_run_out_is_deleted(hook: Hook, api: Api) -> None:
    await hook.rotate()
    await hook.time_passes()
    house = api.house
    janitor = Janitor(house.database, house.event_queue, RetentionConfig())
    while await janitor.step():
        pass
    async with house.database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM signing_secrets") == 1


async def test_the_overlap_is_a_week_at_most(hook: Hook) -> None:
    for body in ({"overlap_seconds": -1}, {"overlap_seconds": 604_801}, {"other": 1}):
        assert (await hook.ask_to_rotate(body)).status == 422


async def test_an_action_that_signs_nothing_has_no_secret_to_rotate(hook: Hook, api: Api) -> None:
    async with api.house.database.transaction() as tx:
        await tx.run("UPDATE trigger_actions SET action_type = 'telegram'")
    refused = await hook.ask_to_rotate()
    assert (refused.status, refused.json()["error"]) == (409, "conflict")


async def test_nobody_rotates_what_is_another_tenants_or_environments(
    hook: Hook, api: Api, key: str, make_key: MakeKey
) -> None:
    path = f"/api/v1/webhooks/{hook.id}/rotate-secret"
    for changes in ({"organization": "strangers"}, {"environment": "test"}):
        other = await make_key(**changes, key_type="admin", permissions=("read", "admin"))
        assert (await api.ask("POST", path, key=other)).status == 404
        assert (await api.ask("GET", "/api/v1/webhooks/secrets", key=other)).json()["data"] == []
    assert (await api.ask("POST", path, key=key)).status == 403
    for wrong in ("x", "0", "999999"):
        answer = await api.ask("POST", f"/api/v1/webhooks/{wrong}/rotate-secret", key=hook.admin)
        assert answer.status == 404
    assert fits(hook.secret, await hook.sent())
