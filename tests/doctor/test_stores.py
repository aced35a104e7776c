"""Stores that are away, full or in the way: found in a running installation, and mended as printed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import redis.asyncio

from doctor.house import House
from support.folders import small_disk
from support.processes import until
from support.receiver import Receiver


async def test_a_redis_that_was_stopped_is_started(house: House, receiver: Receiver) -> None:
    await house.make_trigger(receiver)
    house.stop_redis()

    found = await house.mend("redis")

    assert found.finding.startswith("Failed to connect to Redis: ")
    assert found.fix == "docker compose up -d redis"
    await house.happen()
    await receiver.wait_for(1)


async def test_what_needs_redis_keeps_silent_while_redis_is_away(house: House) -> None:
    house.stop_redis()

    found = await house.doctor("redis", "queue_depth", "queue_consistency", "rate_limits", "redis_policy")

    assert set(found) & {"redis", "queue_depth", "queue_consistency", "rate_limits", "redis_policy"} == {"redis"}


async def test_a_redis_that_forgets_is_told_not_to(house: House) -> None:
    await house.typed("agentauri redis-cli CONFIG SET maxmemory-policy allkeys-lru")

    found = await house.mend("redis_policy")

    assert "allkeys-lru" in found.finding


async def test_a_queue_that_somebody_touched_is_made_true(house: House) -> None:
    await house.typed("agentauri redis-cli SADD agentauri:queue:known lost")

    assert (await house.mend("queue_consistency")).fix == "agentauri queue rebuild"


async def held(house: House) -> asyncpg.Connection[asyncpg.Record]:
    """A session that somebody left with a lock that every request for triggers needs."""
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("BEGIN; LOCK TABLE triggers IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1.1)")
    return connection


async def ask(house: House, times: int) -> list[int]:
    """What so many requests at once are answered."""
    async with house.http() as http:

        async def one() -> int:
            async with http.get(f"{house.url}/api/v1/triggers") as answer:
                return answer.status

        return await asyncio.gather(*(one() for _ in range(times)))


async def test_a_session_in_everybodys_way_is_named_and_ended(house: House) -> None:
    in_the_way = await held(house)
    asked = asyncio.create_task(ask(house, 2))

    async def seen() -> bool:
        return (await house.doctor("locks"))["locks"].result == "fail"

    await until(seen, 20, "the session in the way to be seen")
    found = await house.mend("locks")

    assert "idle in transaction" in found.finding
    assert "LOCK TABLE triggers" in found.finding
    await asked
    in_the_way.terminate()


@pytest.mark.soak
async def test_a_pool_that_ran_dry_is_made_larger(house: House) -> None:
    await house.stand(DB_MAX_CONNECTIONS="14", DB_ACQUIRE_TIMEOUT_SECONDS="1")
    in_the_way = await held(house)
    assert 503 in await ask(house, 8)
    in_the_way.terminate()

    async def seen() -> bool:
        return "DB_POOL_EXHAUSTED" in (await house.doctor("pool"))["pool"].finding

    await until(seen, 20, "the pool to be told of")
    found = await house.mend("pool")

    assert (found.fix or "").startswith("echo 'DB_MAX_CONNECTIONS=50' >> .env && docker compose up -d api-gateway")
    in_the_way = await held(house)
    asked = asyncio.create_task(ask(house, 8))
    await until(lambda: waiting(house, 8), 10, "all of them to have a connection and wait")
    in_the_way.terminate()
    assert set(await asked) == {200}


async def waiting(house: House, number: int) -> bool:
    connection = await asyncpg.connect(house.database_url)
    try:
        found = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(found == number)
    finally:
        await connection.close()


async def test_pools_that_together_want_more_than_the_server_has_are_made_smaller(house: House) -> None:
    await house.stand(DB_MAX_CONNECTIONS="200")

    async def both_beat() -> bool:
        return "2 processes of 200" in (await house.doctor("pool"))["pool"].finding

    await until(both_beat, 20, "both processes to have told of themselves")
    found = await house.mend("pool")

    assert "2 processes of 200" in found.finding
    assert "DB_MAX_CONNECTIONS=145" in (found.fix or "")


async def test_a_disk_that_is_all_but_full_is_told_and_what_fills_it_is_listed(house: House) -> None:
    with small_disk(8) as folder:
        (folder / "data").mkdir()
        (folder / "data" / "old").write_bytes(b"x" * (7 * 2**20))
        env = house.folder / ".env"
        env.write_text(env.read_text() + f"AGENTAURI_DATA_DIR={folder / 'data'}\n")

        found = (await house.doctor("disk"))["disk"]

        assert found.result in ("warn", "fail")
        assert "free on the disk of" in found.finding
        assert "data" in await house.typed(str(found.fix))


async def test_a_redis_that_answers_late_is_told_with_the_time(house: House, redis_client: redis.asyncio.Redis) -> None:
    """Through a wire that takes its time; what is the matter with a network, nobody here can mend."""
    kwargs = redis_client.connection_pool.connection_kwargs
    path, password = kwargs["path"], kwargs["password"]

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
            while data := await source.read(65536):
                await asyncio.sleep(delay)
                sink.write(data)
            sink.close()

        await asyncio.gather(pipe(reader, back, 0.011), pipe(there, writer, 0))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        env = house.folder / ".env"
        env.write_text(env.read_text() + f"REDIS_URL=redis://:{password}@127.0.0.1:{port}/0\n")

        found = (await house.doctor("redis_latency"))["redis_latency"]

    assert found.result == "warn"
    assert float(found.finding.partition(" ")[0]) >= 11
