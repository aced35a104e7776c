"""What users asked to be told, and the worker that finds out what there is to tell.

A trigger is a condition over one event and the actions that follow. Every event that is committed to `events` meets
every trigger that was active for it, in one transaction with the deliveries of its matches: a match is never lost, and
never made twice. There is no limit to how many triggers match; none that breaks disturbs another.
"""

from agentauri.triggers.backtest import Backtested as Backtested
from agentauri.triggers.backtest import Backtester as Backtester
from agentauri.triggers.backtest import Day as Day
from agentauri.triggers.backtest import Wanted as Wanted
from agentauri.triggers.catalog import Catalog as Catalog
from agentauri.triggers.drafts import count_leaves as count_leaves
from agentauri.triggers.errors import ConditionNotFound as ConditionNotFound
from agentauri.triggers.errors import FollowNotFound as FollowNotFound
from agentauri.triggers.errors import TriggerNotFound as TriggerNotFound
from agentauri.triggers.errors import UnsupportedChain as UnsupportedChain
from agentauri.triggers.evaluator import Evaluator as Evaluator
from agentauri.triggers.explain import Explained as Explained
from agentauri.triggers.explain import Explainer as Explainer
from agentauri.triggers.explain import Explanation as Explanation
from agentauri.triggers.explain import Tested as Tested
from agentauri.triggers.explain import Trying as Trying
from agentauri.triggers.fields import EVENT_TYPES as EVENT_TYPES
from agentauri.triggers.follows import Follow as Follow
from agentauri.triggers.follows import FollowDraft as FollowDraft
from agentauri.triggers.follows import FollowPatch as FollowPatch
from agentauri.triggers.follows import FollowService as FollowService
from agentauri.triggers.history import Range as Range
from agentauri.triggers.parts import TriggerParts as TriggerParts
from agentauri.triggers.rules import Rule as Rule
from agentauri.triggers.rules import Rules as Rules
from agentauri.triggers.sampling import SampleEvent as SampleEvent
from agentauri.triggers.sampling import sampled as sampled
from agentauri.triggers.service import TriggerService as TriggerService
from agentauri.triggers.tracing import Traced as Traced
from agentauri.triggers.types import BreakerPatch as BreakerPatch
from agentauri.triggers.types import Condition as Condition
from agentauri.triggers.types import Environment as Environment
from agentauri.triggers.types import Prepared as Prepared
from agentauri.triggers.types import StateEntry as StateEntry
from agentauri.triggers.types import Trigger as Trigger
from agentauri.triggers.types import TriggerBreaker as TriggerBreaker
from agentauri.triggers.types import TriggerDetail as TriggerDetail
from agentauri.triggers.types import TriggerDraft as TriggerDraft
from agentauri.triggers.types import TriggerFilter as TriggerFilter
from agentauri.triggers.types import TriggerPatch as TriggerPatch
