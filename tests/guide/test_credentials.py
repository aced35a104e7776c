"""Keys, budgets, plans and headers: what is typed with curl, and what comes back."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from support.console import Command
from support.processes import Child

SCRIPT = Path(__file__).parents[2] / "scripts" / "test-security-headers.sh"
PREFIX = "SELECT id, key_prefix, is_active, expires_at, revoked_at FROM api_keys WHERE key_prefix = '{prefix}';"
REFUSED = "Invalid or expired API key"


async def output(*command: str | Path) -> str:
    asked = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return (await asked.communicate())[0].decode()


async def curl(*arguments: str) -> str:
    return await output("curl", "--silent", *arguments)


async def registered(base: str, name: str) -> tuple[str, str]:
    """How curl shows that it is her."""
    account = {"username": name, "email": f"{name}@example.org", "password": "a key to the analytical engine"}
    made = await curl(f"{base}/api/v1/auth/register", "-d", json.dumps(account))
    return "-H", f"Authorization: Bearer {json.loads(made)['token']}"


async def test_limits_can_be_read_spent_and_raised(serve: Callable[..., Child]) -> None:
    child = serve(RATE_LIMIT_MODE="enforcing", ENABLE_HSTS="true", ALLOW_UNPAID_UPGRADES="true")
    base = f"http://127.0.0.1:{await child.port()}"
    bearer, spender = await registered(base, "ada"), await registered(base, "bob")
    triggers = f"{base}/api/v1/triggers"

    assert '"plan":"free"' in re.sub(r"\s", "", await curl(*bearer, f"{base}/api/v1/auth/me"))
    assert re.search(r"^X-RateLimit-Reset: 1\d{9}\r$", await curl("-I", *bearer, triggers), re.MULTILINE)
    upgrade = ("-X", "POST", *bearer, f"{base}/api/v1/billing/upgrade", "-d", '{"plan": "pro"}')
    assert json.loads(await curl(*upgrade))["plan"] == "pro"
    assert '"plan":"pro"' in re.sub(r"\s", "", await curl(*bearer, f"{base}/api/v1/auth/me"))
    assert "X-RateLimit-Limit: 500\r" in await curl("-I", *bearer, triggers)

    spent = (await curl("-I", *spender, f"{triggers}?[1-51]")).split("HTTP/1.1 ")[-1]
    assert spent.startswith("429 ")
    assert "X-RateLimit-Remaining: 0\r" in spent

    assert "\nStrict-Transport-Security: " in await curl("-I", f"{base}/api/v1/health")
    assert "Grade: A" in await output(SCRIPT, base)


async def test_a_key_that_is_refused_can_be_looked_up_by_its_prefix(
    serve: Callable[..., Child], agentauri: Command
) -> None:
    base = f"http://127.0.0.1:{await serve().port()}"
    made = ("key", "create", "--organization", "acme")
    revoked, expired = (await agentauri(*made)).strip(), (await agentauri(*made)).strip()
    await agentauri("key", "revoke", revoked[:16])
    await agentauri("psql", "-c", f"UPDATE api_keys SET expires_at = now() WHERE key_prefix = '{expired[:16]}'")

    for refused in (revoked, expired, "sk_live_" + "x" * 43):
        answer = await curl("-i", "-H", f"X-API-Key: {refused}", f"{base}/api/v1/triggers")
        assert answer.startswith("HTTP/1.1 401 ")
        assert REFUSED in answer
    assert re.search(r"\| f\s+\|.*\d\d:\d\d", await agentauri("psql", "-c", PREFIX.format(prefix=revoked[:16])))
    assert "(1 row)" in await agentauri("psql", "-c", PREFIX.format(prefix=expired[:16]))
