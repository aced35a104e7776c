"""Deliveries that are held or given up, and what they are sent with: found in a running installation, and mended as
printed."""

from __future__ import annotations

from doctor.house import House
from support.bot_api import TOKEN, BotApi
from support.processes import until
from support.receiver import Answer, Receiver


async def test_a_breaker_that_is_open_is_closed_and_what_it_held_is_sent(house: House, receiver: Receiver) -> None:
    receiver.answers.append(Answer(503))
    trigger_id = await house.make_trigger(receiver)
    await house.sql(
        f"""UPDATE triggers SET circuit_breaker_config =
            '{{"failure_threshold": 1, "recovery_timeout_seconds": 3600}}' WHERE id = '{trigger_id}'"""
    )
    await house.happen()

    async def opened() -> bool:
        return f"breakers:{trigger_id}" in await house.doctor("breakers")

    await until(opened, 20, "the breaker to open")
    found = await house.mend(f"breakers:{trigger_id}")

    assert "1 failure" in found.finding
    assert "503" in found.finding
    await receiver.wait_for(2)
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == 1


async def test_a_breaker_that_cannot_be_written_down_can_be_again(house: House, receiver: Receiver) -> None:
    receiver.answers.append(Answer(503))
    await house.make_trigger(receiver)
    await house.sql(
        """CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
           CREATE TRIGGER planted BEFORE INSERT OR UPDATE ON circuit_breaker_state
               FOR EACH ROW EXECUTE FUNCTION planted()"""
    )
    await house.happen()
    await house.parts["event-processor"][0].logged(20, code="CIRCUIT_BREAKER_PERSIST_FAILED")

    found = await house.mend("breaker_writes")

    assert "Circuit breaker state may be inconsistent: it cannot be written: not today" in found.finding
    await receiver.wait_for(2)


async def test_a_look_at_the_breakers_leaves_none_behind(house: House) -> None:
    assert (await house.doctor("breaker_writes"))["breaker_writes"].result == "ok"

    rows = await house.typed("agentauri psql -At -c 'SELECT count(*) FROM circuit_breaker_state'")

    assert rows.strip() == "0"


async def test_what_was_given_up_is_sent_again(house: House, receiver: Receiver) -> None:
    receiver.answers.append(Answer(404))
    await house.make_trigger(receiver)
    await house.happen()

    async def given_up() -> bool:
        return (await house.doctor("dead_letters"))["dead_letters"].result == "warn"

    await until(given_up, 20, "the delivery to be given up")
    found = await house.mend("dead_letters")

    assert "1 × permanent" in found.finding
    await receiver.wait_for(2)


async def test_a_delivery_that_nobody_takes_is_taken(house: House, receiver: Receiver) -> None:
    """Due for a minute, and in nobody's hands: there was no dispatcher."""
    await house.make_trigger(receiver)
    await house.stop("event-processor")
    await house.sql(
        """INSERT INTO deliveries (id, organization_id, trigger_id, environment, trigger_version, action_id,
                                   action_type, destination, event_seq, chain_id, kind, status, due_at, created_at)
           SELECT gen_random_uuid(), organization_id, id, 'live', 1, 1, 'webhook', 'hooks.example', 1, 84532, 'match',
                  'pending', now() - interval '2 minutes', now() FROM triggers ORDER BY created_at DESC LIMIT 1"""
    )

    found = (await house.doctor("queue_consistency"))["queue_consistency"]

    assert (found.result, found.finding) == ("fail", "1 deliveries due for a minute, and unclaimed")


async def test_a_bot_without_a_token_is_given_one_that_works(house: House) -> None:
    async with BotApi.open() as bot_api:
        await house.stand(TELEGRAM_API_URL=bot_api.url)
        await house.sql(
            """UPDATE trigger_actions SET enabled = false WHERE action_type = 'telegram';
               INSERT INTO trigger_actions (trigger_id, action_type, config, destination, enabled)
               SELECT id, 'telegram', '{}', 'chat', true FROM triggers LIMIT 1"""
        )
        env = house.folder / ".env"
        env.write_text(env.read_text() + "TELEGRAM_BOT_TOKEN=123456:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
        refused = (await house.doctor("telegram_token"))["telegram_token"]
        assert (refused.result, "refuses" in refused.finding) == ("fail", True)
        await house.stand(TELEGRAM_API_URL=bot_api.url)

        found = await house.mend("telegram_token", answers=f"{TOKEN}\n")

    assert "no token" in found.finding
    await house.sql("UPDATE trigger_actions SET enabled = false WHERE action_type = 'telegram'")
