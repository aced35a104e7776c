"""Addresses, methods and credentials: what is settled before a handler runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import aiohttp

from agentauri.types import utc_now

from .conftest import Api, Serve

MakeKey = Callable[..., Awaitable[str]]


async def test_an_unknown_address_is_not_found_with_and_without_a_credential(api: Api, key: str) -> None:
    for given in (None, key):
        answer = await api.ask("GET", "/api/v1/nothing", key=given)
        assert (answer.status, answer.json()["error"]) == (404, "not_found")
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_known_address_with_another_method_says_which_it_takes(api: Api) -> None:
    answer = await api.ask("DELETE", "/api/v1/events")
    assert (answer.status, answer.json()["error"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert (await api.ask("HEAD", "/api/v1/triggers/x/circuit-breaker/reset")).status == 405


async def test_options_tells_the_methods_of_an_address_without_a_credential(api: Api) -> None:
    answer = await api.ask("OPTIONS", "/api/v1/triggers/x")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert (await api.ask("OPTIONS", "/api/v1/nothing")).status == 404


async def test_head_answers_like_get_without_the_body(
    api: Api, key: str, serve: Serve, client: aiohttp.ClientSession
) -> None:
    url = await serve(api.app)
    for path in ("/api/v1/health", "/api/v1/triggers", "/api/v1/triggers/x"):
        async with client.get(url + path, headers={"X-API-Key": key}) as got:
            body = await got.read()
        async with client.head(url + path, headers={"X-API-Key": key}) as head:
            assert await head.read() == b""
        assert head.status == got.status
        assert head.headers["Content-Length"] == str(len(body))


async def test_one_trailing_slash_is_ignored(api: Api) -> None:
    assert (await api.ask("GET", "/api/v1/chains/")).status == 200


async def test_a_key_is_taken_in_every_form_that_keys_have(api: Api, key: str) -> None:
    for headers in (
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
        {"Authorization": key},
    ):
        assert (await api.ask("GET", "/api/v1/triggers", headers=headers)).status == 200


async def test_x_api_key_counts_alone_where_it_is_present(api: Api, key: str) -> None:
    headers = {"X-API-Key": "nonsense", "Authorization": f"Bearer {key}"}
    assert (await api.ask("GET", "/api/v1/triggers", headers=headers)).status == 401


async def test_every_refused_key_gets_the_same_answer(api: Api, make_key: MakeKey) -> None:
    expired = await make_key(expires_at=utc_now() - timedelta(seconds=1))
    revoked = await make_key()
    async with api.house.database.transaction() as tx:
        await api.house.api_keys.revoke(tx, None, revoked[:16])
    for presented in (expired, revoked, "sk_live_" + "x" * 43, "sk_live_", "", "ü" * 51):
        answer = await api.ask("GET", "/api/v1/triggers", key=presented)
        problem = answer.json()
        assert answer.status == 401
        assert (problem["error"], problem["message"]) == ("invalid_api_key", "Invalid or expired API key")
        assert answer.headers["Www-Authenticate"] == 'Bearer realm="agentauri", error="invalid_token"'


async def test_any_other_credential_is_refused_and_never_anonymous(api: Api) -> None:
    for authorization in ("Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer ", "Basic b3A6cHc=", "x"):
        answer = await api.ask("GET", "/api/v1/events", headers={"Authorization": authorization})
        assert (answer.status, answer.json()["error"]) == (401, "invalid_token")
        assert answer.json()["message"] == "Invalid or expired token"


async def test_a_refused_key_leaves_one_row(api: Api) -> None:
    headers = {"User-Agent": "curl/8"}
    await api.ask("GET", "/api/v1/triggers/secret-id?token=canary", key="sk_live_" + "x" * 43, headers=headers)
    async with api.house.database.transaction() as tx:
        rows = await tx.fetch("SELECT kind, prefix, address, user_agent, route FROM auth_failures")
    assert [tuple(row) for row in rows] == [
        ("api_key", "sk_live_xxxxxxxx", "127.0.0.1", "curl/8", "/api/v1/triggers/{trigger_id}")
    ]


async def test_a_key_ends_with_its_revocation(api: Api, key: str) -> None:
    assert (await api.ask("GET", "/api/v1/triggers", key=key)).status == 200
    async with api.house.database.transaction() as tx:
        await api.house.api_keys.revoke(tx, None, key[:16])
    assert (await api.ask("GET", "/api/v1/triggers", key=key)).status == 401


async def test_the_log_names_the_key_by_its_id_only(api: Api, key: str, log_lines: list[dict[str, object]]) -> None:
    await api.ask("GET", "/api/v1/triggers", key=key)
    line = next(line for line in log_lines if line["event"] == "http.answered")
    assert line["principal"] == "api_key"
    assert line["route"] == "/api/v1/triggers"
    assert key[16:] not in repr(log_lines)


async def test_refusals_come_in_their_order(api: Api, key: str, make_key: MakeKey) -> None:
    reader = await make_key(permissions=("read",))
    other = {"X-Organization-ID": "another"}
    wrong_type = {"Content-Type": "text/plain"}
    too_long = "a" * 9000
    path = "/api/v1/triggers"
    bad = b"{"
    assert (await api.ask("POST", f"{path}?{too_long}", key="nonsense", body=bad)).status == 414
    assert (await api.ask("POST", path, key="nonsense", body=b"x" * (1024 * 1024 + 1))).status == 413
    assert (await api.ask("POST", path, key="nonsense", body=bad, headers=other)).status == 401
    assert (await api.ask("POST", path, key=reader, body=bad, headers=other)).status == 404
    assert (await api.ask("POST", path, key=reader, body=bad, headers=wrong_type)).status == 403
    assert (await api.ask("POST", path, key=key, body=bad, headers=wrong_type)).status == 415
    assert (await api.ask("PATCH", f"{path}/nothing", key=key, body=bad)).status == 400
    assert (await api.ask("PATCH", f"{path}/nothing", key=key, json={"name": 1})).status == 422
    assert (await api.ask("PATCH", f"{path}/nothing", key=key, json={"name": "t"})).status == 404
