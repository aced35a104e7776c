"""`agentauri demo`: everything started, the story told, everything stopped."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from agentauri.demo.anvil import AnvilMissing
from agentauri.demo.chain import LocalChain
from agentauri.demo.endpoint import Endpoint
from agentauri.demo.panel import Panel
from agentauri.demo.product import Product, ProductFailed
from agentauri.demo.screen import BOLD, Screen
from agentauri.demo.story import DemoFailed, Story


def run(once: bool) -> int:
    """Show the product: until Ctrl-C, or with `once` a fixed script that exits 0 only if all of it was verified."""
    folder = Path(tempfile.mkdtemp(prefix="agentauri-demo-"))
    folder.chmod(0o755)  # as root, the embedded servers run as somebody who has to enter it
    screen = Screen(sys.stdout)
    try:
        asyncio.run(_show(folder, screen, once))
    except (AnvilMissing, ProductFailed, DemoFailed) as error:
        screen.end_status()
        screen.line("problem", str(error))
        screen.text(f"The demo failed. Logs and data are kept in {folder}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.end_status()
        screen.text("Stopped before there was anything to show.")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _show(folder: Path, screen: Screen, once: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # SIGINT does this by itself
    screen.text("AgentAuri demo: agents are rated on a local chain, and bad ratings come back as signed webhooks", BOLD)
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(LocalChain.start())
        screen.fact("chain", f"anvil at {chain.url}, id {chain.chain_id}, three ERC-8004 registries deployed")
        endpoint = await stack.enter_async_context(Endpoint.open())
        screen.status("  agentauri serve is starting: PostgreSQL, Valkey, schema, first key")
        product = await stack.enter_async_context(Product.start(folder, chain.settings))
        screen.end_status()
        screen.fact("product", f"agentauri serve at {product.url}, on its own PostgreSQL and Valkey")
        story = Story(chain, product, endpoint, screen)
        await story.set_trigger()
        screen.text()
        panel = Panel(product, screen, story.trigger_id)
        watching = None if once or not screen.live else asyncio.create_task(panel.run())
        try:
            await (story.tell_once() if once else story.tell_on())
        except asyncio.CancelledError:
            task.uncancel()  # Ctrl-C is how the demo ends, not a failure of it
            if once:
                raise DemoFailed("interrupted") from None
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])
        if not story.sum_up():
            raise DemoFailed("not everything was as promised")
