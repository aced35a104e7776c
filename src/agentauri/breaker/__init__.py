"""When to stop trying: one circuit breaker per trigger, asked before a send and told after it.

The row in `circuit_breaker_state` is the whole truth, so that SQL by hand takes effect at once and every process
decides alike. No row means closed.
"""

from agentauri.breaker.service import BreakerService as BreakerService
from agentauri.breaker.types import Admission as Admission
from agentauri.breaker.types import Breaker as Breaker
from agentauri.breaker.types import BreakerBusy as BreakerBusy
from agentauri.breaker.types import BreakerConfig as BreakerConfig
from agentauri.breaker.types import Outcome as Outcome
from agentauri.breaker.types import State as State
from agentauri.breaker.types import Transition as Transition
