"""Lists of events: filters, words, pages that neither repeat nor skip."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agentauri.database import Database, Transaction
from agentauri.errors import Invalid
from agentauri.events import EventFilter, EventNotFound, EventService, listing
from agentauri.paging import COUNTED, SearchTooSlow, write_cursor
from agentauri.types import ChainId, EventId, Page
from support.events import insert_by_hand

events = EventService()
ADDRESS, OTHER, HASH = "0x" + "ab" * 20, "0x" + "cd" * 20, "0x" + "ef" * 32


async def ids(tx: Transaction, **wanted: Any) -> list[str]:
    return [event.id for event in (await events.search(tx, EventFilter(**wanted), Page())).data]


async def test_an_unknown_event_is_not_found(tx: Transaction) -> None:
    with pytest.raises(EventNotFound):
        await events.get(tx, EventId("none"))


@pytest.mark.parametrize(
    ("wanted", "columns", "others"),
    [
        ({"chain_ids": (ChainId(1), ChainId(2))}, {"chain_id": 2}, {"chain_id": 3}),
        ({"registries": ("validation",)}, {"registry": "validation"}, {"registry": "identity"}),
        ({"event_types": ("Registered",)}, {"event_type": "Registered"}, {"event_type": "Transfer"}),
        ({"agent_id": 2**256 - 1}, {"agent_id": 2**256 - 1}, {"agent_id": 1}),
        ({"agent_id": 0}, {"agent_id": 0}, {}),
        ({"client": ADDRESS}, {"client_address": ADDRESS}, {"client_address": OTHER}),
        ({"owner": ADDRESS}, {"owner": ADDRESS}, {"owner": OTHER}),
        ({"validator": ADDRESS}, {"validator_address": ADDRESS}, {}),
        ({"tag1": "a" * 300}, {"tag1": "a" * 300}, {"tag1": "a" * 299}),
        ({"tag2": ""}, {"tag2": ""}, {}),
        ({"transaction_hash": HASH}, {"transaction_hash": HASH}, {}),
        ({"from_block": 5, "to_block": 5}, {"block_number": 5}, {"block_number": 6}),
        ({"from_time": 50, "to_time": 50}, {"timestamp": 50}, {"timestamp": 49}),
        ({}, {}, {"retracted_at": datetime(2026, 1, 1, tzinfo=UTC)}),
    ],
)
async def test_a_filter_keeps_what_fits(
    tx: Transaction, wanted: dict[str, Any], columns: dict[str, Any], others: dict[str, Any]
) -> None:
    await insert_by_hand(tx, "fits", **columns)
    await insert_by_hand(tx, "does not", **others)
    assert await ids(tx, **wanted) == ["fits"]


@pytest.mark.parametrize(
    ("columns", "found", "missed"),
    [
        ({"tag1": "Response-Time"}, ["time", "RESP ti", "response-time", "resp"], ["onse", "time late", "x"]),
        (
            {"token_uri": "https://agents.example.com/v1/card_7.json?q=ä"},
            ["example", "card 7", "agents.example", "ä"],
            [],
        ),
        ({"endpoint": "mcp"}, ["MCP", "newfeed", "newFeedback mcp"], ["feedback"]),
        ({"owner": ADDRESS}, [ADDRESS, "0x" + "AB" * 20], [OTHER]),
        ({"transaction_hash": HASH}, [HASH], []),
        ({"agent_id": 42}, ["42"], ["4"]),
        ({"tag2": "it's 'quoted' & (odd) | !"}, ["quoted", "'it", "s odd &", "it's"], ["!odder"]),
        ({}, ["the-id/of it"], ["the", "id"]),
    ],
)
async def test_search_finds_beginnings_of_words_ids_and_addresses(
    tx: Transaction, columns: dict[str, Any], found: list[str], missed: list[str]
) -> None:
    await insert_by_hand(tx, "the-id/of it", **columns)
    for text in found:
        assert await ids(tx, search=text) == ["the-id/of it"], text
    for text in missed:
        assert await ids(tx, search=text) == [], text


@pytest.mark.parametrize("text", ["--", "'", "\\", "a:*", "& |", "x" * 100, "日本", "\x01 \x02"])
async def test_no_text_breaks_the_search(tx: Transaction, text: str) -> None:
    assert await ids(tx, search=text) == []


async def test_a_search_uses_the_index_of_words(tx: Transaction) -> None:
    await tx.run("SET LOCAL enable_seqscan = off")
    plan = await tx.fetch(
        """EXPLAIN SELECT seq FROM events WHERE id = 'x' OR event_words(event_type, tag1, tag2, tag, endpoint,
               token_uri, file_uri, response_uri, request_uri) @@ to_tsquery('simple', '''x'':*')"""
    )
    assert "events_words" in "\n".join(row[0] for row in plan)


async def walk(tx: Transaction, wanted: EventFilter, limit: int, meanwhile: bool = False) -> list[str]:
    seen: list[str] = []
    cursor = None
    for step in range(100):
        page = await events.search(tx, wanted, Page(limit=limit, cursor=cursor))
        seen += [event.id for event in page.data]
        assert page.has_more == (page.next_cursor is not None)
        if page.next_cursor is None:
            return seen
        cursor = page.next_cursor
        if meanwhile:
            await insert_by_hand(tx, f"newer-{step}", timestamp=10_000 + step)
            await insert_by_hand(tx, f"older-{step}", timestamp=-step)
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("sort", ["time", "ingested"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_by_cursor_neither_repeat_nor_skip(tx: Transaction, sort: Any, order: Any) -> None:
    times = [5, 3, 3, 3, 9, 1, 3, 5]
    for number, time in enumerate(times):
        await insert_by_hand(tx, f"e{number}", timestamp=time)
    key = (lambda n: (times[n], n)) if sort == "time" else (lambda n: (n,))
    expected = [f"e{n}" for n in sorted(range(len(times)), key=key, reverse=order == "desc")]
    wanted = EventFilter(sort=sort, order=order)

    for limit in (1, 3, 8):
        assert await walk(tx, wanted, limit) == expected
    seen = await walk(tx, wanted, 3, meanwhile=True) if (sort, order) != ("ingested", "asc") else expected
    assert [event for event in seen if event in expected] == expected


async def test_a_cursor_of_another_list_or_of_nobody_is_refused(tx: Transaction) -> None:
    for number in range(3):
        await insert_by_hand(tx, f"e{number}")
    cursor = (await events.search(tx, EventFilter(), Page(limit=1))).next_cursor
    assert cursor is not None
    altered = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    for wanted, text in (
        (EventFilter(order="asc"), cursor),
        (EventFilter(), altered),
        (EventFilter(), ""),
        (EventFilter(), "é"),
    ):
        with pytest.raises(Invalid) as refused:
            await events.search(tx, wanted, Page(cursor=text))
        assert [error.field for error in refused.value.errors] == ["query.cursor"]


async def test_a_list_of_an_agent_pages_however_large_its_number(tx: Transaction) -> None:
    for number in range(3):
        await insert_by_hand(tx, f"e{number}", agent_id=2**256 - 1)

    assert await walk(tx, EventFilter(agent_id=2**256 - 1), 1) == ["e2", "e1", "e0"]


@pytest.mark.parametrize("key", [(2**63, 1), (1, 2**63), (1, -1), ("1", 1), (1,)])
async def test_a_forged_cursor_is_refused(tx: Transaction, key: tuple[object, ...]) -> None:
    with pytest.raises(Invalid):
        await events.search(tx, EventFilter(), Page(cursor=write_cursor(key, EventFilter())))


async def test_pages_by_offset_and_the_total(tx: Transaction) -> None:
    for number in range(5):
        await insert_by_hand(tx, f"e{number}", timestamp=number)
    page = await events.search(tx, EventFilter(), Page(limit=2, offset=2))
    assert [event.id for event in page.data] == ["e2", "e1"]
    assert (page.total, page.total_is_exact, page.has_more) == (5, True, True)


async def test_a_total_is_counted_so_far_and_no_further(tx: Transaction) -> None:
    insert = """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                                    event_type, timestamp)
                SELECT 'e' || n, 1, 1, '0xb', '0xt', 0, 'identity', 'Registered', 1
                FROM generate_series($1::int, $2) n"""
    await tx.run(insert, 1, COUNTED)
    page = await events.search(tx, EventFilter(), Page(limit=1))
    assert (page.total, page.total_is_exact) == (COUNTED, True)
    await tx.run(insert, COUNTED + 1, COUNTED + 1)
    page = await events.search(tx, EventFilter(), Page(limit=1))
    assert (page.total, page.total_is_exact) == (COUNTED, False)


async def test_a_search_that_takes_too_long_is_given_up(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    await tx.run(
        """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                               event_type, timestamp, tag1)
           SELECT 'e' || n, 1, 1, '0xb', '0xt', 0, 'identity', 'Registered', 1, 'common'
           FROM generate_series(1, 5000) n"""
    )
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.001)
    with pytest.raises(SearchTooSlow):
        await ids(tx, search="common")


async def test_a_list_that_no_index_helps_to_find_is_given_up(tx: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    await tx.run(
        """INSERT INTO events (id, chain_id, block_number, block_hash, transaction_hash, log_index, registry,
                               event_type, timestamp)
           SELECT 'e' || n, 1, 1, '0xb', '0xt', 0, 'identity', 'Registered', 1 FROM generate_series(1, 20000) n"""
    )
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.001)
    with pytest.raises(SearchTooSlow):
        await ids(tx, from_block=2)


async def test_a_list_by_arrival_ends_before_a_number_that_may_yet_be_filled(database: Database) -> None:
    async def seen() -> list[str]:
        async with database.transaction() as tx:
            return await ids(tx, sort="ingested", order="asc")

    async with database.transaction() as tx:
        await insert_by_hand(tx, "first")
    async with database.transaction() as slow:
        await insert_by_hand(slow, "late")
        async with database.transaction() as tx:
            await insert_by_hand(tx, "early")
        assert await seen() == ["first"]
    assert await seen() == ["first", "late", "early"]


async def test_a_gap_that_nobody_can_fill_any_more_is_passed(database: Database) -> None:
    async with database.transaction() as tx:
        await insert_by_hand(tx, "first")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await insert_by_hand(tx, "undone")
            raise ZeroDivisionError
    async with database.transaction() as tx:
        await insert_by_hand(tx, "second")
        assert await ids(tx, sort="ingested", order="asc") == ["first", "second"]
