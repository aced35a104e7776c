"""Callers who are turned away: found in a running installation, and let in as printed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from doctor.house import House


async def status(house: House, key: str) -> int:
    async with house.http(key) as http, http.get(f"{house.url}/api/v1/triggers") as answer:
        return answer.status


async def test_a_key_that_was_revoked_or_has_expired_and_is_still_used_is_replaced(house: House) -> None:
    keys = [(await house.typed("agentauri key create --organization keyholders")).strip() for _ in range(2)]
    revoked, expired = keys
    await house.typed(f"agentauri key revoke {revoked[:16]}")
    await house.sql(f"UPDATE api_keys SET expires_at = now() - interval '1 hour' WHERE key_prefix = '{expired[:16]}'")
    assert [await status(house, key) for key in (revoked, expired, expired)] == [401, 401, 401]

    found = await house.doctor("api_keys")
    assert "was revoked at" in found[f"api_keys:{revoked[:16]}"].finding
    assert "expired at" in found[f"api_keys:{expired[:16]}"].finding
    assert "refused 2 times within the hour" in found[f"api_keys:{expired[:16]}"].finding
    mended = await house.mend(f"api_keys:{expired[:16]}")

    assert mended.fix == "agentauri key create --organization keyholders"
    new = (await house.typed(str(mended.fix))).strip()
    assert await status(house, new) == 200


@pytest.mark.soak
async def test_a_key_that_is_in_force_and_refused_points_at_the_pepper(house: House) -> None:
    key = (await house.typed("agentauri key create --organization keyholders")).strip()
    await house.stand(API_KEY_PEPPER="another pepper that is only used in tests 9876543210")
    assert await status(house, key) == 401

    found = (await house.doctor("api_keys"))[f"api_keys:{key[:16]}"]

    assert "API_KEY_PEPPER was changed" in found.finding


async def test_an_organization_that_has_used_up_its_hour_is_given_a_larger_plan(house: House) -> None:
    await house.stand(RATE_LIMIT_MODE="enforcing")
    key = (await house.typed("agentauri key create --organization eager")).strip()
    async with house.http(key) as http:
        for _ in range(50):
            async with http.get(f"{house.url}/api/v1/triggers") as answer:
                assert answer.status == 200
        async with http.get(f"{house.url}/api/v1/triggers") as answer:
            assert answer.status == 429

    found = await house.mend("rate_limits:eager")

    assert "eager has used 50 of the 50 requests an hour of its plan free" in found.finding
    assert found.fix == "agentauri organization plan eager starter"


async def test_browsers_are_told_to_insist_on_https(house: House) -> None:
    house_url = house.url
    found = (await house.doctor("hsts", "--url", house_url))["hsts"]
    assert found.result == "warn"
    await house.typed(str(found.fix))

    assert (await house.doctor("hsts", "--url", house.url))["hsts"].result == "ok"
    typed = await house.terminal.type(f"sh {house.root}/scripts/test-security-headers.sh {house.url}")
    assert "Grade: A" in typed.output


@asynccontextmanager
async def proxy(upstream: str) -> AsyncIterator[str]:
    """What stands in front of the product, and drops a header."""

    async def pass_on(request: web.Request) -> web.Response:
        async with ClientSession() as http, http.get(upstream + request.path_qs) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower().startswith(("x-", "cont"))}
            headers.pop("X-Frame-Options")
            headers.pop("Content-Length", None)
            headers.pop("Content-Type", None)
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", pass_on)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_headers_that_a_proxy_drops_are_named(house: House) -> None:
    async with proxy(house.url) as url:
        found = (await house.doctor("security_headers", "--url", url))["security_headers"]
    well = await house.doctor("security_headers", "--url", house.url)

    assert (found.result, "X-Frame-Options" in found.finding) == ("fail", True)
    assert well["security_headers"].result == "ok"
