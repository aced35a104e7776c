"""What users asked to be told, and the worker that finds out what there is to tell.

A trigger is a condition over one event and the actions that follow. Every event that is committed to `events` meets
every trigger that was active for it, in one transaction with the deliveries of its matches: a match is never lost, and
never made twice. There is no limit to how many triggers match; none that breaks disturbs another.
"""

from agentauri.triggers.catalog import Catalog as Catalog
from agentauri.triggers.errors import TriggerNotFound as TriggerNotFound
from agentauri.triggers.errors import UnsupportedChain as UnsupportedChain
from agentauri.triggers.evaluator import Evaluator as Evaluator
from agentauri.triggers.fields import EVENT_TYPES as EVENT_TYPES
from agentauri.triggers.service import TriggerService as TriggerService
from agentauri.triggers.types import BreakerPatch as BreakerPatch
from agentauri.triggers.types import Prepared as Prepared
from agentauri.triggers.types import Trigger as Trigger
from agentauri.triggers.types import TriggerBreaker as TriggerBreaker
from agentauri.triggers.types import TriggerDetail as TriggerDetail
from agentauri.triggers.types import TriggerDraft as TriggerDraft
from agentauri.triggers.types import TriggerFilter as TriggerFilter
from agentauri.triggers.types import TriggerPatch as TriggerPatch
