"""The providers of one chain: which to ask, and whom to ask for a second opinion."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence

import aiohttp

from agentauri.chain.errors import RpcUnavailable
from agentauri.chain.health import SWITCH_GAIN
from agentauri.chain.rpc import Provider
from agentauri.chain.types import Chain
from agentauri.config import RpcConfig
from agentauri.log import get_logger

log = get_logger(__name__)


class Providers:
    """Keeps to one provider as long as it does well; the first one named is where it starts."""

    def __init__(self, chain: Chain, providers: Sequence[Provider]) -> None:
        self._chain = chain
        self._providers = list(providers)
        self._current = self._providers[0]

    @classmethod
    def of(cls, chain: Chain, session: aiohttp.ClientSession, config: RpcConfig) -> Providers:
        return cls(
            chain,
            [
                Provider(f"rpc-{number}", url, chain.id, session, config)
                for number, url in enumerate(chain.rpc_urls, start=1)
            ],
        )

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def pick(self, avoid: Collection[str] = ()) -> Provider:
        """The provider to ask now: not one of `avoid` while there is another.

        Raises:
            RpcUnavailable: all of them rest.
        """
        now = time.monotonic()
        awake = [provider for provider in self._providers if not provider.health.rests(now)]
        if not awake:
            raise RpcUnavailable(min(provider.health.resting_until for provider in self._providers) - now)
        candidates = [provider for provider in awake if provider.name not in avoid] or awake
        usual = self._current.health.latency or 0.0
        best = max(candidates, key=lambda provider: provider.health.score(usual))
        gain = best.health.score(usual) / self._current.health.score(usual)
        stays = self._current in candidates and gain < SWITCH_GAIN
        chosen = self._current if stays else best
        if chosen is not self._current:
            log.info(
                "rpc.switched",
                chain_id=self._chain.id,
                provider=chosen.name,
                before=self._current.name,
                reason=self._current.health.last_error,
            )
            self._current = chosen
        return chosen

    def others(self, provider: Provider) -> list[Provider]:
        """Those besides `provider` whose word counts: vetted, and not down."""
        return [one for one in self._providers if one is not provider and one.vetted and not one.health.is_down()]

    def awake(self, providers: Iterable[Provider]) -> list[Provider]:
        now = time.monotonic()
        return [provider for provider in providers if not provider.health.rests(now)]
