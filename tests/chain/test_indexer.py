from __future__ import annotations

import itertools
from contextlib import suppress

from msgspec.structs import replace

from agentauri.chain import Step
from agentauri.database import Database, DatabaseUnavailable
from chains import logs
from chains.driving import FAST, Open, Serve, canonical_events, checkpoint, contents, drain, rows, truth, wake
from chains.scripted import ScriptedChain, transaction


def busy_chain(blocks: int = 60, every: int = 7, chain_id: int = 84532) -> ScriptedChain:
    """An agent registers in some blocks, and some feedback and an unknown log follow."""
    chain = ScriptedChain(chain_id)
    for number in range(1, blocks + 1):
        if number % every:
            chain.mine()
        else:
            chain.mine(
                transaction(logs.transfer(number), logs.registered(number), logs.metadata_set(number)),
                transaction(logs.feedback(number), logs.unknown(number)),
            )
    return chain


async def test_every_log_is_stored_as_event_or_raw_in_the_order_of_the_chain(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    indexer = open_indexer(await serve(chain))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT DISTINCT reason FROM raw_logs") == [("unknown_topic",)]
    seqs = await rows(database, "SELECT seq FROM events ORDER BY block_number, log_index")
    assert seqs == sorted(seqs)
    now = await checkpoint(database)
    assert (now["last_block_number"], now["last_block_hash"], now["status"]) == (60, chain.head.hash, "live")
    assert (now["head_number"], now["first_block"]) == (60, 1)


async def test_an_idle_poll_is_one_request_and_a_range_three_at_most(serve: Serve, open_indexer: Open) -> None:
    chain = busy_chain()
    node = await serve(chain)
    node.tells_log_times = False
    indexer = open_indexer(node)
    await drain(indexer)

    node.requests.clear()
    assert await indexer.step() is Step.IDLE
    assert len(node.requests) == 1

    chain.mine(transaction(logs.registered(1)), count=3)
    node.requests.clear()
    assert await indexer.step() is Step.CAUGHT_UP
    assert len(node.requests) == 3

    chain.mine(transaction(logs.registered(2)), count=200)
    node.requests.clear()
    assert await indexer.step() is Step.ADVANCED
    assert len(node.requests) == 3


async def test_block_times_come_from_headers_where_logs_do_not_tell_them(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain(blocks=500, every=3)
    node = await serve(chain)
    node.tells_log_times = False

    await drain(open_indexer(node))

    assert await contents(database) == truth(chain)
    times = await rows(database, 'SELECT DISTINCT block_number, "timestamp" FROM events')
    assert len(times) == 166
    assert all(chain.blocks[number].time == time for number, time in times)


async def test_after_ten_days_away_every_block_is_read_once(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    node = await serve(chain)
    await drain(open_indexer(node))
    for number in range(40):
        chain.mine(transaction(logs.feedback(number)), count=550)
    node.ranges.clear()

    await drain(open_indexer(node))

    assert await contents(database) == truth(chain)
    edges = sorted(node.ranges)
    assert edges[0][0] == 61
    assert edges[-1][1] == chain.head.number == 60 + 40 * 550
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(edges))


async def test_a_provider_that_takes_few_calls_at_once_is_given_few(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    node = await serve(chain)
    node.batch_limit = 3

    await drain(open_indexer(node))

    assert await contents(database) == truth(chain)


async def test_an_outage_in_the_middle_of_a_range_skips_nothing(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = busy_chain()
    node = await serve(chain)
    indexer = open_indexer(node)
    node.on_request = lambda methods: setattr(node, "down", "eth_getLogs" in methods or node.down)

    steps = [await indexer.step() for _ in range(8)]

    assert steps[-1] is Step.DEGRADED
    assert (await checkpoint(database))["status"] == "degraded"
    (alarm,) = [line for line in log_lines if line.get("code") == "RPC_UNAVAILABLE"]
    assert "RPC_URLS_84532" in str(alarm["message"])
    assert await contents(database) == []
    node.on_request, node.down = None, False
    wake(indexer)
    await drain(indexer)
    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["status"] == "live"


async def test_a_throttled_provider_rests_and_the_next_one_takes_over(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = busy_chain()
    first, second = await serve(chain), await serve(chain)
    first.throttled, first.retry_after = True, "30"

    await drain(open_indexer(first, second))

    assert await contents(database) == truth(chain)
    assert len(first.requests) == 1
    (line,) = [line for line in log_lines if line.get("code") == "RPC_RATE_LIMITED"]
    assert (line["message"], line["provider"], line["rest_seconds"]) == ("RPC rate limit exceeded", "rpc-1", 30)
    assert any(line["event"] == "rpc.switched" and line["provider"] == "rpc-2" for line in log_lines)


async def test_no_url_is_ever_logged_or_stored(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = busy_chain()
    node, gone = await serve(chain), await serve(chain)
    node.down = True
    port = gone.url.rsplit(":", 1)[1]
    gone.url = f"http://127.0.0.1:1/v3/a-very-secret-key?{port}"
    indexer = open_indexer(gone, node)

    for _ in range(12):
        await indexer.step()

    told = str(log_lines) + str(await rows(database, "SELECT * FROM rpc_providers"))
    assert "rpc-1" in told
    for part in ("a-very-secret-key", "127.0.0.1", "http://"):
        assert part not in told


async def test_a_provider_that_lags_behind_the_checkpoint_changes_nothing(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    node = await serve(chain)
    indexer = open_indexer(node)
    await drain(indexer)
    before = await checkpoint(database)

    node.lag = 20
    assert [await indexer.step() for _ in range(3)] == [Step.RETRY] * 3

    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["last_block_number"] == before["last_block_number"]
    node.lag = 0
    chain.mine(transaction(logs.registered(1)))
    await drain(indexer)
    assert await contents(database) == truth(chain)


async def test_a_lagging_provider_hands_over_to_one_that_is_not(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    first, second = await serve(chain), await serve(chain)
    indexer = open_indexer(first, second)
    await drain(indexer)
    first.lag = 30
    chain.mine(transaction(logs.registered(1)))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL") == [(0,)]


async def test_a_provider_whose_logs_their_block_excludes_is_not_believed(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = busy_chain(blocks=30)
    liar, honest = await serve(chain), await serve(chain)
    forged = logs.registered(666).topics
    liar.tamper_logs = lambda found: [{**wire, "topics": forged} for wire in found]

    await drain(open_indexer(liar, honest))

    assert await contents(database) == truth(chain)
    assert any(line["event"] == "rpc.refused" and "rules out" in str(line["reason"]) for line in log_lines)


async def test_a_chain_without_blooms_is_read_all_the_same(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain(blocks=30)
    node = await serve(chain)
    node.tamper_header = lambda header: {**header, "logsBloom": "0x" + "0" * 512}

    await drain(open_indexer(node))

    assert await contents(database) == truth(chain)


async def test_with_a_quorum_of_two_an_omitted_log_is_found(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain(blocks=30)
    forgetful, complete = await serve(chain), await serve(chain)
    forgetful.tamper_logs = lambda found: [wire for wire in found if wire["blockNumber"] != hex(28)]

    await drain(open_indexer(forgetful, complete, rpc=replace(FAST, quorum=2)))

    assert await contents(database) == truth(chain)


async def test_a_text_that_its_hash_denies_is_asked_for_elsewhere_before_it_is_kept_raw(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = ScriptedChain()
    log = logs.feedback(1, tag1="uptime")
    other = logs.feedback(1, tag1="uptimo")
    chain.mine(transaction(log))
    liar, honest = await serve(chain), await serve(chain)
    liar.tamper_logs = lambda found: [{**wire, "data": other.data} for wire in found]

    await drain(open_indexer(liar, honest))

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM raw_logs") == [(0,)]


async def test_a_text_that_its_hash_denies_everywhere_is_kept_raw(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = ScriptedChain()
    log = logs.feedback(1, tag1="uptime")
    chain.mine(transaction(log._replace(data=logs.feedback(1, tag1="uptimo").data)))

    await drain(open_indexer(await serve(chain), await serve(chain)))

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT reason FROM raw_logs") == [("malformed",)]


async def test_a_provider_with_unreadable_answers_is_left(database: Database, serve: Serve, open_indexer: Open) -> None:
    chain = busy_chain(blocks=30)
    broken, good = await serve(chain), await serve(chain)
    broken.tamper_logs = lambda found: [{**wire, "blockHash": "0x\0"} for wire in found]

    await drain(open_indexer(broken, good))

    assert await contents(database) == truth(chain)


async def test_a_lost_database_connection_loses_nothing(database: Database, serve: Serve, open_indexer: Open) -> None:
    chain = busy_chain()
    indexer = open_indexer(await serve(chain))
    await indexer.step()
    async with database.outside() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    for _ in range(10):  # each connection that was in the pool may be found dead once
        with suppress(DatabaseUnavailable):
            await drain(indexer)

    assert await contents(database) == truth(chain)


async def test_a_lock_that_does_not_come_free_is_tried_again_as_no_outage(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    indexer = open_indexer(await serve(chain))
    await indexer.step()
    async with database.outside() as connection:
        await connection.execute(
            """CREATE FUNCTION locked() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE lock_not_available; END $$;
               CREATE TRIGGER locked BEFORE INSERT ON block_anchors EXECUTE FUNCTION locked()"""
        )
        assert await indexer.step() is Step.CONTENDED
        await connection.execute("DROP TRIGGER locked ON block_anchors")

    await drain(indexer)

    assert await contents(database) == truth(chain)


async def test_two_writers_of_one_chain_store_what_one_would(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain(blocks=300)
    one, other = open_indexer(await serve(chain)), open_indexer(await serve(chain))
    for _ in range(10):
        await one.step()
        chain.mine(transaction(logs.feedback(1)))
        await other.step()
    await drain(one)
    await drain(other)

    assert await contents(database) == truth(chain)


async def test_fetching_ahead_stores_the_same(database: Database, serve: Serve, open_indexer: Open) -> None:
    chain = busy_chain(blocks=3_000, every=50)
    node = await serve(chain)
    node.range_limit, node.range_dialect = 200, "names_its_limit"
    indexer = open_indexer(node)

    while await indexer.step(ahead=True) is not Step.IDLE:
        pass

    assert await contents(database) == truth(chain)


async def test_a_stuck_chain_says_where_it_is_stuck(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = busy_chain()
    node = await serve(chain)
    indexer = open_indexer(node, rpc=replace(FAST, stall=0.0))
    await indexer.step()
    await indexer.step()
    at = (await checkpoint(database))["last_block_number"]
    node.tamper_logs = lambda found: [{**wire, "blockNumber": "no number"} for wire in found] or [{}]
    log_lines.clear()

    await indexer.step()

    (line,) = [line for line in log_lines if line.get("code") == "CHAIN_STALLED"]
    assert f"Latest indexed block: {at}" in str(line["message"])
    assert "Current chain block: 60" in str(line["message"])
    assert "Indexer appears stuck" in str(line["message"])


async def test_anchors_long_final_are_thinned_out_but_for_blocks_with_logs(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain(blocks=20, every=5)
    node = await serve(chain)
    indexer = open_indexer(node)
    for _ in range(80):
        chain.mine(transaction(logs.feedback(1)), count=30)
        indexer._finality._asked = float("-inf")
        await drain(indexer)

    anchors = [number for (number,) in await rows(database, "SELECT block_number FROM block_anchors ORDER BY 1")]
    with_logs = {number for _, _, number, _ in await canonical_events(database)}
    final = (await checkpoint(database))["finalized_number"]
    old = [number for number in anchors if number < final - 1_200]
    assert final > 2_000
    assert with_logs <= set(anchors)
    assert set(old) - with_logs <= {0, 999}
    assert set(range(final, chain.head.number + 1)) <= set(anchors)
    assert len([number for number in anchors if number < final]) >= 64


async def test_anchors_above_the_checkpoint_are_of_no_chain_and_give_way(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = busy_chain()
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    chain.mine(transaction(logs.registered(1)))
    async with database.transaction() as tx:
        await tx.run(
            "INSERT INTO block_anchors VALUES (84532, 61, '0xstray', NULL, 1), (84532, 99, '0xstray', NULL, 1)"
        )

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT block_hash FROM block_anchors WHERE block_number > 60") == [(chain.head.hash,)]
