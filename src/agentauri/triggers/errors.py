"""What callers are told about triggers."""

from __future__ import annotations

from agentauri.errors import Conflict, Invalid, NotFound, RateLimited


class TriggerNotFound(NotFound):
    code = "trigger_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such trigger.")


class UnsupportedChain(Invalid):
    code = "unsupported_chain"


class ConditionNotFound(NotFound):
    code = "condition_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such condition.")


class ManagedByFollow(Conflict):
    """A trigger of a follow changes with it."""

    code = "managed_by_follow"

    def __init__(self) -> None:
        super().__init__(
            "The trigger belongs to a follow: change or end the follow. Only `enabled` is the trigger's own."
        )


class FollowNotFound(NotFound):
    code = "follow_not_found"

    def __init__(self) -> None:
        super().__init__("The agent is not followed.")


class AlreadyFollowing(Conflict):
    code = "already_following"

    def __init__(self) -> None:
        super().__init__("The agent is followed already.")


class BacktestRunning(RateLimited):
    """An organization has one backtest at a time."""

    code = "concurrency_limit"

    def __init__(self) -> None:
        super().__init__("Another backtest of this organization is running.", 5.0)
