"""What this installation says of itself to those who look for it: agents, and people who found a hole."""

from __future__ import annotations

from datetime import datetime, timedelta

from litestar import Response, get
from msgspec import Struct

from agentauri.billing import PLANS
from agentauri.chain import ChainStatus
from agentauri.config import ServerConfig
from agentauri.errors import NotFound
from agentauri.http.auth import OPEN
from agentauri.http.call import Call
from agentauri.http.cors import ALLOW_ORIGIN
from agentauri.http.metering import ANONYMOUS_PER_HOUR, FREE
from agentauri.types import utc_now

PROTOCOL = "ERC-8004"
VALID = timedelta(days=365)


class PushChain(Struct, frozen=True, kw_only=True):
    chain_id: int
    name: str
    registries: list[str]


class PushLayer(Struct, frozen=True, kw_only=True):
    """Told when something happens."""

    enabled: bool
    features: list[str]
    supported_chains: list[PushChain]


class PullLayer(Struct, frozen=True, kw_only=True):
    """Asked for what is known."""

    enabled: bool
    features: list[str]


class Authentication(Struct, frozen=True, kw_only=True):
    methods: list[str]
    oauth2_supported: bool = False


class Tier(Struct, frozen=True, kw_only=True):
    """`rate_limit` is in units an hour."""

    tier: str
    rate_limit: int
    authentication: bool


class RateLimiting(Struct, frozen=True, kw_only=True):
    enabled: bool
    tiers: list[Tier]


class Capabilities(Struct, frozen=True, kw_only=True):
    push_layer: PushLayer
    pull_layer: PullLayer
    authentication: Authentication
    rate_limiting: RateLimiting


class Contact(Struct, frozen=True, kw_only=True):
    email: str
    github: str
    documentation: str


class AgentDocument(Struct, frozen=True, kw_only=True):
    name: str
    version: str
    description: str
    api_version: str
    base_url: str
    protocol_version: str
    generated_at: datetime
    capabilities: Capabilities
    endpoints: dict[str, str]
    contact: Contact


@get("/.well-known/agent.json", access=OPEN, cost=FREE)
async def agent_document(request: Call) -> Response[AgentDocument]:
    """What this service can do, for programs that look for one. Pages of any origin may read it."""
    services = request.services
    server = services.server
    described = AgentDocument(
        name="AgentAuri",
        version=services.version,
        description="Watches the ERC-8004 agent registries and tells of what happens there.",
        api_version="v1",
        base_url=server.base_url,
        protocol_version=PROTOCOL,
        generated_at=utc_now(),
        capabilities=_capabilities(server, await request.desk.chains.get()),
        endpoints=_endpoints(server),
        contact=Contact(
            email=server.discovery.contact_email,
            github=server.discovery.contact_github,
            documentation=server.discovery.documentation_url,
        ),
    )
    return Response(described, headers={ALLOW_ORIGIN: "*"})


@get("/.well-known/security.txt", access=OPEN, cost=FREE, media_type="text/plain", also=(404,))
async def security_txt(request: Call) -> Response[str]:
    """Whom to tell of a hole, as RFC 9116 has it. 404 until somebody is named."""
    server = request.services.server
    found = server.discovery
    if found.security_email is None and found.security_url is None:
        raise NotFound("There is nothing at this address.")
    lines = [
        ("Contact", found.security_email and f"mailto:{found.security_email}"),
        ("Contact", found.security_url),
        ("Expires", (utc_now() + VALID).strftime("%Y-%m-%dT%H:%M:%SZ")),
        ("Policy", found.security_policy_url),
        ("Acknowledgments", found.security_acknowledgments_url),
        ("Canonical", f"{server.base_url.rstrip('/')}/.well-known/security.txt"),
        ("Preferred-Languages", "en"),
        ("Hiring", found.security_hiring_url),
    ]
    text = "".join(f"{name}: {value}\n" for name, value in lines if value)
    return Response(text, media_type="text/plain")


def _capabilities(server: ServerConfig, chains: list[ChainStatus]) -> Capabilities:
    followed = [
        PushChain(chain_id=chain.chain_id, name=chain.name, registries=list(chain.registries))
        for chain in chains
        if chain.enabled
    ]
    tiers = [Tier(tier="anonymous", rate_limit=ANONYMOUS_PER_HOUR, authentication=False)]
    tiers += [Tier(tier=plan, rate_limit=terms.requests_per_hour, authentication=True) for plan, terms in PLANS.items()]
    return Capabilities(
        push_layer=PushLayer(
            enabled=True, features=["triggers", "follows", "webhook", "telegram", "mcp"], supported_chains=followed
        ),
        pull_layer=PullLayer(enabled=True, features=["events", "agents", "reputation", "validations"]),
        authentication=Authentication(methods=["api_key", "jwt"]),
        rate_limiting=RateLimiting(enabled=server.rate_limit_mode == "enforcing", tiers=tiers),
    )


def _endpoints(server: ServerConfig) -> dict[str, str]:
    paths = {
        "api": "/api/v1",
        "openapi": "/api/v1/openapi.json",
        "health": "/api/v1/health",
        "events": "/api/v1/events",
        "agents": "/api/v1/agents",
        "triggers": "/api/v1/triggers",
    }
    if server.api_docs:
        paths["docs"] = "/api-docs/"
    return {name: server.base_url.rstrip("/") + path for name, path in paths.items()}


routes = [agent_document, security_txt]
