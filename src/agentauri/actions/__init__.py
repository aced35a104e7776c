"""Making it happen: actions as configured, deliveries as promised, sent at least once under one id.

A delivery exists from the commit of its match on. Redis holds ids of what is due and may lose them; the row in
PostgreSQL says who sends, how often it was tried and what became of it.
"""

from agentauri.actions.action_store import ACTIONS_OF_T as ACTIONS_OF_T
from agentauri.actions.action_store import read_actions as read_actions
from agentauri.actions.channels import CONFIG_SCHEMAS as CONFIG_SCHEMAS
from agentauri.actions.channels import BotApi as BotApi
from agentauri.actions.channels import make_channels as make_channels
from agentauri.actions.channels.channel import MASK as MASK
from agentauri.actions.channels.webhook import masked_url as masked_url
from agentauri.actions.configuration import MAX_ACTIONS as MAX_ACTIONS
from agentauri.actions.configuration import ActionService as ActionService
from agentauri.actions.configuration import patched as patched
from agentauri.actions.dispatcher import Dispatcher as Dispatcher
from agentauri.actions.egress import Guard as Guard
from agentauri.actions.errors import ActionNotFound as ActionNotFound
from agentauri.actions.errors import DeliveryNotFound as DeliveryNotFound
from agentauri.actions.errors import DeliveryPending as DeliveryPending
from agentauri.actions.errors import EventRetracted as EventRetracted
from agentauri.actions.errors import NotDeliverable as NotDeliverable
from agentauri.actions.errors import RedisUnavailable as RedisUnavailable
from agentauri.actions.event_text import compile_event_text as compile_event_text
from agentauri.actions.filters import TemplateError as TemplateError
from agentauri.actions.identity import correlation_id as correlation_id
from agentauri.actions.identity import delivery_id as delivery_id
from agentauri.actions.outbound import Outbound as Outbound
from agentauri.actions.pressure import BackPressure as BackPressure
from agentauri.actions.preview import Preview as Preview
from agentauri.actions.queue import Census as Census
from agentauri.actions.queue import Queue as Queue
from agentauri.actions.queue import connect_redis as connect_redis
from agentauri.actions.queue import describe_fault as describe_fault
from agentauri.actions.rehearsing import Part as Part
from agentauri.actions.rehearsing import Rehearsing as Rehearsing
from agentauri.actions.rehearsing import Rendered as Rendered
from agentauri.actions.service import DeliveryService as DeliveryService
from agentauri.actions.signing_secrets import Rotation as Rotation
from agentauri.actions.signing_secrets import SecretHint as SecretHint
from agentauri.actions.signing_secrets import SharedSecret as SharedSecret
from agentauri.actions.types import Action as Action
from agentauri.actions.types import ActionDraft as ActionDraft
from agentauri.actions.types import ActionPatch as ActionPatch
from agentauri.actions.types import Attempt as Attempt
from agentauri.actions.types import ChainLabel as ChainLabel
from agentauri.actions.types import CheckedAction as CheckedAction
from agentauri.actions.types import Delivery as Delivery
from agentauri.actions.types import DeliveryDetail as DeliveryDetail
from agentauri.actions.types import DeliveryDraft as DeliveryDraft
from agentauri.actions.types import DeliveryFilter as DeliveryFilter
from agentauri.actions.types import LoadSubjects as LoadSubjects
from agentauri.actions.types import MatchAction as MatchAction
from agentauri.actions.types import Release as Release
from agentauri.actions.types import ReleaseTag as ReleaseTag
from agentauri.actions.types import Replay as Replay
from agentauri.actions.types import Replayed as Replayed
from agentauri.actions.types import SettledEvent as SettledEvent
from agentauri.actions.types import Subjects as Subjects
from agentauri.actions.types import TriggerFacts as TriggerFacts
