"""`agentauri trigger …`: what an operator types to learn why, and what if; on real stores, through the command."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agentauri import trigger_views as views
from agentauri.actions import ActionDraft
from agentauri.app import Application, Stores, assemble
from agentauri.cli import main
from agentauri.config import Config, DatabaseConfig, RedisConfig
from agentauri.triggers import Day, Traced, TriggerDraft
from agentauri.types import Secret, UserId
from support.console import Command
from support.events import insert_by_hand
from support.processes import Nursery, until

SCORE = {"condition_type": "score_threshold", "operator": "<", "value": "40"}
HOOK: dict[str, Any] = {"action_type": "webhook", "config": {"url": "http://127.0.0.1:9/hook"}}
DRAFT: dict[str, Any] = {"name": "low", "conditions": [SCORE], "actions": [HOOK]}
DAY = 86_400
NOON = 1_700_049_600 - DAY  # 2023-11-14 12:00 UTC


@pytest.fixture
async def trigger(config: Config, database_settings: DatabaseConfig, redis_url: str) -> AsyncIterator[str]:
    """One that tells of scores below 40; its chain brought 10, 90 and 20, each a day and a block after the last."""
    stores = Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)
    async with assemble(config, stores) as app:
        draft = TriggerDraft(
            name="low", conditions=[SCORE], actions=[ActionDraft(action_type="webhook", config=HOOK["config"])]
        )
        prepared = await app.triggers.prepare(draft)
        async with app.database.transaction() as tx:
            owner = await app.organizations.find_or_create(tx, "acme")
            made = await app.triggers.create(tx, owner.id, UserId(owner.owner_id), prepared)
        await happen(app)
        yield str(made.id)


async def happen(app: Application) -> None:
    async with app.database.transaction() as tx:
        for number, score in enumerate((10, 90, 20)):
            about: dict[str, Any] = {"agent_id": 7, "score": score, "timestamp": NOON + number * DAY}
            await insert_by_hand(tx, f"event-{number}", block_number=number, **about)
    while await app.evaluator.step():
        pass


def file(folder: Path, document: object) -> str:
    path = folder / "draft.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


async def test_explain_draws_the_condition_and_says_where_the_delivery_stands(agentauri: Command, trigger: str) -> None:
    low = await agentauri("trigger", "explain", trigger, "--event", "event-0")
    high = await agentauri("trigger", "explain", trigger, "--event", "event-1")
    as_json = json.loads(await agentauri("trigger", "explain", trigger, "--event", "event-1", "--json"))

    assert "It matches (as the match recorded it)." in low
    assert "└─ ✓ score_threshold score < 40; is 10\n" in low
    assert "action 1  pending" in low
    assert "It does not match (found out again from the stored events)." in high
    assert "└─ ✗ score_threshold score < 40; is 90\n" in high
    assert (as_json["matched"], as_json["explanation"]["tree"]["children"][0]["actual"]) == (False, "90")


async def test_a_draft_meets_the_event_that_is_made_up_for_it(agentauri: Command, trigger: str, tmp_path: Path) -> None:
    sample = tmp_path / "sample.json"
    sample.write_text('{"event_type": "NewFeedback", "agent_id": "9", "data": {"score": "12.5"}}')
    asked = ("trigger", "test", "--draft", file(tmp_path, DRAFT))

    newest = await agentauri(*asked)
    made_up = json.loads(await agentauri(*asked, "--sample", str(sample), "--json"))

    assert "Event event-2: NewFeedback on chain 84532 (stored)" in newest
    assert "webhook would send\n  method: POST\n  url: http://127.0.0.1:9/hook\n" in newest
    assert (made_up["event_source"], made_up["event"]["score"], made_up["matched"]) == ("sample", "12.5", True)
    assert '"score":"12.5"' in made_up["actions"][0]["rendered"]["body"]


async def test_a_backtest_plots_its_days_and_tells_what_a_draft_changes(
    agentauri: Command, trigger: str, tmp_path: Path
) -> None:
    stricter = file(tmp_path, DRAFT | {"conditions": [SCORE | {"value": "15"}]})

    saved = await agentauri("trigger", "backtest", trigger)
    both = await agentauri("trigger", "backtest", trigger, "--draft", stricter)
    part = await agentauri(
        "trigger",
        "backtest",
        trigger,
        "--chain",
        "84532",
        "--from-block",
        "1",
        "--until",
        "2023-11-16T12:00:01",
        "--json",
    )

    assert "3 events read in" in saved
    assert "2 matches, 0 of them within the cooldown; 2 deliveries" in saved
    bars = [line for line in saved.splitlines() if line.startswith("2023-")]
    assert [(bar[:10], bar.count("█") > 0) for bar in bars] == [
        ("2023-11-14", True), ("2023-11-15", False), ("2023-11-16", True),
    ]  # fmt: skip
    assert "Against the saved trigger: 0 events more, 1 events less" in both
    assert (json.loads(part)["events_scanned"], json.loads(part)["matches"]) == (2, 1)


async def test_a_refused_draft_is_named_by_its_path(
    nursery: Nursery, installation: dict[str, str], tmp_path: Path
) -> None:
    bad = file(tmp_path, DRAFT | {"conditions": [SCORE | {"value": "low"}]})
    child = nursery.start(["trigger", "test", "--draft", bad], installation, tmp_path / "refused.log")

    assert await child.ended() == 1
    assert child.log.read_text().splitlines() == [
        "1 field was refused.", "  conditions[0].value: must be a decimal number of at most 78 digits",
    ]  # fmt: skip


async def test_ctrl_c_ends_a_backtest_in_the_middle_with_one_sentence(
    nursery: Nursery, installation: dict[str, str], trigger: str, tmp_path: Path, config: Config,
    database_settings: DatabaseConfig, redis_url: str,
) -> None:  # fmt: skip
    stores = Stores(database_settings, RedisConfig(url=Secret(redis_url)), None)
    async with assemble(config, stores) as app, app.database.transaction() as tx, app.database.outside() as other:
        await tx.run("LOCK TABLE events")
        child = nursery.start(["trigger", "backtest", trigger], installation, tmp_path / "stopped.log")

        async def waits() -> bool:
            return bool(await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await until(waits, 30, "the backtest to wait for the events")
        child.signal(signal.SIGINT)
        code = await child.ended()

    assert code == 130
    assert child.log.read_text().strip() == "Stopped. Nothing was sent or stored."


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain", "t"], "Missing option '--event'"),
        (["test"], "name either a trigger or --draft"),
        (["test", "t", "--event", "e", "--sample", "-"], "name either --event or --sample"),
        (["backtest"], "name a trigger, --draft or both"),
        (["backtest", "t", "--from-block", "3"], "need --chain"),
        (["backtest", "t", "--since", "soon"], "'soon' does not match the formats"),
        (["backtest", "--draft", "/nowhere/draft.json"], "No such file or directory"),
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_started(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["trigger", *arguments])
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_plot_of_years_has_few_bars_and_loses_no_match() -> None:
    days = [Day("2024-02-29", 1), Day("2025-02-28", 3), Day("2025-03-01", 400)]

    head, *bars = views.plot(days, 80)

    assert head == "Matches per 10 days, by the first of them"
    assert len(bars) <= views.ROWS
    assert bars[0] == "2024-02-29  ▏ 1"
    assert bars[-1].count("█") == 80 - views.LABEL
    assert sum(int(bar.rsplit(None, 1)[1]) for bar in bars) == 404


def test_text_of_a_chain_cannot_move_the_cursor() -> None:
    leaf = Traced(node="leaf", result=False, condition_type="field", field="tag1", actual="\x1b[2Jred\r\u202e")
    [line] = views.tree(leaf)
    assert click.unstyle(line) == "✗ field tag1; is \ufffd[2Jred\ufffd\ufffd"
