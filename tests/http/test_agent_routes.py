"""Routes about agents and the indexer, on a chain of our own that is really indexed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentauri.app import Application
from agentauri.chain import Step
from agentauri.config import Config, load
from agentauri.demo import Account, LocalChain

from .conftest import Api

OWNER, CLIENT, VALIDATOR, OTHER = (Account.number(n).address for n in (0, 1, 2, 7))
REQUEST_HASH = bytes.fromhex("ab" * 32)
LARGEST = 10**38
PATHS = ("", "/feedback", "/validations", "/validations/summary", "/reputation?clients=all")


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    async with LocalChain.start() as started:
        yield started


@pytest.fixture
def config(config: Config, chain: LocalChain) -> Config:
    """The same, and the chain."""
    assert config.database is not None
    settings = {
        "DATABASE_URL": config.database.url.reveal(),
        "ENVIRONMENT": "development",
        "RATE_LIMIT_MODE": "off",
        "AGENTAURI_DATA_DIR": str(config.data_dir),
        "SERVER_PORT": "0",
    }
    return load(settings | chain.settings, config.data_dir)


async def index(house: Application) -> None:
    (indexer,) = house.indexers
    while await indexer.step() not in (Step.IDLE, Step.CAUGHT_UP):
        pass


@pytest.fixture
async def told(chain: LocalChain, house: Application) -> int:
    """An agent of which something is said in every way, all of it indexed."""
    agent, _ = await chain.register("https://agent.example/a.json", {"name": b"Weather bot"})
    for value, decimals, client, tag in (
        (LARGEST, 0, CLIENT, "uptime"), (-75, 2, CLIENT, "uptime"), (0, 18, OTHER, "quality"),
        (7, 18, OTHER, ""), (-1, 18, OTHER, "uptime"),
    ):  # fmt: skip
        await chain.give_feedback(agent, value, decimals, tag1=tag, client=client)
    await chain.revoke_feedback(agent, 3, client=OTHER)
    await chain.append_response(agent, 1, "ipfs://answer")
    await chain.request_validation(agent, "ipfs://request", REQUEST_HASH)
    await chain.respond_validation(REQUEST_HASH, 0, tag="hard")
    await index(house)
    return agent


async def get(api: Api, path: str, key: str | None = None) -> Any:
    answer = await api.ask("GET", f"/api/v1{path}", key=key)
    assert answer.status == 200, answer.body
    return answer.json()


async def test_an_agent_is_shown_with_all_that_is_said_of_it(api: Api, chain: LocalChain, told: int) -> None:
    agent = await get(api, f"/agents/{chain.chain_id}/{told}")

    assert agent["registry_id"] == f"eip155:{chain.chain_id}:{chain.identity}"
    assert (agent["agent_id"], agent["owner"], agent["agent_wallet"]) == (str(told), OWNER, OWNER)
    assert agent["registered_at"].endswith("Z")
    assert agent["followed"] is None
    assert {one["key"]: one["text"] for one in agent["metadata"]}["name"] == "Weather bot"
    assert {name: agent["feedback"][name] for name in ("count", "active", "revoked", "clients")} == {
        "count": 5, "active": 4, "revoked": 1, "clients": 2,
    }  # fmt: skip
    assert agent["feedback"]["by_tag1"][0]["mean"] == "4" + "9" * 37 + ".625"
    assert agent["validations"] == {"requests": 1, "answered": 1, "average": "0"}
    assert agent["as_of"]["block_number"] == await chain.head()

    (listed,) = (await get(api, "/agents?search=weath"))["data"]
    assert listed == {name: agent[name] for name in listed}


async def test_feedback_and_validations_are_listed(api: Api, chain: LocalChain, told: int) -> None:
    base = f"/agents/{chain.chain_id}/{told}"
    feedback = (await get(api, f"{base}/feedback"))["data"]
    assert [one["value_raw"] for one in feedback] == ["7", "0", "-75", str(LARGEST)]
    assert feedback[2]["score"] == "-0.75"
    assert [one["response_uri"] for one in feedback[3]["responses"]] == ["ipfs://answer"]
    assert feedback[0]["tx_hash"].startswith("0x")
    assert feedback[0]["timestamp"].endswith("Z")
    assert len((await get(api, f"{base}/feedback?include_revoked=true&client={OTHER}"))["data"]) == 3

    (validation,) = (await get(api, f"{base}/validations?validator={VALIDATOR}"))["data"]
    assert validation["request_hash"] == "0x" + REQUEST_HASH.hex()
    assert [one["response"] for one in validation["responses"]] == [0]
    summary = await get(api, f"{base}/validations/summary")
    assert (summary["count"], summary["average_response"]) == ("1", 0)


async def test_reputation_is_what_the_contract_says(api: Api, chain: LocalChain, told: int) -> None:
    lists = ([CLIENT], [OTHER], [CLIENT, OTHER, OTHER], [OWNER], [OTHER, CLIENT])
    for clients in lists:
        for tag in ("", "uptime", "Uptime"):
            said = await chain.read(chain.reputation_call("getSummary", told, clients, tag, ""))
            path = f"/agents/{chain.chain_id}/{told}/reputation"
            answer = await get(api, f"{path}?clients={','.join(clients)}&tag1={tag}")
            posted = await api.ask("POST", f"/api/v1{path}", json={"clients": clients, "tag1": tag})
            found = (int(answer["count"]), int(answer["summary_value"]), answer["summary_value_decimals"])
            assert found == tuple(said), (clients, tag)
            assert posted.json() == answer
            assert (answer["basis"], answer["clients_count"]) == ("listed", len(clients))
    everybody = await get(api, f"/agents/{chain.chain_id}/{told}/reputation?clients=all")
    assert (everybody["basis"], everybody["clients_count"]) == ("all", 2)
    assert everybody["summary_value_decimals"] == 18


async def test_the_indexer_tells_how_far_it_is_and_what_it_found(api: Api, chain: LocalChain, told: int) -> None:
    status = await get(api, "/indexer/status")
    counts = await get(api, "/indexer/events")
    shown = await get(api, f"/chains/{chain.chain_id}")

    assert status == await get(api, "/ponder/status")
    assert counts == await get(api, "/ponder/events")
    (one,) = status["chains"]
    assert (status["status"], one["is_synced"], one["current_block"]) == ("healthy", True, await chain.head())
    found = {count["event_name"]: count["count"] for count in counts["events"]}
    assert (found["NewFeedback"], found["Registered"], found["ValidationResponse"]) == (5, 1, 1)
    assert counts["total_types"] == len(found)
    assert status["total_events"] == shown["total_events"] == sum(found.values())
    assert shown["last_event_at"] == status["last_activity_at"]
    assert shown["last_event_at"].endswith("Z")


async def test_who_asks_is_told_which_agents_she_follows(api: Api, chain: LocalChain, told: int, key: str) -> None:
    path = f"/agents/{chain.chain_id}/{told}"
    assert (await get(api, path, key))["followed"] is False
    hook = {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9/"}}
    made = await api.ask(
        "POST", f"/api/v1/agents/{told}/follow", key=key, json={"chain_id": chain.chain_id, "actions": [hook]}
    )
    assert made.status == 201, made.body

    assert (await get(api, path, key))["followed"] is True
    assert (await get(api, "/agents", key))["data"][0]["followed"] is True


REFUSED = [
    ("/agents?limit=0", "query.limit"),
    ("/agents?limit=101", "query.limit"),
    ("/agents?offset=100001", "query.offset"),
    ("/agents?cursor=altered", "query.cursor"),
    ("/agents?cursor=x&offset=1", "query.cursor"),
    ("/agents?chain_id=0", "query.chain_id[0]"),
    ("/agents?owner=0x12", "query.owner"),
    ("/agents?wallet=x", "query.wallet"),
    ("/agents?search=a", "query.search"),
    ("/agents?search=a%00b", "query.search"),
    ("/agents?tag=", "query.tag"),
    ("/agents?min_score=1", "query.min_score"),
    ("/agents?tag=a&min_score=1e5", "query.min_score"),
    ("/agents?tag=a&min_score=" + "9" * 400, "query.min_score"),
    ("/agents?registered_since=yesterday", "query.registered_since"),
    ("/agents?sort=size", "query.sort"),
    ("/agents?has_feedback=maybe", "query.has_feedback"),
    ("/agents/1/1/feedback?client=x", "query.client"),
    ("/agents/1/1/feedback?order=up", "query.order"),
    ("/agents/1/1/validations?answered=2", "query.answered"),
    ("/agents/1/1/validations?validator=x", "query.validator"),
    ("/agents/1/1/reputation", "query.clients"),
    ("/agents/1/1/reputation?clients=,", "query.clients"),
    ("/agents/1/1/reputation?clients=x", "query.clients[0]"),
    ("/agents/1/1/reputation?clients=" + ",".join([OTHER] * 101), "query.clients"),
    ("/agents/1/1/validations/summary?validators=x", "query.validators[0]"),
]


async def test_what_cannot_be_read_is_refused_by_name(api: Api) -> None:
    for path, field in REFUSED:
        answer = await api.ask("GET", f"/api/v1{path}")
        assert (answer.status, answer.json()["error"]) == (422, "validation_error"), path
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    bodies: list[Any] = [
        {},
        {"clients": []},
        {"clients": "some"},
        {"clients": [OTHER] * 1001},
        {"clients": [1]},
        {"x": 1},
    ]
    for body in bodies:
        assert (await api.ask("POST", "/api/v1/agents/1/1/reputation", json=body)).status == 422, body


async def test_an_agent_that_is_not_there_is_not_found(api: Api) -> None:
    for agent in ("1/1", "0/1", "x/1", "1/x", "1/01", "1/-1", f"1/{2**256}", f"{10**400}/1", f"1/{2**256 - 1}"):
        for path in PATHS:
            answer = await api.ask("GET", f"/api/v1/agents/{agent}{path}")
            assert (answer.status, answer.json()["error"]) == (404, "not_found"), (agent, path)
    answer = await api.ask("POST", "/api/v1/agents/1/1/reputation", json={"clients": "all"})
    assert answer.status == 404


async def test_before_anything_is_read_the_indexer_is_initializing(api: Api) -> None:
    assert (await get(api, "/indexer/status"))["status"] == "initializing"
    assert await get(api, "/indexer/events") == {"events": [], "total_types": 0}
