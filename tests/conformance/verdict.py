"""Whether what is stored is what an independent replay of the chain says."""

from __future__ import annotations

from typing import Any

import msgspec

from agentauri.database import Database
from chains.driving import checkpoint
from chains.projections import fold, in_order
from chains.replay import Replay, replay
from chains.under_test import FINALITY, ChainUnderTest

Rows = list[dict[str, Any]]


async def assert_replayed(database: Database, chain: ChainUnderTest, chain_id: int = 84532) -> Replay:
    """Events, raw logs, retractions, checkpoint and anchors are those of the chain as its node now tells it.

    Nothing may have been settled: whatever a transaction went through, each of its logs is one row.
    """
    truth = await replay(chain.url, chain_id)
    events = await _rows(database, "events", chain_id, "ORDER BY block_number, log_index")
    raw = await _rows(database, "raw_logs", chain_id, "ORDER BY block_number, log_index")
    anchors = await _rows(database, "block_anchors", chain_id)
    _compare_logs(_as_replayed(events), truth.events)
    renamed = [{**row, "contract_address": row["address"], "timestamp": row["block_time"]} for row in raw]
    _compare_logs(renamed, truth.raw)
    for row in events:
        assert row["id"].startswith(f"{row['registry']}-{chain_id}-{row['transaction_hash']}-"), row["id"]
    await _compare_place(database, truth, anchors, chain_id)
    await _compare_projections(database, truth, chain_id)
    return truth


def _compare_logs(stored: Rows, told: Rows) -> None:
    """Those that stand are those of the chain, column by column; none that is marked as taken back is on it, and none
    is there twice."""
    names = list(told[0]) if told else []
    standing = [{name: row[name] for name in names} for row in stored if row["retracted_at"] is None]
    for mine, theirs in zip(standing, told, strict=False):
        assert mine == theirs
    assert len(standing) == len(told)
    on_chain = {_content(row) for row in told}
    assert [row for row in stored if row["retracted_at"] is not None and _content(row) in on_chain] == []
    assert len({_content(row) for row in stored}) == len(stored)


def _content(row: dict[str, Any]) -> tuple[object, ...]:
    return row["transaction_hash"], row["contract_address"], row["topics"], row["data"]


def _as_replayed(events: Rows) -> Rows:
    return [{**row, "args": msgspec.json.decode(row["args"])} for row in events]


async def _compare_place(database: Database, truth: Replay, anchors: Rows, chain_id: int) -> None:
    head = truth.blocks[-1]
    place = await checkpoint(database, chain_id)
    last = (place["last_block_number"], place["last_block_hash"], place["last_block_time"])
    assert last == (head.number, head.hash, head.time)
    assert (place["status"], place["head_number"]) == ("live", head.number)
    told = {block.number: (block.hash, block.time) for block in truth.blocks}
    for anchor in anchors:
        assert (anchor["block_hash"], anchor["block_time"]) == told[anchor["block_number"]]
    remembered = {anchor["block_number"] for anchor in anchors}
    assert {head.number, *(block.number for block in truth.blocks if block.logs)} <= remembered
    assert set(range(max(0, head.number - 31), head.number + 1)) <= remembered
    final = place["finalized_number"]
    assert final is None or final <= max(head.number, final - FINALITY)


async def _compare_projections(database: Database, truth: Replay, chain_id: int) -> None:
    for table, told in fold(truth.events).items():
        names = sorted(told[0]) if told else []
        kept = [row for row in await _rows(database, table, chain_id) if row.get("count") != 0]  # a kind once seen
        stored = [{name: row[name] for name in names} for row in kept]
        assert in_order(stored) == in_order(told), table


async def _rows(database: Database, table: str, chain_id: int, order: str = "") -> Rows:
    async with database.transaction() as tx:
        return [dict(row) for row in await tx.fetch(f"SELECT * FROM {table} WHERE chain_id = $1 {order}", chain_id)]
