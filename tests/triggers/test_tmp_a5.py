import random
from agentauri.database import Database
from triggers import test_state_reorg as m

async def test_show(database: Database, make_evaluator):
    history=[('mine', [0, 1]), ('index', 1), ('mine', [0, 0, 2, 4, 4]), ('evaluate', 1), ('fork', 8, ['kept', 'kept', 'moved', 'kept']), ('index', 5), ('fork', 7, ['kept'])]
    from agentauri.triggers.batch import Batch
    old=Batch.write
    async def write(self, tx, *a, **k):
        for v in self.verdicts: print(v.row.kind, v.row.event_seq, v.row.again, v.superseded, v.asserts, [(d.trigger_id, x.matched, x.suppressed) for d, x in v.visits if 'means' in d.trigger_id])
        return await old(self, tx, *a, **k)
    Batch.write = write
    world = m.World(database, make_evaluator(max_concurrent_events=13), random.Random(16380))
    await m.live_through(world, history)
    fresh = m.World(database, world.evaluator, random.Random(0))
    fresh.blocks, fresh.hashes = world.blocks, world.hashes
    async with database.transaction() as tx:
        await m.make_triggers(tx, fresh)
    await fresh.settle()
    a = await m.outcome(database, world.chain_id)
    b = await m.outcome(database, fresh.chain_id)
    for n in a:
        print(n, "only world", [r for r in a[n] if r not in b[n]], "only fresh", [r for r in b[n] if r not in a[n]])
    print("highest", world.highest, "blocks", [(i + 1, [(l.number, l.agent, str(l.score), l.tag) for l in b]) for i, b in enumerate(world.blocks) if b])
    async with database.transaction() as tx:
        for r in await tx.fetch("SELECT seq, id, block_number, retracted_at, convert_from(data,'UTF8') FROM events WHERE chain_id=$1 ORDER BY seq", world.chain_id):
            print(tuple(r))
        for c in (world.chain_id, fresh.chain_id):
            for r in await tx.fetch("SELECT trigger_id, event_seq, kind, status, reason, hold FROM deliveries WHERE chain_id=$1 AND trigger_id LIKE 'means%' ORDER BY trigger_id, event_seq", c):
                print(tuple(r))
