"""Secrets are where they have to be, sealed, and nowhere else: whatever an endpoint answers and whoever reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from aiohttp import web
from prometheus_client import generate_latest

from agentauri import metrics
from agentauri.app import Application
from agentauri.config import Config, load
from support.events import insert_by_hand
from support.receiver import Receiver

from .conftest import Api

MakeKey = Callable[..., Awaitable[str]]
Lines = list[dict[str, object]]

BOT_TOKENS = ["123456789:AAE-plantedplantedplantedplantedpla", "987654321:BBF-plantedplantedplantedplantedpla"]
HEADERS = ["Bearer planted-authorization-1", "planted-api-key-2", "planted-cookie-3", "Basic planted-basic-4"]
AUTH_TOKENS = ["planted-auth-token-5", "planted-auth-token-6"]
QUERIES = ["planted-query-7", "planted-query-8", "planted-query-9", "planted-query-10", "planted-query-11"]
PATH = "planted-path-12"


@pytest.fixture
def config(tmp_path: Path, database_url: str, redis_url: str, receiver: Receiver) -> Config:
    """Development settings, with a Bot API of our own."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "ENVIRONMENT": "development"}
    settings |= {"AGENTAURI_DATA_DIR": str(tmp_path / "data"), "TELEGRAM_API_URL": receiver.url, "SERVER_PORT": "0"}
    return load(settings, tmp_path)


async def repeat(request: web.Request) -> web.StreamResponse:
    """Refuse, and repeat all that was sent, as debuggers do."""
    told = f"Cannot {request.method} {request.path_qs}\n" + "\n".join(f"{k}: {v}" for k, v in request.headers.items())
    return web.Response(status=400, text=f"{told}\n{await request.text()}")


def actions(url: str) -> list[dict[str, Any]]:
    webhooks = [
        {"url": f"{url}/hook?token={QUERIES[0]}&sig={QUERIES[1]}", "headers": {"Authorization": HEADERS[0]}},
        {"url": f"{url}/{PATH}/hook?key={QUERIES[2]}", "headers": {"X-Api-Key": HEADERS[1], "Cookie": HEADERS[2]}},
        {"url": f"http://127.0.0.1:1/?key={QUERIES[3]}", "headers": {"X-Api-Key": HEADERS[3]}},
    ]
    chats = [{"chat_id": 4242, "message_template": "hello", "bot_token": token} for token in BOT_TOKENS]
    tools = [
        {"server_url": f"{url}/mcp?key={QUERIES[4]}", "tool_name": "t", "auth_token": AUTH_TOKENS[0]},
        {"server_url": "http://127.0.0.1:1/", "tool_name": "t", "auth_token": AUTH_TOKENS[1]},
    ]
    by_type: dict[str, list[dict[str, Any]]] = {"webhook": webhooks, "telegram": chats, "mcp": tools}
    return [{"action_type": kind, "config": one} for kind, configs in by_type.items() for one in configs]


async def everything_in_redis(url: str) -> str:
    async with redis.asyncio.from_url(url) as client:
        held: list[object] = []
        async for key in client.scan_iter():
            kind: Any = (await client.type(key)).decode()  # type: ignore[union-attr]  # bytes, as nothing is decoded
            held.append(key)
            if kind == "string":
                held.append(await client.get(key))
                continue
            read: Any = {"list": client.lrange, "zset": client.zrange, "set": client.smembers, "hash": client.hgetall}[
                kind
            ]
            held.append(await (read(key) if kind in ("set", "hash") else read(key, 0, -1)))
    return repr(held)


async def everything_stored(house: Application) -> dict[str, str]:
    """All rows of all tables as text, by table."""
    stored: dict[str, str] = {}
    async with house.database.transaction() as tx:
        for record in await tx.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            table: str = record["tablename"]
            rows = await tx.fetch(f'SELECT t::text AS row FROM "{table}" t')
            stored[table] = "\n".join(row["row"] for row in rows)
    return stored


def found(secrets: list[str], text: str) -> list[str]:
    return [secret for secret in secrets if secret in text or secret.encode().hex() in text]


async def test_planted_secrets_are_in_nothing_that_can_be_read(
    api: Api, make_key: MakeKey, receiver: Receiver, redis_url: str, log_lines: Lines
) -> None:
    receiver.handle = repeat
    admin = await make_key(key_type="admin", permissions=("read", "write", "delete", "admin"))
    reader = await make_key(permissions=("read",))
    told: list[bytes] = []

    async def ask(method: str, path: str, key: str, body: Any = None) -> Any:
        answer = await api.ask(method, f"/api/v1/{path}", key=key, json=body)
        assert answer.status < 300, answer.body
        if key == reader:
            told.append(answer.body)
        return answer.json()

    made = await ask("POST", "triggers", admin, {"name": "t", "match_all": True, "actions": actions(receiver.url)})
    signing = [action["signing_secret"] for action in made["actions"] if action["action_type"] == "webhook"]
    first = next(action["id"] for action in made["actions"] if action["action_type"] == "webhook")
    signing.append((await ask("POST", f"webhooks/{first}/rotate-secret", admin))["signing_secret"])
    followed = {"chain_id": 84532, "actions": actions(receiver.url)[:1]}
    signing.append((await ask("POST", "agents/42/follow", admin, followed))["signing_secret"])

    house = api.house
    async with house.database.transaction() as tx:
        await insert_by_hand(tx, "e", agent_id=42)
    while await house.evaluator.step():
        pass
    waiting = await everything_in_redis(redis_url)
    while await house.dispatcher.step():
        pass
    listed = await ask("GET", "deliveries", reader)
    assert len({one["action_id"] for one in listed["data"] if one["attempts"]}) == len(made["actions"]) + 1
    for one in listed["data"]:
        shown = await ask("GET", f"deliveries/{one['id']}", reader)
        assert shown["attempt_log"], one
    for path in ("triggers", f"triggers/{made['id']}", f"triggers/{made['id']}/actions", "webhooks/secrets"):
        await ask("GET", path, reader)
    for path in ("agents/following", "agents/42/follow?chain_id=84532"):
        await ask("GET", path, reader)

    hidden = [*HEADERS, *AUTH_TOKENS, *BOT_TOKENS, *signing, admin, reader]
    hidden += [value.rpartition(" ")[2] for value in HEADERS] + [token.partition(":")[2] for token in BOT_TOKENS]
    addresses = [*QUERIES, PATH]
    assert len({*hidden, *addresses}) >= 20
    stored = await everything_stored(house)
    read = {
        "Redis before": waiting,
        "Redis after": await everything_in_redis(redis_url),
        "the API": b"".join(told).decode(),
        "the log": repr(log_lines),
        "metrics": generate_latest(metrics.REGISTRY).decode(),
    }
    configured = stored.pop("trigger_actions")
    for place, text in (read | stored).items():
        assert found(hidden + addresses, text) == [], place
    assert found(hidden, configured) == []
    assert found(addresses, configured) == addresses  # an owner reads them
