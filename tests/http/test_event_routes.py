"""Routes about chains and events: public facts."""

from __future__ import annotations

from decimal import Decimal

from agentauri.database import Database
from support.events import CHAIN, make_log, record

from .conftest import Api

CLIENT = "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359"
CHECKSUMMED = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"


async def store_three(database: Database) -> None:
    async with database.transaction() as tx:
        await record(
            tx,
            make_log(
                "0x" + "1" * 64,
                block=10,
                agent_id=2**255,
                client_address=CLIENT,
                value_raw=-9977,
                value_decimals=2,
                score=Decimal("-99.77"),
                feedback_index=2**63,
                tag1="",
                args={"agentId": "1"},
            ),
            make_log("0x" + "2" * 64, block=11, agent_id=0, tag1="uptime"),
            make_log("0x" + "3" * 64, block=12, registry="identity", event_type="Registered"),
        )


async def ids(api: Api, query: str) -> list[str]:
    answer = await api.ask("GET", f"/api/v1/events?{query}")
    assert answer.status == 200, answer.body
    return [event["tx_hash"][2:3] for event in answer.json()["data"]]


async def test_known_chains_are_listed_and_shown(api: Api) -> None:
    listed = (await api.ask("GET", "/api/v1/chains?limit=2")).json()
    assert len(listed["data"]) == 2
    assert listed["pagination"]["has_more"]
    chain = listed["data"][0]
    assert (await api.ask("GET", f"/api/v1/chains/{chain['chain_id']}")).json() == chain
    assert chain["status"] == "disabled"
    assert {"identity", "reputation"} <= chain["registries"].keys()


async def test_an_unknown_chain_is_not_found(api: Api) -> None:
    for chain_id in ("2", "x", "01", "-1", "9" * 400):
        assert (await api.ask("GET", f"/api/v1/chains/{chain_id}")).status == 404


async def test_an_event_shows_its_numbers_as_text_and_only_the_data_that_it_has(api: Api, database: Database) -> None:
    await store_three(database)
    event = (await api.ask("GET", f"/api/v1/events/reputation-{CHAIN}-0x{'1' * 64}-0")).json()
    assert event["agent_id"] == str(2**255)
    assert event["data"] == {
        "client_address": CLIENT,
        "value_raw": "-9977",
        "value_decimals": 2,
        "score": "-99.77",
        "feedback_index": str(2**63),
        "tag1": "",
    }
    assert event["args"] == {"agentId": "1"}
    assert (event["block_number"], event["timestamp"]) == (10, 1_700_000_010)
    assert event["ingested_at"].endswith("Z")
    assert (event["finality"], event["retracted"]) == ("latest", False)


async def test_finality_follows_the_checkpoint(api: Api, database: Database) -> None:
    await store_three(database)
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, head_number,
                                        safe_number, finalized_number, first_block, status)
               VALUES ($1, 12, '0x', 0, 12, 11, 10, 0, 'live')""",
            CHAIN,
        )
    events = (await api.ask("GET", "/api/v1/events?order=asc")).json()["data"]
    assert [event["finality"] for event in events] == ["finalized", "safe", "latest"]


async def test_events_are_filtered(api: Api, database: Database) -> None:
    await store_three(database)
    assert await ids(api, "") == ["3", "2", "1"]
    assert await ids(api, "order=asc") == ["1", "2", "3"]
    assert await ids(api, "agent_id=0") == ["2"]
    assert await ids(api, f"agentId={2**255}") == ["1"]
    assert await ids(api, f"client={CLIENT}") == ["1"]
    assert await ids(api, f"client={CHECKSUMMED}") == ["1"]
    assert await ids(api, "registry=identity&registry=validation") == ["3"]
    assert await ids(api, "eventType=Registered") == ["3"]
    assert await ids(api, "tag1=uptime") == ["2"]
    assert await ids(api, f"tx_hash=0x{'2' * 64}") == ["2"]
    assert await ids(api, f"chainId={CHAIN}&from_block=11&to_block=11") == ["2"]
    assert await ids(api, "from_time=1700000011&to_time=1700000012") == ["2"]
    assert await ids(api, "from_time=2023-11-14T22:13:31Z&to_time=2023-11-14T22:13:32Z") == ["2"]
    assert await ids(api, "search=uptime") == ["2"]
    assert await ids(api, "chain_id=1") == []


async def test_retracted_events_are_shown_to_who_asks(api: Api, database: Database) -> None:
    await store_three(database)
    async with database.transaction() as tx:
        await api.house.events.retract_above(tx, CHAIN, 11)
    assert await ids(api, "") == ["2", "1"]
    assert await ids(api, "include_retracted=true") == ["3", "2", "1"]
    assert (await api.ask("GET", f"/api/v1/events/reputation-{CHAIN}-0x{'3' * 64}-0")).json()["retracted"] is True


async def test_a_list_pages_by_offset_page_and_cursor(api: Api, database: Database) -> None:
    await store_three(database)
    first = (await api.ask("GET", "/api/v1/events?limit=2")).json()
    assert first["pagination"] == {
        "total": 3,
        "limit": 2,
        "offset": 0,
        "has_more": True,
        "next_cursor": first["pagination"]["next_cursor"],
    }
    assert await ids(api, "limit=2&offset=2") == await ids(api, "limit=2&page=2") == ["1"]
    after = (await api.ask("GET", f"/api/v1/events?limit=2&cursor={first['pagination']['next_cursor']}")).json()
    assert [event["tx_hash"][2] for event in after["data"]] == ["1"]
    assert after["pagination"] | {"total": 3} == {
        "total": 3,
        "limit": 2,
        "offset": None,
        "has_more": False,
        "next_cursor": None,
    }


REFUSED = [
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=x", "limit"),
    ("offset=-1", "offset"),
    ("offset=100001", "offset"),
    ("page=0", "page"),
    ("page=100000", "page"),
    ("offset=1&page=2", "offset"),
    ("cursor=x&offset=1", "cursor"),
    ("cursor=altered", "cursor"),
    ("chain_id=0", "chain_id[0]"),
    ("registry=other", "registry[0]"),
    ("event_type=Unknown", "event_type"),
    ("agent_id=-1", "agent_id"),
    ("agent_id=007", "agent_id"),
    (f"agent_id={2**256}", "agent_id"),
    ("agent_id=" + "9" * 400, "agent_id"),
    ("client=0x12", "client"),
    (f"client={CHECKSUMMED.replace('fB', 'Fb')}", "client"),
    ("owner=x", "owner"),
    ("tx_hash=0x1", "tx_hash"),
    ("from_block=1", "chain_id"),
    ("from_block=1&chain_id=1&chain_id=2", "chain_id"),
    ("from_block=-1&chain_id=1", "from_block"),
    ("from_time=yesterday", "from_time"),
    ("from_time=2026-01-01", "from_time"),
    ("from_time=253402300800", "from_time"),
    ("search=a", "search"),
    ("search=" + "a" * 101, "search"),
    ("sort=size", "sort"),
    ("order=up", "order"),
    ("include_retracted=maybe", "include_retracted"),
    ("tag1=a%00b", "tag1"),
]


async def test_a_value_outside_its_set_is_refused_by_name(api: Api) -> None:
    for query, field in REFUSED:
        answer = await api.ask("GET", f"/api/v1/events?{query}")
        assert (answer.status, answer.json()["error"]) == (422, "validation_error"), query
        assert [error["field"] for error in answer.json()["errors"]] == [f"query.{field}"]


async def test_per_cent_signs_in_a_search_are_letters_like_others(api: Api) -> None:
    for search in ("%25%25", "100%25", "__", "'; DROP", "\\\\", "a%26b"):
        assert (await api.ask("GET", f"/api/v1/events?search={search}")).status == 200


async def test_an_event_that_is_not_there_is_not_found(api: Api) -> None:
    for event_id in ("x", "a" * 201, "a\0b", "ü"):
        answer = await api.ask("GET", f"/api/v1/events/{event_id}")
        assert (answer.status, answer.json()["error"]) == (404, "not_found")
