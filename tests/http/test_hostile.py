"""Input that wants to break something: refused in the one form, never a 5xx, never repeated."""

from __future__ import annotations

import json
import random
from typing import Any

from .conftest import Api

CANARY = "canary-4711"


async def post(api: Api, key: str, body: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.ask("POST", "/api/v1/triggers", key=key, body=body, headers=named)


async def test_bodies_that_cannot_be_read_are_malformed(api: Api, key: str) -> None:
    for body in (
        b"",
        b"{",
        b"[" * 100_000,
        b'{"name": "a", "name": "b"}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": NaN}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": "a"} trailing',
    ):
        answer = await post(api, key, body)
        assert (answer.status, answer.json()["error"]) == (400, "malformed_request"), body[:40]


async def test_a_large_body_is_read_beside_the_loop_and_refused_alike(api: Api, key: str) -> None:
    body = json.dumps({"name": "t", "description": "d" * 100_000}).encode()
    assert (await post(api, key, body)).json()["errors"][0]["field"] == "description"


async def test_nul_and_endless_integers_are_refused(api: Api, key: str) -> None:
    for body, field in (
        (b'{"name": "a\\u0000b"}', "name"),
        (b'{"name": "a", "chain_id": ' + b"9" * 400 + b"}", "chain_id"),
        (b'{"name": "a", "conditions": [{"condition_type": "agent_id_equals", "value": ' + b"9" * 400 + b"}]}",
         "conditions[0].value"),
        (b'{"name": "a", "actions": [{"action_type": "webhook", "config": {"a": ' + b"9" * 400 + b"}}]}",
         "actions[0].config.a"),
    ):  # fmt: skip
        answer = await post(api, key, body)
        assert (answer.status, answer.json()["errors"][0]["field"]) == (422, field)


async def test_a_body_says_what_it_is(api: Api, key: str) -> None:
    good = b' {"name": "t"}'
    for content_type, status in {
        "application/json": 201,
        "application/json; charset=utf-8": 201,
        "application/merge-patch+json": 201,
        "": 201,
        "application/x-www-form-urlencoded": 201,
        "text/plain": 415,
        "multipart/form-data; boundary=x": 415,
    }.items():
        assert (await post(api, key, good, Content_Type=content_type)).status == status, content_type
    form = await post(api, key, b"name=t", Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.json()["error"]) == (415, "unsupported_media_type")
    assert (await post(api, key, good, Content_Encoding="gzip")).status == 415


async def test_nothing_that_was_sent_comes_back_in_an_error_or_in_the_log(
    api: Api, key: str, log_lines: list[dict[str, object]]
) -> None:
    leaf = {"condition_type": CANARY, "field": CANARY, "operator": CANARY, "value": CANARY, CANARY: CANARY}
    bodies: list[Any] = [
        {"name": {"x": CANARY}, "registry": CANARY, CANARY: CANARY},
        {"name": "t", "fire_at": CANARY, "dedupe_key": "{{ " + CANARY, "on_open": CANARY, "environment": CANARY},
        {"name": "t", "conditions": [leaf, {"all": CANARY}, {"not": [leaf]}, CANARY]},
        {"name": "t", "conditions": [leaf | {"condition_type": "field", "field": "tag1", "operator": "regex"}]},
        {"name": "t", "actions": [{"action_type": CANARY, "config": {CANARY: CANARY}}]},
        {"name": "t", "actions": [{"action_type": "webhook", "config": {
            "url": f"ftp://{CANARY}", "method": CANARY, "headers": {CANARY + " ": CANARY},
            "body": "{{ " + CANARY + " }}", "timeout_seconds": CANARY, "expected_status_codes": [CANARY], CANARY: 1}}]},
        CANARY,
        [CANARY],
    ]  # fmt: skip
    for body in bodies:
        answer = await api.ask("POST", f"/api/v1/triggers?x={CANARY}", key=key, json=body)
        assert answer.status in (400, 422), answer.body
        assert CANARY.encode() not in answer.body
    for path in (
        f"/{CANARY}",
        f"/api/v1/events/{CANARY}",
        f"/api/v1/triggers/{CANARY}",
        f"/api/v1/events?sort={CANARY}",
    ):
        answer = await api.ask("GET", path, key=key)
        assert answer.status in (404, 422)
        assert CANARY.encode() not in answer.body
    assert CANARY not in repr(log_lines)


SOUND: dict[str, Any] = {
    "name": "t",
    "chain_id": 8453,
    "registry": "reputation",
    "fire_at": "seen",
    "cooldown_seconds": 0,
    "dedupe_key": None,
    "conditions": [
        {"condition_type": "agent_id_equals", "value": "1"},
        {"any": [{"condition_type": "field", "field": "tag1", "operator": "in", "value": ["a"]}, {"not": {"all": [
            {"condition_type": "score_threshold", "operator": "<", "value": "1.5", "config": {}}]}}]},
    ],
    "actions": [
        {"action_type": "webhook", "priority": 1, "config": {
            "url": "http://127.0.0.1:9/{{ agent_id }}", "method": "POST", "headers": {"x": "y"}, "timeout_seconds": 1,
            "body": {"a": ["{{ score }}"]}, "expected_status_codes": [200], "rate_limit_per_second": 1}}
    ],
}  # fmt: skip
STRANGE: list[Any] = [
    None, True, 0, -1, 10**77, 1.5, 1e308, "", "x" * 2000, "***", "{{", "{{ a | b }}", "\x7f\u2028", "0x", "１", [], {},
    [None], [[]], [{}], {"": ""}, {"all": None}, {"id": -1}, "seen", {"confirmations": 0}, "http://[::1", "http://a:99999",
    "(?<=a)b", "10" * 39,
]  # fmt: skip


def mutations(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts, at any depth, replaced by something strange."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        return value | {name if rng.random() < 0.9 else "colour": mutations(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], mutations(value[place], rng), *value[place + 1 :]]
    return rng.choice(STRANGE)


async def test_no_body_of_any_shape_is_a_bug(api: Api, key: str) -> None:
    rng = random.Random(8004)
    made = (await api.ask("POST", "/api/v1/triggers", key=key, json=SOUND)).json()
    assert made["status"] == "active", made
    for _ in range(300):
        body = mutations(SOUND, rng)
        for method, path in (("POST", "/api/v1/triggers"), ("PATCH", f"/api/v1/triggers/{made['id']}")):
            answer = await api.ask(method, path, key=key, json=body)
            assert answer.status in (200, 201, 400, 422), body


async def test_a_host_that_is_none_is_malformed(api: Api) -> None:
    answer = await api.ask("GET", "/api/v1/events", headers={"host": "a b<script>"})
    assert (answer.status, answer.json()["error"]) == (400, "malformed_request")


async def test_addresses_that_play_tricks_lead_nowhere(api: Api, key: str) -> None:
    for path in (
        "/api/v1/../../etc/passwd",
        "/api/v1/%2e%2e/%2e%2e/metrics",
        "/api/v1//triggers/..",
        "/api/v1/triggers;x=1",
        "/api/v1/triggers/%00",
        "/api/v1/triggers/\x00",
        "/api/v1/events/\x00",
        "/api/v1/agents/8453/\x00",
        "/api/v1/agents/8453/" + "9" * 400,
        "/api/v1/chains/１",
        "/problems/\x00",
        "/api-docs/..%2f..%2fapp.py",
        "/.well-known/../metrics",
    ):
        answer = await api.ask("GET", path, key=key)
        assert (answer.status, answer.json()["error"]) == (404, "not_found"), path


async def test_parameters_out_of_bounds_are_refused_and_wildcards_are_text(api: Api, key: str) -> None:
    for query in (
        "limit=-1", "limit=101", "limit=1e3", "limit=", "offset=-1", "offset=100001", "limit=1&limit=2", "page=0",
        "cursor=AAAA", "cursor=%00", "order=up", "limit=" + "9" * 400, "agent_id=-1", "from_time=never",
    ):  # fmt: skip
        assert (await api.ask("GET", f"/api/v1/events?{query}", key=key)).status == 422, query
    await api.ask("POST", "/api/v1/triggers", key=key, json={"name": "plain"})
    for search in ("%25", "_", "%25%25", "\\"):
        found = await api.ask("GET", f"/api/v1/triggers?search={search}", key=key)
        assert (found.status, found.json()["data"]) == (200, []), search


async def test_a_flood_of_headers_is_refused(api: Api, key: str) -> None:
    flood = {f"X-Header-{number}": "x" * 20 for number in range(500)}
    assert (await api.ask("GET", "/api/v1/triggers", key=key, headers=flood)).status == 431
    for name in ("X-Organization-ID", "X-Request-ID", "Origin", "Traceparent", "X-Monitoring-Token", "X-Forwarded-For"):
        answer = await api.ask("GET", "/api/v1/triggers", key=key, headers={name: "\x00\xff" * 50})
        assert answer.status == (404 if name == "X-Organization-ID" else 200), name


async def test_methods_that_are_none_are_not_taken(api: Api, key: str) -> None:
    for method in ("TRACE", "CONNECT", "PROPFIND", "get", "X" * 100):
        answer = await api.ask(method, "/api/v1/triggers", key=key, headers={"X-HTTP-Method-Override": "DELETE"})
        assert (answer.status, answer.json()["error"]) == (405, "method_not_allowed"), method
