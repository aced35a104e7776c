"""The log of registry events: appended once, never edited, and the queue of those still to be evaluated.

Whoever inserts into `events` has the event queued in the same transaction, and everybody woken on channel `new_event`.
What a chain takes back is marked, not deleted. Notifications are hints: the queue alone says what is to be done.
"""

from agentauri.events.errors import EventNotFound as EventNotFound
from agentauri.events.listener import Listener as Listener
from agentauri.events.queue import EventQueue as EventQueue
from agentauri.events.reached import Reached as Reached
from agentauri.events.reached import chain_times as chain_times
from agentauri.events.reached import depths as depths
from agentauri.events.service import EventService as EventService
from agentauri.events.types import COLUMNS as COLUMNS
from agentauri.events.types import DATA_COLUMNS as DATA_COLUMNS
from agentauri.events.types import Audited as Audited
from agentauri.events.types import Depth as Depth
from agentauri.events.types import Event as Event
from agentauri.events.types import EventFilter as EventFilter
from agentauri.events.types import Finished as Finished
from agentauri.events.types import Lane as Lane
from agentauri.events.types import NewEvent as NewEvent
from agentauri.events.types import Recorded as Recorded
from agentauri.events.types import select_list as select_list
