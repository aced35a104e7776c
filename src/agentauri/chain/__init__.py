"""What the chains say: one indexer per network turns registry logs into events.

Every block from a chain's first to its checkpoint has been read, whatever happened meanwhile. Events, logs that are
none, and checkpoint are stored together; what a reorg undoes is retracted, and comes back under its old id. Providers
are doubted: what contradicts itself or a block's header is asked for elsewhere.
"""

from agentauri.chain.calls import call_at as call_at
from agentauri.chain.chains import load_chains as load_chains
from agentauri.chain.errors import ChainNotBegun as ChainNotBegun
from agentauri.chain.errors import ChainNotFound as ChainNotFound
from agentauri.chain.errors import RpcUnavailable as RpcUnavailable
from agentauri.chain.indexer import Indexer as Indexer
from agentauri.chain.indexer import indexers as indexers
from agentauri.chain.redecode import Redecoded as Redecoded
from agentauri.chain.redecode import Redecoder as Redecoder
from agentauri.chain.service import ChainService as ChainService
from agentauri.chain.types import Chain as Chain
from agentauri.chain.types import ChainStatus as ChainStatus
from agentauri.chain.types import EventCount as EventCount
from agentauri.chain.types import Registry as Registry
from agentauri.chain.types import ResetPlan as ResetPlan
from agentauri.chain.types import Standing as Standing
from agentauri.chain.types import Step as Step
from agentauri.chain.verification import Verdict as Verdict
from agentauri.chain.verification import verify as verify
