"""What providers and chains do to us. All of it is weather: the indexer waits, asks elsewhere or asks for less."""

from __future__ import annotations

from agentauri.errors import Conflict, NotFound, Unavailable


class RpcError(Unavailable):
    """A provider did not answer a call as it should. The message never holds a URL."""

    code = "rpc_error"
    held = False
    """It counts in the provider's record already, since the request as a whole failed."""


class Throttled(RpcError):
    """Too many requests; come back after `after` seconds, if it said so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class RangeTooLarge(RpcError):
    """More blocks or logs than this provider gives at once.

    `blocks` is the number that would do, where it said so; `fixed` when that is its limit whatever the blocks hold.
    """

    def __init__(self, message: str, blocks: int | None = None, *, fixed: bool = False) -> None:
        super().__init__(message)
        self.blocks = blocks
        self.fixed = fixed


class BatchTooLarge(RpcError):
    """More calls than this provider takes in one request."""


class Lagging(RpcError):
    """The provider does not know a block that exists."""


class ProviderFailed(RpcError):
    """Anything else: no connection, no answer in time, an answer that cannot be read, a refusal."""


class TimedOut(ProviderFailed):
    """No answer in time: the provider is slow, or we asked for much."""


class Untruthful(RpcError):
    """An answer that contradicts itself or the block it speaks of; `lie` when no race can explain it."""

    def __init__(self, message: str, *, lie: bool) -> None:
        super().__init__(message)
        self.lie = lie


class RpcUnavailable(Unavailable):
    """Every provider of a chain is at rest; the first is back after `after` seconds."""

    code = "rpc_unavailable"

    def __init__(self, after: float) -> None:
        super().__init__("No RPC provider of this chain can be asked just now.")
        self.after = after


class SelfCheckFailed(Unavailable):
    """What stands behind the URL or the addresses is not what we are to index. The message says what to do."""

    code = "chain_self_check_failed"


class WrongChain(SelfCheckFailed):
    """A provider serves another chain."""


class NoHistory(SelfCheckFailed):
    """A provider no longer has blocks without which we cannot begin."""


class ChainNotFound(NotFound):
    code = "chain_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such chain here.")


class ChainNotBegun(Conflict):
    code = "chain_not_begun"

    def __init__(self) -> None:
        super().__init__("Nothing of this chain has been read yet, so there is nothing to reset.")
