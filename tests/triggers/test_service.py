"""What callers ask of triggers, and what they are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentauri.actions import ActionDraft
from agentauri.breaker import BreakerConfig
from agentauri.database import Database, Transaction
from agentauri.errors import Invalid
from agentauri.triggers import (
    BreakerPatch,
    Evaluator,
    TriggerDetail,
    TriggerDraft,
    TriggerFilter,
    TriggerNotFound,
    TriggerPatch,
    TriggerService,
    UnsupportedChain,
)
from agentauri.types import ActionId, OrganizationId, Page, TriggerId, UserId
from triggers.making import agent, average, field, finish, insert_events, make_trigger, matches, window

OURS, THEIRS, USER = OrganizationId("org-1"), OrganizationId("org-2"), UserId("user-1")
HOOK = ActionDraft(action_type="webhook", config={"url": "http://127.0.0.1:9/hook"})


@pytest.fixture
def make(database: Database, service: TriggerService) -> Any:
    async def make_one(organization_id: OrganizationId = OURS, **fields: Any) -> TriggerDetail:
        wanted = {"name": "watch", "conditions": [agent(1)], "actions": [HOOK]} | fields
        prepared = await service.prepare(TriggerDraft(**wanted))
        async with database.transaction() as tx:
            return await service.create(tx, organization_id, USER, prepared)

    return make_one


@pytest.fixture
def change(database: Database, service: TriggerService) -> Any:
    async def change_it(trigger: TriggerDetail, **fields: Any) -> TriggerDetail:
        prepared = await service.prepare(TriggerPatch(**fields))
        async with database.transaction() as tx:
            return await service.update(tx, OURS, trigger.id, prepared)

    return change_it


async def test_a_trigger_is_made_whole_and_reads_as_it_was_made(
    database: Database, service: TriggerService, make: Any
) -> None:
    made = await make(
        name="  watch ", chain_id=84532, registry="reputation", conditions=[agent(1), {"any": [field("score", ">", 5)]}]
    )

    assert (made.name, made.status, made.version, made.match_all) == ("watch", "active", 1, False)
    [leaf, group] = made.conditions
    assert leaf["value"] == "1"
    assert leaf["trigger_id"] == made.id
    assert group["any"][0]["operator"] == ">"
    assert {leaf["id"], group["id"], group["any"][0]["id"]} == {1, 2, 3}
    assert made.actions[0].signing_secret is not msgspec.UNSET
    async with database.transaction() as tx:
        again = await service.get(tx, OURS, made.id)
        with pytest.raises(TriggerNotFound):
            await service.get(tx, THEIRS, made.id)
    assert again.actions[0].signing_secret is msgspec.UNSET
    assert again.conditions == msgspec.json.decode(msgspec.json.encode(made.conditions))


async def test_a_trigger_sees_what_happens_from_its_making_on(
    database: Database, evaluator: Evaluator, make: Any
) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, head_number,
                                        first_block, status, progressed_at, updated_at)
               VALUES (84532, 50, '0xc', 0, 1000, 0, 'backfill', now(), now())"""
        )
        seqs = await insert_events(tx, 1)
    trigger = await make()
    async with database.transaction() as tx:
        seqs += await insert_events(tx, 1, origin="chain", block_number=1000)
        seqs += await insert_events(tx, 1, origin="chain", block_number=1001)
        seqs += await insert_events(tx, 1, block_number=1)

    while await evaluator.step():
        pass

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == [(seqs[2], trigger.id), (seqs[3], trigger.id)]


async def begin_chain(tx: Transaction, last_block: int) -> None:
    await tx.run(
        """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block, status)
           VALUES (84532, $1, '0xc', 0, 0, 'starting')""",
        last_block,
    )


async def test_a_chain_of_which_nothing_was_read_yet_has_its_history_all_the_same(
    database: Database, evaluator: Evaluator, make: Any
) -> None:
    async with database.transaction() as tx:
        await begin_chain(tx, -1)
    trigger = await make()
    async with database.transaction() as tx:
        old, new = trigger.created_at.timestamp() - 3600, trigger.created_at.timestamp()
        seqs = await insert_events(tx, 1, origin="chain", timestamp=int(old))
        seqs += await insert_events(tx, 1, origin="chain", timestamp=int(new))
        await make_trigger(tx, [agent(1)], trigger_id="by-hand", start_blocks='{"84532": -1}')

    while await evaluator.step():
        pass

    async with database.transaction() as tx:
        assert await matches(tx, seqs) == sorted([(seqs[1], "by-hand"), (seqs[1], trigger.id)])


async def test_a_chain_that_begins_anew_has_no_block_that_is_a_triggers_past(
    database: Database, evaluator: Evaluator, make: Any
) -> None:
    async with database.transaction() as tx:
        await begin_chain(tx, 1000)
    trigger = await make()
    await evaluator.step()
    async with database.transaction() as tx:
        await tx.run("UPDATE checkpoints SET last_block_number = -1")
    async with database.transaction() as tx:
        await tx.run("UPDATE checkpoints SET last_block_number = 3")
        now = int(trigger.created_at.timestamp())
        [seq] = await insert_events(tx, 1, origin="chain", block_number=3, timestamp=now)

    while await evaluator.step():
        pass

    async with database.transaction() as tx:
        assert await matches(tx, [seq]) == [(seq, trigger.id)]


async def test_every_refused_field_is_named(service: TriggerService) -> None:
    with pytest.raises(Invalid) as refused:
        await service.prepare(
            TriggerDraft(
                name=" ",
                description="x" * 1001,
                chain_id=5,
                fire_at={"confirmations": 10_001},
                cooldown_seconds=2_592_001,
                dedupe_key="{{delivery_id}}",
                conditions=[{"any": []}],
                actions=[ActionDraft(action_type="webhook", config={})],
            )
        )

    assert [error.field for error in refused.value.errors] == [
        "name",
        "description",
        "chain_id",
        "fire_at",
        "cooldown_seconds",
        "dedupe_key",
        "conditions[0].any",
        "actions[0].config.url",
    ]


async def test_a_chain_that_is_not_ours_has_a_code_of_its_own(service: TriggerService) -> None:
    with pytest.raises(UnsupportedChain):
        await service.prepare(TriggerDraft(name="watch", chain_id=5))


async def test_an_event_can_only_be_named_of_the_own_registry(make: Any, change: Any) -> None:
    leaf = {"condition_type": "event_type_equals", "value": "Transfer"}
    with pytest.raises(Invalid):
        await make(registry="reputation", conditions=[leaf])
    trigger = await make(registry="identity", conditions=[leaf])
    with pytest.raises(Invalid, match="refused"):
        await change(trigger, registry="reputation")
    await change(trigger, registry="reputation", conditions=[leaf | {"value": "NewFeedback"}])


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "active"),
        ({"conditions": []}, "draft"),
        ({"actions": []}, "draft"),
        ({"actions": [msgspec.structs.replace(HOOK, enabled=False)]}, "draft"),
        ({"conditions": [], "match_all": True}, "active"),
        ({"enabled": False}, "disabled"),
    ],
)
async def test_status_says_whether_it_can_fire(make: Any, fields: dict[str, Any], status: str) -> None:
    assert (await make(**fields)).status == status


async def test_match_all_is_for_triggers_without_conditions(make: Any, change: Any) -> None:
    with pytest.raises(Invalid):
        await make(match_all=True)
    trigger = await make(conditions=[], match_all=True)
    assert (trigger.match_all, trigger.conditions) == (True, [])

    same = await change(trigger, match_all=True, conditions=[])
    assert (same.version, same.match_all) == (1, True)
    draft = await change(trigger, match_all=False)
    assert (draft.status, draft.match_all) == ("draft", False)
    with_condition = await change(trigger, conditions=[agent(1)])
    with pytest.raises(Invalid):
        await change(with_condition, match_all=True)
    assert (await change(trigger, match_all=True, conditions=[])).match_all


async def test_a_change_keeps_what_is_not_given_and_raises_the_version(make: Any, change: Any) -> None:
    trigger = await make(description="old", chain_id=1)

    changed = await change(trigger, description=None, name="new")

    assert (changed.name, changed.description, changed.chain_id, changed.version) == ("new", None, 1, 2)
    assert changed.conditions == trigger.conditions
    assert (await change(changed, name="new")).version == 2
    assert (await change(changed, conditions=changed.conditions)).version == 2


async def test_a_condition_with_a_known_id_keeps_it(make: Any, change: Any) -> None:
    trigger = await make(conditions=[agent(1), agent(2)])
    [first, second] = trigger.conditions

    changed = await change(trigger, conditions=[second, agent(3), first | {"value": "9"}])

    assert [item["id"] for item in changed.conditions] == [2, 3, 1]
    assert changed.conditions[0]["created_at"] == second["created_at"]
    assert changed.version == 2


async def test_an_action_that_is_left_out_goes_with_what_waits_for_it(
    database: Database, evaluator: Evaluator, make: Any, change: Any
) -> None:
    trigger = await make(actions=[HOOK, HOOK])
    async with database.transaction() as tx:
        [seq] = await insert_events(tx, 1)
    await evaluator.step()

    changed = await change(trigger, actions=[msgspec.structs.replace(HOOK, id=ActionId(trigger.actions[1].id))])

    assert [action.id for action in changed.actions] == [trigger.actions[1].id]
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT action_id, status, reason FROM deliveries WHERE event_seq = $1 ORDER BY 1", seq)
    assert [tuple(row) for row in rows] == [
        (trigger.actions[0].id, "skipped", "action_deleted"),
        (trigger.actions[1].id, "pending", None),
    ]


async def test_switching_off_keeps_deliveries_and_switching_on_lets_them_go(
    database: Database, evaluator: Evaluator, make: Any, change: Any
) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    await evaluator.step()

    await change(trigger, enabled=False)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT hold FROM deliveries") == "paused"
        [missed] = await insert_events(tx, 1)
    await change(trigger, enabled=True)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT hold FROM deliveries") is None
    while await evaluator.step():
        pass
    async with database.transaction() as tx:
        assert await matches(tx, [missed]) == []


async def test_switching_an_action_on_lets_what_waited_for_it_go(
    database: Database, evaluator: Evaluator, make: Any, change: Any
) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    await evaluator.step()
    action = msgspec.structs.replace(HOOK, id=ActionId(trigger.actions[0].id))
    await change(trigger, actions=[msgspec.structs.replace(action, enabled=False)])
    async with database.transaction() as tx:
        await tx.run("UPDATE deliveries SET hold = 'paused'")

    await change(trigger, actions=[action])

    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT hold FROM deliveries") is None


async def test_deleting_skips_what_waits_and_keeps_history(
    database: Database, evaluator: Evaluator, service: TriggerService, make: Any
) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    await evaluator.step()
    async with database.transaction() as tx:
        with pytest.raises(TriggerNotFound):
            await service.delete(tx, THEIRS, trigger.id)
        await service.delete(tx, OURS, trigger.id)

        assert await tx.fetchval("SELECT reason FROM deliveries") == "trigger_deleted"
        assert await service.facts(tx, [trigger.id]) == {}
        with pytest.raises(TriggerNotFound):
            await service.get(tx, OURS, trigger.id)


async def test_the_list_is_filtered_and_in_order(database: Database, service: TriggerService, make: Any) -> None:
    first = await make(name="100% sure", registry="identity", conditions=[field("score", ">", 1)])
    second = await make(name="other", enabled=False, chain_id=1)
    await make(THEIRS)

    async def found(**wanted: Any) -> list[TriggerId]:
        async with database.transaction() as tx:
            return [trigger.id for trigger in (await service.list(tx, OURS, TriggerFilter(**wanted), Page())).data]

    assert await found() == [second.id, first.id]
    assert await found(order="asc") == [first.id, second.id]
    assert await found(search="0% S") == [first.id]
    assert await found(search="_") == []
    assert await found(status="disabled") == await found(enabled=False) == await found(chain_id=1) == [second.id]
    assert await found(registry="identity") == [first.id]
    assert await found(breaker_state="closed", managed=False, environment="live") == [second.id, first.id]
    assert await found(breaker_state="open") == await found(environment="test") == await found(managed=True) == []
    async with database.transaction() as tx:
        page = await service.list(tx, OURS, TriggerFilter(), Page(limit=1))
    assert (page.total, page.has_more, len(page.data)) == (2, True, 1)


async def test_when_it_last_matched_is_read_from_its_deliveries(
    database: Database, evaluator: Evaluator, service: TriggerService, make: Any
) -> None:
    trigger = await make()
    assert trigger.last_matched_at is None
    async with database.transaction() as tx:
        await insert_events(tx, 1)
    await evaluator.step()

    async with database.transaction() as tx:
        seen = await service.get(tx, OURS, trigger.id)
        assert seen.last_matched_at == await tx.fetchval("SELECT created_at FROM deliveries")


async def test_a_row_by_hand_is_shown_as_far_as_it_makes_sense(database: Database, service: TriggerService) -> None:
    async with database.transaction() as tx:
        single = await make_trigger(tx, agent(1))
        broken = await make_trigger(tx, [{"condition_type": "nope"}], invalid_reason="nope")
        unknown = await make_trigger(tx, 17, invalid_reason="nope")

        assert [item["value"] for item in (await service.get(tx, OURS, single)).conditions] == ["1"]
        shown = await service.get(tx, OURS, broken)
        assert (shown.status, shown.conditions[0]["condition_type"]) == ("invalid", "nope")
        assert (await service.get(tx, OURS, unknown)).status == "invalid"


async def test_a_valid_condition_heals_an_invalid_trigger(database: Database, make: Any, change: Any) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        await tx.run("UPDATE triggers SET invalid_reason = 'nope'")

    assert (await change(trigger, conditions=[agent(2)])).status == "active"


async def test_a_breaker_is_configured_within_its_ranges(
    database: Database, service: TriggerService, make: Any
) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        for patch, path in (
            (BreakerPatch(), ""),
            (BreakerPatch(failure_threshold=0), "failure_threshold"),
            (BreakerPatch(half_open_max_calls=11), "half_open_max_calls"),
        ):
            with pytest.raises(Invalid) as refused:
                await service.configure_breaker(tx, OURS, trigger.id, patch)
            assert [error.field for error in refused.value.errors] == [path]

        seen = await service.configure_breaker(tx, OURS, trigger.id, BreakerPatch(failure_threshold=3))
        assert seen.config == BreakerConfig(failure_threshold=3)
        assert (seen.trigger.version, seen.breaker.state) == (2, "closed")
        [facts] = (await service.facts(tx, [trigger.id])).values()
        assert facts.breaker == BreakerConfig(failure_threshold=3)


async def test_a_breaker_is_reset_by_its_owner_alone(database: Database, service: TriggerService, make: Any) -> None:
    trigger = await make()
    async with database.transaction() as tx:
        await tx.run(
            "INSERT INTO circuit_breaker_state (trigger_id, state, failure_count) VALUES ($1, 'open', 5)", trigger.id
        )
        with pytest.raises(TriggerNotFound):
            await service.reset_breaker(tx, THEIRS, trigger.id)
        seen = await service.get(tx, OURS, trigger.id)
        assert (seen.circuit_breaker.state, seen.circuit_breaker.failure_count) == ("open", 5)

        after = await service.reset_breaker(tx, OURS, trigger.id)

    assert (after.breaker.state, after.breaker.failure_count) == ("closed", 0)


async def test_facts_of_a_bad_configuration_are_the_defaults(database: Database, service: TriggerService) -> None:
    async with database.transaction() as tx:
        trigger = await make_trigger(
            tx, circuit_breaker_config='{"failure_threshold": 5000, "half_open_max_calls": 2, "x": null}'
        )
        facts = await service.facts(tx, [trigger])

    assert facts[trigger].breaker == BreakerConfig(half_open_max_calls=2)


async def test_a_trigger_that_remembers_says_so(database: Database, service: TriggerService, make: Any) -> None:
    made = await make(conditions=[average(5)], cooldown_seconds=60, dedupe_key="{{ tag1 }}")

    assert made.is_stateful
    assert (made.cooldown_seconds, made.dedupe_key) == (60, "{{ tag1 }}")
    assert made.conditions[0]["config"] == {"window_size": 10, "scope": "agent"}
    assert not (await make(cooldown_seconds=60)).is_stateful


async def test_what_a_leaf_remembers_goes_with_what_it_means_and_with_its_trigger(
    database: Database, service: TriggerService, evaluator: Evaluator, make: Any, change: Any
) -> None:
    made = await make(conditions=[average(5), window("count", 0)], cooldown_seconds=60)
    other = await make(conditions=[average(5)])
    async with database.transaction() as tx:
        await insert_events(tx, 1, score=7)
    await finish(evaluator)

    async def remembered(trigger: TriggerDetail) -> list[int]:
        tables = ("trigger_state", "window_samples", "state_undo")
        sql = " UNION ".join(f"SELECT leaf_id FROM {table} WHERE trigger_id = $1" for table in tables)
        async with database.transaction() as tx:
            return sorted(row[0] for row in await tx.fetch(sql, trigger.id))

    assert await remembered(made) == [0, 1, 2]
    mean, counts = made.conditions
    made = await change(made, conditions=[mean | {"value": "6"}, counts | {"config": {"window": "2h"}}])
    assert [leaf["id"] for leaf in made.conditions] == [1, 3]
    assert await remembered(made) == [0, 1]
    assert not (await change(made, conditions=[agent(1)])).is_stateful
    assert await remembered(made) == [0]
    async with database.transaction() as tx:
        await service.delete(tx, OURS, made.id)
    assert await remembered(made) == []
    assert await remembered(other) == [1]
