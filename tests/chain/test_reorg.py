from __future__ import annotations

from agentauri.chain import ChainService, Step, load_chains
from agentauri.config import Config
from agentauri.database import Database
from agentauri.events import EventQueue
from agentauri.types import ChainId
from chains import logs
from chains.driving import Open, Serve, canonical_events, checkpoint, contents, drain, rows, truth
from chains.scripted import ScriptedChain, transaction

HISTORY = """SELECT id, seq, created_at, epoch, retracted_at IS NOT NULL FROM events ORDER BY seq"""


def make_scripted(blocks: int = 40) -> ScriptedChain:
    """One registration in every block."""
    chain = ScriptedChain()
    for number in range(1, blocks + 1):
        chain.mine(transaction(logs.registered(number)))
    return chain


async def ids(database: Database) -> dict[str, str]:
    """The id of each event that stands, by its transaction."""
    return {event[0]: event[3] for event in await canonical_events(database)}


async def test_a_reorg_is_followed_when_the_only_provider_repeats_it(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    chain.fork(5)
    chain.mine(transaction(logs.registered(777)), count=6)

    assert await indexer.step() is Step.DOUBTFUL
    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL") == [(0,)]
    assert await indexer.step() is Step.REORGED

    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL") == [(5,)]
    assert (await checkpoint(database))["last_block_number"] == 35
    (line,) = [line for line in log_lines if line["event"] == "chain.reorged"]
    assert (line["depth"], line["fork_block"], line["retracted"]) == (5, 35, 5)
    await drain(indexer)
    assert await contents(database) == truth(chain)


async def test_a_reorg_is_followed_at_once_when_a_second_provider_confirms_it(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    indexer = open_indexer(await serve(chain), await serve(chain))
    await drain(indexer)
    chain.fork(5)
    chain.mine(transaction(logs.registered(777)), count=6)

    assert await indexer.step() is Step.REORGED

    await drain(indexer)
    assert await contents(database) == truth(chain)


async def test_a_provider_on_a_fork_of_its_own_retracts_nothing(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    astray, honest = await serve(chain), await serve(chain)
    indexer = open_indexer(astray, honest)
    await drain(indexer)
    fork = chain.copy()
    fork.fork(5)
    fork.mine(count=8)
    astray.chain = fork
    chain.mine(transaction(logs.registered(1)))

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert await rows(database, "SELECT count(*) FROM events WHERE retracted_at IS NOT NULL") == [(0,)]


async def test_a_second_provider_that_cannot_say_confirms_nothing(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted()
    first, second = await serve(chain), await serve(chain)
    indexer = open_indexer(first, second)
    await drain(indexer)
    chain.fork(5)
    chain.mine(count=5)
    second.lag = 10

    assert {await indexer.step() for _ in range(4)} <= {Step.DOUBTFUL, Step.RETRY}

    assert (await checkpoint(database))["last_block_number"] == 40
    second.lag = 0
    await drain(indexer)
    assert await contents(database) == truth(chain)


async def test_a_moved_transaction_keeps_its_id_and_its_place_in_the_log(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted(20)
    moved = transaction(logs.registered(500), logs.metadata_set(500))
    chain.mine(moved)
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    before = await rows(database, HISTORY)

    chain.fork(1)
    chain.mine()
    chain.mine(transaction(logs.transfer(9), logs.transfer(9), logs.transfer(9)), moved)
    await drain(indexer)

    after = await rows(database, HISTORY)
    assert after[: len(before)] == before
    place = await rows(
        database, "SELECT block_number, log_index FROM events WHERE transaction_hash = $1 ORDER BY seq", moved.hash
    )
    assert place == [(22, 3), (22, 4)]
    assert await contents(database) == truth(chain)


async def test_a_raw_log_moves_with_its_block(database: Database, serve: Serve, open_indexer: Open) -> None:
    chain = make_scripted(20)
    moved = transaction(logs.unknown(1), logs.unknown(2))
    chain.mine(moved)
    indexer = open_indexer(await serve(chain))
    await drain(indexer)

    chain.fork(1)
    chain.mine(transaction(logs.transfer(9)), moved)
    await drain(indexer)

    assert await contents(database) == truth(chain)


async def test_a_reorg_deeper_than_the_dense_anchors_is_followed(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted(30)
    chain.mine(count=300)
    node = await serve(chain)
    node.finality_depth = 1_000
    indexer = open_indexer(node)
    await drain(indexer)
    chain.fork(200)
    chain.mine(transaction(logs.registered(777)), count=201)

    await drain(indexer)

    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["last_block_number"] == 331


async def test_a_fork_between_the_finalized_block_and_the_next_anchor_does_not_halt(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    chain = make_scripted(10)
    chain.mine(count=190)
    node = await serve(chain)
    indexer = open_indexer(node)
    await drain(indexer)
    assert (await checkpoint(database))["finalized_number"] == 136
    chain.fork(50)
    chain.mine(transaction(logs.registered(777)), count=51)

    await drain(indexer)

    assert await contents(database) == truth(chain)


async def test_a_reorg_below_the_finalized_block_halts_this_chain_only_and_writes_nothing(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]], bare_config: Config
) -> None:
    chain, other = make_scripted(100), ScriptedChain(11155111)
    node, other_node = await serve(chain), await serve(other)
    indexer, other_indexer = open_indexer(node), open_indexer(other_node, chain_id=11155111)
    await drain(indexer)
    before = await contents(database)
    chain.fork(80)
    chain.mine(transaction(logs.registered(777)), count=81)

    steps = [await indexer.step() for _ in range(3)]

    assert steps[-1] is Step.HALTED
    assert await contents(database) == before
    assert (await checkpoint(database))["status"] == "halted"
    (alarm,) = [line for line in log_lines if line.get("code") == "CHAIN_HALTED_BELOW_FINALIZED"]
    assert alarm["level"] == "CRITICAL"
    node.requests.clear()
    assert await indexer.step() is Step.HALTED
    assert node.requests == []
    other.mine(transaction(logs.registered(1)))
    await drain(other_indexer)
    assert (await checkpoint(database, 11155111))["status"] == "live"

    async with database.transaction() as tx:
        await ChainService(load_chains(bare_config)).request_reset(tx, ChainId(84532))
    await drain(indexer)

    assert (await checkpoint(database))["status"] == "live"
    assert (await checkpoint(database))["reset_to"] is None
    assert len(await contents(database)) == len(truth(chain)) + len(truth(other))


async def test_a_reset_reads_again_and_finds_the_same_events_under_the_same_ids(
    database: Database, serve: Serve, open_indexer: Open, bare_config: Config, log_lines: list[dict[str, object]]
) -> None:
    chain = make_scripted(100)
    indexer = open_indexer(await serve(chain))
    await drain(indexer)
    before = await rows(database, HISTORY)
    service = ChainService(load_chains(bare_config))

    async with database.transaction() as tx:
        dry = await service.request_reset(tx, ChainId(84532), 50, dry_run=True)
        plan = await service.request_reset(tx, ChainId(84532), 50)
    assert dry == plan
    assert (plan.from_block, plan.to_block, plan.events) == (100, 50, 50)
    assert await indexer.step() is Step.RESET
    assert len(await contents(database)) == 50
    await drain(indexer)

    assert await rows(database, HISTORY) == before
    assert await contents(database) == truth(chain)
    assert any(line["event"] == "chain.reset" and line["to_block"] == 50 for line in log_lines)


async def test_a_reset_goes_to_the_last_final_block_unless_told_otherwise(
    database: Database, serve: Serve, open_indexer: Open, bare_config: Config
) -> None:
    chain = make_scripted(100)
    indexer = open_indexer(await serve(chain))
    await drain(indexer)

    async with database.transaction() as tx:
        plan = await ChainService(load_chains(bare_config)).request_reset(tx, ChainId(84532))

    assert plan.to_block == (await checkpoint(database))["finalized_number"] == 36


async def test_a_reset_leaves_finality_unknown_where_it_was(
    database: Database, serve: Serve, open_indexer: Open, bare_config: Config
) -> None:
    chain = make_scripted(40)
    node = await serve(chain)
    node.tags = False
    indexer = open_indexer(node)
    await drain(indexer)

    async with database.transaction() as tx:
        await ChainService(load_chains(bare_config)).request_reset(tx, ChainId(84532), 30)
    assert await indexer.step() is Step.RESET

    now = await checkpoint(database)
    assert (now["safe_number"], now["finalized_number"], now["finalized_hash"]) == (None, None, None)


# In place of a retraction that takes longer than any statement may.
NEVER_IN_TIME = """
CREATE FUNCTION never_in_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('statement_timeout') <> '0' THEN
        RAISE query_canceled USING MESSAGE = 'canceling statement due to statement timeout';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER never_in_time AFTER UPDATE ON events EXECUTE FUNCTION never_in_time()"""


async def test_taking_back_may_take_as_long_as_it_needs(
    database: Database, serve: Serve, open_indexer: Open, bare_config: Config
) -> None:
    chain, local = make_scripted(100), ScriptedChain(31337)
    local.mine(transaction(logs.registered(1)), count=30)
    local_node = await serve(local)
    indexer, local_indexer = open_indexer(await serve(chain)), open_indexer(local_node, chain_id=31337, start_block=0)
    await drain(indexer)
    await drain(local_indexer)
    async with database.outside() as connection:
        await connection.execute(NEVER_IN_TIME)

    chain.fork(5)
    chain.mine(count=6)
    assert [await indexer.step() for _ in range(2)] == [Step.DOUBTFUL, Step.REORGED]
    async with database.transaction() as tx:
        await ChainService(load_chains(bare_config)).request_reset(tx, ChainId(84532), 50)
    assert await indexer.step() is Step.RESET
    local_node.chain = ScriptedChain(31337, start_time=1_780_000_000)
    assert await local_indexer.step() is Step.RESET


async def settle(database: Database, chain_id: int) -> int:
    """What the evaluator does of its own accord."""
    queue = EventQueue("test")
    async with database.transaction() as tx:
        seqs = [event.seq for event in await queue.unsettled(tx, ChainId(chain_id))]
        await queue.mark_settled(tx, seqs)
    return len(seqs)


async def test_a_local_chain_that_began_anew_is_read_from_its_start(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    old = ScriptedChain(31337, start_time=1_770_000_000)
    old.mine(transaction(logs.registered(1)), count=30)
    node = await serve(old)
    indexer = open_indexer(node, chain_id=31337, start_block=0)
    await drain(indexer)

    for blocks in (3, 80):  # below the checkpoint, and above it
        new = ScriptedChain(31337, start_time=1_780_000_000 + blocks)
        new.mine(transaction(logs.registered(2), logs.registered(blocks)), count=blocks)
        node.chain = new
        assert await indexer.step() is Step.RESET
        await settle(database, 31337)
        await drain(indexer)

        assert await contents(database) == truth(new)
        assert (await checkpoint(database, 31337))["last_block_number"] == blocks
    assert len([line for line in log_lines if line["event"] == "chain.reset"]) == 2


async def test_what_a_local_chain_was_is_settled_at_once_and_before_it_is_read_anew(
    database: Database, serve: Serve, open_indexer: Open
) -> None:
    again = transaction(logs.registered(1), logs.metadata_set(1))
    old = ScriptedChain(31337, start_time=1_770_000_000)
    old.mine(count=30)
    old.mine(again)
    node = await serve(old)
    indexer = open_indexer(node, chain_id=31337, start_block=0)
    await drain(indexer)
    new = ScriptedChain(31337, start_time=1_780_000_000)
    new.mine(again)
    node.chain = new

    assert [await indexer.step() for _ in range(3)] == [Step.RESET, Step.UNSETTLED, Step.UNSETTLED]
    assert await contents(database) == []
    assert await settle(database, 31337) == 2
    await drain(indexer)

    assert await contents(database) == truth(new)
    assert await rows(database, "SELECT block_number, epoch FROM events ORDER BY seq") == [(1, 1), (1, 1)]


async def test_a_public_chain_never_begins_anew(database: Database, serve: Serve, open_indexer: Open) -> None:
    old = make_scripted(30)
    node = await serve(old)
    indexer = open_indexer(node)
    await drain(indexer)
    node.chain = ScriptedChain(84532, start_time=1_780_000_000)

    assert {await indexer.step() for _ in range(4)} == {Step.RETRY}

    assert await contents(database) == truth(old)


async def test_providers_that_disagree_on_a_final_block_stop_the_chain_until_two_agree(
    database: Database, serve: Serve, open_indexer: Open, log_lines: list[dict[str, object]]
) -> None:
    chain = make_scripted(200)
    first, second = await serve(chain), await serve(chain)
    fork = chain.copy()
    fork.fork(199)
    fork.mine(count=199)
    second.chain = fork
    indexer = open_indexer(first, second)
    for _ in range(3):
        await indexer.step()
    at = (await checkpoint(database))["last_block_number"]

    assert {await indexer.step() for _ in range(3)} == {Step.DEGRADED}

    assert (await checkpoint(database))["last_block_number"] == at
    (alarm,) = [line for line in log_lines if line.get("code") == "RPC_DISAGREEMENT"]
    assert alarm["level"] == "CRITICAL"
    second.chain = chain
    await drain(indexer)
    assert await contents(database) == truth(chain)
    assert (await checkpoint(database))["status"] == "live"
