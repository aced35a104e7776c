"""The product shown to a stranger in a minute, and the local chain that tests and benches share with it."""

from agentauri.demo.anvil import AnvilMissing as AnvilMissing
from agentauri.demo.anvil import find_anvil as find_anvil
from agentauri.demo.artifacts import artifact as artifact
from agentauri.demo.chain import Account as Account
from agentauri.demo.chain import Call as Call
from agentauri.demo.chain import LocalChain as LocalChain
from agentauri.demo.chain import Log as Log
from agentauri.demo.chain import Minted as Minted
from agentauri.demo.chain import Receipt as Receipt
from agentauri.demo.chain import Reverted as Reverted
from agentauri.demo.show import run as run
