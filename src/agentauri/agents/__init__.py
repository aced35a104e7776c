"""The state of every agent: what the registries say now, by the canonical events of their chain and nothing else.

It changes in the same transaction as the events do, is undone exactly when a chain takes events back, and comes out the
same when it is made afresh.
"""

from agentauri.agents.errors import AgentNotFound as AgentNotFound
from agentauri.agents.ledger import Sampled as Sampled
from agentauri.agents.ledger import sample as sample
from agentauri.agents.projection import Projections as Projections
from agentauri.agents.reader import AgentReader as AgentReader
from agentauri.agents.reputation import Entries as Entries
from agentauri.agents.reputation import Summary as Summary
from agentauri.agents.reputation import ValidationSummary as ValidationSummary
from agentauri.agents.reputation import gather as gather
from agentauri.agents.reputation import summarize as summarize
from agentauri.agents.reputation import summarize_responses as summarize_responses
from agentauri.agents.upkeep import recounting as recounting
from agentauri.agents.views import Agent as Agent
from agentauri.agents.views import AgentDetail as AgentDetail
from agentauri.agents.views import AgentFilter as AgentFilter
from agentauri.agents.views import Feedback as Feedback
from agentauri.agents.views import FeedbackFilter as FeedbackFilter
from agentauri.agents.views import Validation as Validation
from agentauri.agents.views import ValidationFilter as ValidationFilter
