"""What callers are told, and, inside this package, the whole verdict on a send."""

from __future__ import annotations

from agentauri.errors import Conflict, NotFound, Unavailable


class DeliveryNotFound(NotFound):
    code = "delivery_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such delivery.")


class ActionNotFound(NotFound):
    code = "action_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such action.")


class NotAWebhook(Conflict):
    """The action has no signing secret."""

    code = "conflict"

    def __init__(self) -> None:
        super().__init__("Only webhooks have a signing secret.")


class Changed(Conflict):
    """What the caller wanted to change was changed by somebody else in between."""

    code = "conflict"

    def __init__(self) -> None:
        super().__init__("The action was changed by somebody else just now. Read it again.")


class DeliveryPending(Conflict):
    code = "delivery_pending"

    def __init__(self, hold: str | None = None) -> None:
        until = {
            "depth": "its event is deep enough in its chain",
            "breaker": "its trigger's circuit breaker lets it go",
            "retraction": "it is settled whether its event comes back",
            "paused": "its trigger and its action are enabled",
        }.get(hold or "")
        super().__init__(f"The delivery is pending already{f', and waits until {until}' if until else ''}.")


class EventRetracted(Conflict):
    code = "event_retracted"

    def __init__(self) -> None:
        super().__init__("The delivery's event is not on the chain any more.")


class NotDeliverable(Conflict):
    """A delivery that cannot be sent again; the message says why."""

    code = "conflict"


class RedisUnavailable(Unavailable):
    """Redis cannot be reached, or refuses to work. Everything it knew can be read from PostgreSQL."""


class DeliveryFailed(Exception):
    """A send that failed. `kind` is a word for machines, the message the real cause, without secrets; `reason` is what
    a delivery has died of that it ends."""

    reason = "permanent"

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        excerpt: str | None = None,
        peer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.excerpt = excerpt
        self.peer = peer


class Retryable(DeliveryFailed):
    """May succeed later; `after` seconds at the earliest where the receiver says so."""

    after: float | None = None


class Permanent(DeliveryFailed):
    """Would fail again as it stands."""
