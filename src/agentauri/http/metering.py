"""Which budget a request draws on, and the headers that say where its caller stands."""

from __future__ import annotations

import hmac

from litestar.types import HTTPScope, Message, Receive, Send

from agentauri.accounts import ApiKeyPrincipal, counted_as
from agentauri.billing import PLANS
from agentauri.config import ServerConfig
from agentauri.http.exchange import Exchange, Layer, header
from agentauri.http.rate_limit import Budget, LimitExceeded, RateLimiter
from agentauri.http.security_headers import Spelled

ANONYMOUS_PER_HOUR = 10
FREE = 0
"""The cost of what is exempt."""


class Meter:
    def __init__(self, limiter: RateLimiter, config: ServerConfig) -> None:
        self._limiter = limiter
        self._credentials_per_hour = config.auth_rate_limit
        self._monitoring = config.monitoring_token

    async def charge(self, scope: HTTPScope, exchange: Exchange, cost: int, *, credentials: bool) -> None:
        """Take what this request costs from its caller's budget.

        Raises:
            LimitExceeded: it does not cover that.
        """
        budgets = self._budgets(exchange, credentials=credentials)
        if cost == FREE or self._monitors(scope):
            exchange.rate = self._limiter.peek(budgets, "exempt")
            return
        try:
            exchange.rate = await self._limiter.charge(budgets, cost)
        except LimitExceeded as refused:
            exchange.rate = refused.rate
            raise

    def look(self, exchange: Exchange) -> None:
        """Where the caller stands, for what was answered before anybody knew whose budget it is."""
        exchange.rate = self._limiter.peek(self._budgets(exchange, credentials=False))

    def pass_by(self, exchange: Exchange) -> None:
        """The same for what costs nobody anything."""
        exchange.rate = self._limiter.peek(self._budgets(exchange, credentials=False), "exempt")

    def _budgets(self, exchange: Exchange, *, credentials: bool) -> list[Budget]:
        if credentials:
            who = counted_as(exchange.client)
            return [Budget(f"agentauri:rl:{{auth:{who}}}", "auth", self._credentials_per_hour)]
        standing = exchange.standing
        if standing is None:
            return [Budget(f"agentauri:rl:{{ip:{counted_as(exchange.client)}}}", "anonymous", ANONYMOUS_PER_HOUR)]
        key = f"agentauri:rl:{{org:{standing.organization_id}}}"
        budgets = [Budget(key, standing.plan, PLANS[standing.plan].requests_per_hour)]
        match exchange.principal:
            case ApiKeyPrincipal(key_id=key_id, rate_limit_override=int(limit)):
                budgets.append(Budget(f"{key}:key:{key_id}", "key", limit))
        return budgets

    def _monitors(self, scope: HTTPScope) -> bool:
        given = header(scope, b"x-monitoring-token")
        if self._monitoring is None or given is None:
            return False
        return hmac.compare_digest(given.encode(), self._monitoring.reveal().encode())


class RateHeaders:
    """Puts the budget on every answer, errors included."""

    def __init__(self, app: Layer, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange = Exchange.of(scope)
                if exchange.rate is None:
                    self._meter.look(exchange)
                assert exchange.rate is not None
                shown = [(Spelled(name.encode()), value.encode()) for name, value in exchange.rate.headers()]
                message["headers"] = [*message["headers"], *shown]
            await send(message)

        await self._app(scope, receive, send_with_rate)
