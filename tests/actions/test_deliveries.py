"""Deliveries as the evaluator makes them and as callers read and repeat them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest
import redis.asyncio

from agentauri.actions import (
    ActionDraft,
    DeliveryDraft,
    DeliveryFilter,
    DeliveryNotFound,
    DeliveryPending,
    DeliveryService,
    Dispatcher,
    EventRetracted,
    NotDeliverable,
    SettledEvent,
)
from agentauri.actions.service import _interleaved
from agentauri.actions.store import LATEST
from agentauri.errors import Invalid
from agentauri.types import ActionId, ChainId, DeliveryId, EventSeq, OrganizationId, Page, TriggerId
from support.receiver import Answer

from .conftest import World

ORG = OrganizationId("org-1")


async def fact(world: World, seq: EventSeq) -> SettledEvent:
    async with world.database.transaction() as tx:
        row = await tx.fetchrow("SELECT seq, id, epoch, created_at FROM events WHERE seq = $1", seq)
    assert row is not None
    return SettledEvent(
        seq=seq, event_id=row["id"], epoch=row["epoch"], created_at=row["created_at"], chain_id=ChainId(84532)
    )


async def settled(world: World, seq: EventSeq, *notify: TriggerId) -> set[EventSeq]:
    event = await fact(world, seq)
    async with world.database.transaction() as tx:
        return await world.deliveries.settle(tx, [event], notify)


async def held(world: World, seq: EventSeq) -> None:
    async with world.database.transaction() as tx:
        await world.deliveries.hold_retracted(tx, [seq])


async def test_the_same_match_twice_is_one_delivery(world: World, client: redis.asyncio.Redis) -> None:
    draft = await world.draft(await world.trigger())

    async with world.database.transaction() as tx:
        assert await world.deliveries.create(tx, [draft]) == 1
    async with world.database.transaction() as tx:
        assert await world.deliveries.create(tx, [draft, msgspec.structs.replace(draft, trigger_version=2)]) == 1

    assert await client.llen("action_jobs") == 2


async def test_nothing_is_queued_before_the_commit(world: World, client: redis.asyncio.Redis) -> None:
    draft = await world.draft(await world.trigger())

    with pytest.raises(ZeroDivisionError):
        async with world.database.transaction() as tx:
            await world.deliveries.create(tx, [draft])
            assert await client.llen("action_jobs") == 0
            raise ZeroDivisionError

    assert await client.llen("action_jobs") == 0


async def test_a_delivery_of_the_test_environment_is_kept_and_never_sent(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger, environment="test")

    assert not await dispatcher.step()

    async with world.database.transaction() as tx:
        detail = await world.deliveries.get(tx, ORG, id_)
        with pytest.raises(NotDeliverable):
            await world.deliveries.redeliver(tx, ORG, id_)
    assert (detail.status, detail.reason) == ("skipped", "test_environment")
    assert detail.rendered is not None
    assert detail.rendered["method"] == "POST"


def test_a_push_goes_through_the_tenants_by_turns() -> None:
    def an_id(lane: str, number: int) -> DeliveryId:
        return DeliveryId(uuid4().__class__(f"019b76da-a87b-8{lane}-805d-{number:012d}"))

    ids = [an_id("aaa", 1), an_id("aaa", 2), an_id("bbb", 3), an_id("aaa", 4), an_id("bbb", 5)]

    assert _interleaved(ids) == [ids[0], ids[2], ids[1], ids[4], ids[3]]
    assert _interleaved(ids[:2]) == ids[:2]


async def test_a_retracted_event_is_not_told_and_goes_on_when_it_is_back(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    id_ = await world.delivery(trigger, seq)
    await held(world, seq)
    await dispatcher.step()
    assert (await world.row(id_))["hold"] == "retraction"

    async with world.database.transaction() as tx:
        assert await world.deliveries.resume(tx, {seq: [(trigger, world.action_of[trigger])]}) == 1
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def test_a_match_that_is_not_established_again_settles(world: World) -> None:
    kept, lost = await world.trigger(), await world.trigger()
    seq = await world.event()
    ids = [await world.delivery(kept, seq), await world.delivery(lost, seq)]
    await held(world, seq)
    pairs = {seq: [(kept, world.action_of[kept])]}
    event = await fact(world, seq)

    async with world.database.transaction() as tx:
        await world.deliveries.resume(tx, pairs)
        assert await world.deliveries.settle(tx, [event], [], keep=pairs) == {seq}

    assert (await world.row(ids[0]))["status"] == "pending"
    assert ((await world.row(ids[1]))["status"], (await world.row(ids[1]))["reason"]) == ("skipped", "retracted")


async def test_settling_skips_what_waits_and_takes_back_what_was_told(world: World, dispatcher: Dispatcher) -> None:
    told, silent, waiting = await world.trigger(), await world.trigger(), await world.trigger()
    seq = await world.event()
    id_ = await world.delivery(told, seq)
    await world.delivery(silent, seq)
    await dispatcher.step()
    pending = await world.delivery(waiting, seq)
    await held(world, seq)
    await world.sql("UPDATE events SET retracted_at = now()")

    assert await settled(world, seq, told, waiting) == {seq}
    assert await settled(world, seq, told, waiting) == {seq}
    world.receiver.requests.clear()
    await dispatcher.step()

    assert (await world.row(pending))["reason"] == "retracted"
    (request,) = world.receiver.requests
    body = msgspec.json.decode(request.body)
    assert (body["type"], body["data"]["retracts"]) == ("event.retracted", str(id_))
    assert request.headers["webhook-id"] != f"msg_{id_}"


async def test_what_is_being_sent_settles_after_its_outcome(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    id_ = await world.delivery(trigger, seq)
    await world.sql("UPDATE deliveries SET leased_until = now() + interval '1 minute', lease_owner = 'somebody'")

    assert await settled(world, seq, trigger) == set()
    assert (await world.row(id_))["hold"] == "retraction"
    await world.sql("UPDATE deliveries SET status = 'delivered', hold = NULL, leased_until = NULL, lease_owner = NULL")
    assert await settled(world, seq, trigger) == {seq}

    async with world.database.transaction() as tx:
        kinds = await tx.fetch("SELECT kind, parent_id FROM deliveries ORDER BY kind")
    assert [(row["kind"], row["parent_id"]) for row in kinds] == [("match", None), ("retraction", id_)]


async def test_an_outcome_of_a_retracted_delivery_keeps_it_held(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    id_ = await world.delivery(trigger, seq)
    world.receiver.answer = lambda _: Answer(503)
    await dispatcher.take()
    await held(world, seq)

    await dispatcher.step()

    row = await world.row(id_)
    assert (row["status"], row["hold"], row["attempts"]) == ("pending", "retraction", 1)


async def test_an_earlier_life_of_an_event_is_over(world: World) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    await world.delivery(trigger, seq)
    await world.sql("UPDATE deliveries SET status = 'delivered'")
    await world.sql("UPDATE events SET epoch = 1")
    event = await fact(world, seq)

    async with world.database.transaction() as tx:
        assert await world.deliveries.existing(tx, [event]) == {}
        await world.deliveries.settle(tx, [event], [trigger])
        assert await tx.fetchval("SELECT count(*) FROM deliveries") == 1
    again = await world.draft(trigger, seq)
    async with world.database.transaction() as tx:
        assert await world.deliveries.create(tx, [again]) == 1
        assert await world.deliveries.existing(tx, [event]) == {seq: {(trigger, world.action_of[trigger])}}


async def test_what_waits_of_an_earlier_life_settles_as_well(world: World) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    id_ = await world.delivery(trigger, seq)
    await world.sql("UPDATE deliveries SET status = 'delivered'")
    await world.sql("UPDATE events SET epoch = 1")
    async with world.database.transaction() as tx:
        await world.deliveries.redeliver(tx, ORG, id_)
    await held(world, seq)

    assert await settled(world, seq, trigger) == {seq}

    row = await world.row(id_)
    assert (row["status"], row["reason"], row["hold"]) == ("skipped", "retracted", None)
    async with world.database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM deliveries") == 1


async def test_a_delivery_exists_for_its_event_whatever_the_triggers_version(world: World) -> None:
    trigger = await world.trigger()
    seq = await world.event()
    await world.delivery(trigger, seq, trigger_version=7)

    async with world.database.transaction() as tx:
        found = await world.deliveries.existing(tx, [await fact(world, seq)])

    assert found == {seq: {(trigger, world.action_of[trigger])}}


async def test_pausing_keeps_and_unpausing_releases(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)
    async with world.database.transaction() as tx:
        assert await world.deliveries.pause(tx, trigger) == 1
    await dispatcher.step()
    assert world.receiver.requests == []

    async with world.database.transaction() as tx:
        assert await world.deliveries.unpause(tx, trigger) == 1
    await dispatcher.step()

    assert (await world.row(id_))["status"] == "delivered"


async def many(world: World, trigger: TriggerId) -> None:
    """Three deliveries more than are changed together with their trigger."""
    base = await world.draft(trigger)
    drafts = [msgspec.structs.replace(base, trigger_version=number) for number in range(LATEST + 3)]
    async with world.database.transaction() as tx:
        await world.deliveries.create(tx, drafts)


async def counted(world: World) -> dict[tuple[str, str | None, str | None], int]:
    async with world.database.transaction() as tx:
        rows = await tx.fetch("SELECT status, reason, hold, count(*) AS n FROM deliveries GROUP BY 1, 2, 3")
    return {(row["status"], row["reason"], row["hold"]): row["n"] for row in rows}


async def test_pausing_many_changes_the_latest_and_claims_refuse_the_others(
    world: World, dispatcher: Dispatcher
) -> None:
    trigger = await world.trigger()
    await many(world, trigger)
    await world.sql("UPDATE triggers SET enabled = false")

    async with world.database.transaction() as tx:
        assert await world.deliveries.pause(tx, trigger) == LATEST
    while await dispatcher.step():
        pass

    assert await counted(world) == {("pending", None, "paused"): LATEST + 3}
    assert world.receiver.requests == []


async def test_unpausing_many_releases_the_latest_and_the_others_follow(world: World, dispatcher: Dispatcher) -> None:
    trigger = await world.trigger()
    await many(world, trigger)
    await world.sql("UPDATE deliveries SET hold = 'paused'")

    async with world.database.transaction() as tx:
        assert await world.deliveries.unpause(tx, trigger) == LATEST
    assert not await dispatcher.tidy()

    assert await counted(world) == {("pending", None, None): LATEST + 3}


@pytest.mark.parametrize("hold", [None, "breaker", "paused"])
async def test_ending_a_trigger_skips_the_latest_and_the_others_when_they_are_claimed(
    world: World, dispatcher: Dispatcher, hold: str | None
) -> None:
    trigger = await world.trigger()
    await many(world, trigger)
    await world.sql("UPDATE deliveries SET hold = $1", hold)
    await world.sql("DELETE FROM triggers")

    async with world.database.transaction() as tx:
        assert await world.deliveries.skip_pending(tx, trigger, "trigger_deleted") == LATEST
    await dispatcher.tick()
    await dispatcher.tidy()
    while await dispatcher.step():
        pass

    assert await counted(world) == {("skipped", "trigger_deleted", None): LATEST + 3}


async def test_unpausing_lets_go_what_belongs_to_enabled_actions(world: World) -> None:
    trigger = await world.trigger()
    checked = await world.actions.check([ActionDraft(action_type="webhook", config={"url": world.receiver.url})])
    async with world.database.transaction() as tx:
        (other,) = await world.actions.create(tx, trigger, checked)
    off, on = await world.delivery(trigger), await world.delivery(trigger, action_id=other.id)
    await world.sql("UPDATE deliveries SET hold = 'paused'")
    await world.sql("UPDATE trigger_actions SET enabled = (id = $1)", other.id)

    async with world.database.transaction() as tx:
        assert await world.deliveries.unpause(tx, trigger) == 1

    assert [(await world.row(id_))["hold"] for id_ in (off, on)] == ["paused", None]


async def test_skipping_leaves_what_is_being_sent(world: World) -> None:
    trigger = await world.trigger()
    waiting, sending = await world.delivery(trigger), await world.delivery(trigger)
    await world.sql(
        "UPDATE deliveries SET leased_until = now() + interval '1 minute', lease_owner = 'x' WHERE id = $1", sending
    )

    async with world.database.transaction() as tx:
        assert await world.deliveries.skip_pending(tx, trigger, "action_deleted", [ActionId(-1)]) == 0
        assert await world.deliveries.skip_pending(tx, trigger, "trigger_deleted") == 1

    assert (await world.row(waiting))["reason"] == "trigger_deleted"
    assert (await world.row(sending))["status"] == "pending"


async def test_a_detail_shows_attempts_and_what_would_be_sent_without_secrets(
    world: World, dispatcher: Dispatcher
) -> None:
    trigger = await world.trigger(config={"headers": {"X-Key": "s3cret"}, "body": {"agent": "{{agent_id}}"}})
    id_ = await world.delivery(trigger)
    world.receiver.answers.append(Answer(404, body=b"no such hook"))
    await dispatcher.step()

    async with world.database.transaction() as tx:
        detail = await world.deliveries.get(tx, ORG, id_)

    assert (detail.status, detail.attempts, detail.agent_id) == ("dead", 1, "42")
    assert [(attempt.outcome, attempt.response_excerpt) for attempt in detail.attempt_log] == [
        ("permanent", "no such hook")
    ]
    assert detail.rendered is not None
    assert detail.rendered["body"] == '{"agent":42}'
    assert detail.rendered["headers"]["x-key"] == "***"  # type: ignore[index]
    assert "webhook-signature" not in detail.rendered["headers"]  # type: ignore[operator]
    assert b"s3cret" not in msgspec.json.encode(detail)


async def test_history_outlives_configuration(world: World, dispatcher: Dispatcher) -> None:
    id_ = await world.delivery(await world.trigger())
    await dispatcher.step()
    await world.sql("DELETE FROM triggers")

    async with world.database.transaction() as tx:
        detail = await world.deliveries.get(tx, ORG, id_)

    assert (detail.status, detail.rendered, len(detail.attempt_log)) == ("delivered", None, 1)


async def test_a_delivery_of_another_organization_is_not_found(world: World) -> None:
    id_ = await world.delivery(await world.trigger())

    async with world.database.transaction() as tx:
        with pytest.raises(DeliveryNotFound):
            await world.deliveries.get(tx, OrganizationId("other"), id_)
        with pytest.raises(DeliveryNotFound):
            await world.deliveries.redeliver(tx, OrganizationId("other"), id_)


async def test_an_operator_sees_and_repeats_everybodys_deliveries(world: World) -> None:
    ids = [await world.delivery(await world.trigger(organization_id=name)) for name in ("org-1", "org-2")]
    await world.sql("UPDATE deliveries SET status = 'dead'")

    async with world.database.transaction() as tx:
        found = await world.deliveries.list(tx, None, DeliveryFilter(order="asc"), Page(limit=1))
        more = await world.deliveries.list(
            tx, None, DeliveryFilter(order="asc"), Page(limit=1, cursor=found.next_cursor)
        )
        detail = await world.deliveries.get(tx, None, ids[1])
        again = await world.deliveries.redeliver(tx, None, ids[1])

    assert [delivery.id for delivery in (*found.data, *more.data)] == ids
    assert (detail.id, again.id, again.status) == (ids[1], ids[1], "pending")


async def test_only_what_is_finished_and_true_can_be_redelivered(world: World) -> None:
    trigger = await world.trigger()
    id_ = await world.delivery(trigger)

    async with world.database.transaction() as tx:
        with pytest.raises(DeliveryPending):
            await world.deliveries.redeliver(tx, ORG, id_)
    await world.sql("UPDATE deliveries SET status = 'dead'")
    await world.sql("UPDATE events SET retracted_at = now()")
    async with world.database.transaction() as tx:
        with pytest.raises(EventRetracted):
            await world.deliveries.redeliver(tx, ORG, id_)
    await world.sql("UPDATE events SET retracted_at = NULL")
    await world.sql("DELETE FROM trigger_actions")
    async with world.database.transaction() as tx:
        with pytest.raises(NotDeliverable):
            await world.deliveries.redeliver(tx, ORG, id_)


@pytest.fixture
async def listed(world: World) -> list[DeliveryId]:
    """Five deliveries of two triggers and a stranger's, oldest first."""
    first, second, other = await world.trigger(), await world.trigger(), await world.trigger(organization_id="org-2")
    seqs = [
        await world.event(created_at=datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC), agent_id=second)
        for second in range(5)
    ]
    ids = [await world.delivery(first if number < 3 else second, seq) for number, seq in enumerate(seqs)]
    await world.delivery(other, seqs[0])
    await world.sql("UPDATE deliveries SET status = 'dead', hold = NULL WHERE id = $1", ids[0])
    await world.sql("UPDATE deliveries SET hold = 'breaker' WHERE id = $1", ids[1])
    return ids


async def page(deliveries: DeliveryService, world: World, wanted: DeliveryFilter, **paging: object) -> list[DeliveryId]:
    async with world.database.transaction() as tx:
        found = await deliveries.list(tx, ORG, wanted, msgspec.convert(paging, Page))
    assert found.total_is_exact
    return [delivery.id for delivery in found.data]


async def test_a_list_is_newest_first_and_one_organizations(world: World, listed: list[DeliveryId]) -> None:
    assert await page(world.deliveries, world, DeliveryFilter()) == listed[::-1]
    assert await page(world.deliveries, world, DeliveryFilter(order="asc"), limit=2, offset=1) == listed[1:3]


async def test_a_cursor_neither_repeats_nor_skips(world: World, listed: list[DeliveryId]) -> None:
    seen: list[DeliveryId] = []
    cursor: str | None = None
    for _ in range(3):
        async with world.database.transaction() as tx:
            found = await world.deliveries.list(tx, ORG, DeliveryFilter(), Page(limit=2, cursor=cursor))
        seen += [delivery.id for delivery in found.data]
        cursor = found.next_cursor
        assert found.total == 5

    assert seen == listed[::-1]
    assert cursor is None


@pytest.mark.parametrize("cursor", ["x", "AAAA", "A" * 32])
async def test_an_altered_cursor_is_refused(world: World, cursor: str) -> None:
    async with world.database.transaction() as tx:
        with pytest.raises(Invalid):
            await world.deliveries.list(tx, ORG, DeliveryFilter(), Page(cursor=cursor))


async def test_a_list_is_filtered(world: World, listed: list[DeliveryId]) -> None:
    async with world.database.transaction() as tx:
        one = await world.deliveries.get(tx, ORG, listed[0])
    wanted = {
        "dead": (DeliveryFilter(status=("dead", "skipped")), listed[:1]),
        "trigger": (DeliveryFilter(trigger_id=one.trigger_id, order="asc"), listed[:3]),
        "action": (DeliveryFilter(action_id=one.action_id, order="asc"), listed[:3]),
        "type": (DeliveryFilter(action_type="telegram"), []),
        "event": (DeliveryFilter(event_id=one.event_id), listed[:1]),
        "chain": (DeliveryFilter(chain_id=ChainId(1)), []),
        "agent": (DeliveryFilter(agent_id=2), listed[2:3]),
        "environment": (DeliveryFilter(environment="test"), []),
        "kind": (DeliveryFilter(kind="match", order="asc"), listed),
        "hold": (DeliveryFilter(hold="breaker"), listed[1:2]),
        "correlation": (DeliveryFilter(correlation_id=one.correlation_id), listed[:1]),
        "no correlation": (DeliveryFilter(correlation_id="corr_nonsense"), []),
        "since": (DeliveryFilter(since=one.created_at, order="asc"), listed),
        "until": (DeliveryFilter(until=one.created_at), []),
    }

    assert {name: await page(world.deliveries, world, filters) for name, (filters, _) in wanted.items()} == {
        name: ids for name, (_, ids) in wanted.items()
    }


async def test_a_thousand_drafts_are_written_at_once(world: World, client: redis.asyncio.Redis) -> None:
    base = await world.draft(await world.trigger())
    drafts: list[DeliveryDraft] = [msgspec.structs.replace(base, trigger_version=number) for number in range(1, 6001)]

    async with world.database.transaction() as tx:
        assert await world.deliveries.create(tx, drafts) == 6000

    assert await client.llen("action_jobs") == 6000
