"""Routes about agents: what the registries say of them now. Public facts, nobody's in particular."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, structs

from agentauri.agents import (
    Agent,
    AgentDetail,
    AgentFilter,
    Feedback,
    FeedbackFilter,
    Validation,
    ValidationFilter,
)
from agentauri.chain import Standing
from agentauri.database import Transaction
from agentauri.errors import FieldError, Invalid
from agentauri.http.auth import ANY
from agentauri.http.call import Call
from agentauri.http.exchange import Exchange
from agentauri.http.fields import (
    AddressText,
    ChainNumber,
    DecimalText,
    Moment,
    Parameters,
    Text,
    address,
    decimal,
    first_second,
)
from agentauri.http.ids import agent_of
from agentauri.http.lists import CursorPaging, Listing, Order, as_is, listing
from agentauri.http.reading import Aliased
from agentauri.types import ChainId

ALL = "all"
MOST_IN_QUERY = 100
Tag = Annotated[str, Meta(min_length=1, max_length=1000)]


class AgentView(Agent, frozen=True, kw_only=True):
    """An agent. `registry_id` is null on a chain that is not known, `followed` where no organization asks."""

    registry_id: str | None
    followed: bool | None


class AgentDetailView(AgentDetail, frozen=True, kw_only=True):
    """An agent, and the sum of what is said of it as of a block; `as_of` is null where nobody indexes the chain."""

    registry_id: str | None
    followed: bool | None
    as_of: Standing | None


class ReputationView(Struct, frozen=True, kw_only=True):
    """What `getSummary` of the contract returns at that block. `score` is `summary_value` with its decimals."""

    count: str
    summary_value: str
    summary_value_decimals: int
    score: str
    clients_count: int
    basis: Literal["listed", "all"]
    as_of: Standing | None


class ValidationSummaryView(Struct, frozen=True, kw_only=True):
    """What `getSummary` of the validation contract returns at that block."""

    count: str
    average_response: int
    as_of: Standing | None


class AgentQuery(CursorPaging, frozen=True, kw_only=True):
    """Which agents: all that are given must fit; of a list, one. `min_score` needs `tag`."""

    chain_id: tuple[ChainNumber, ...] = ()
    owner: AddressText | None = None
    wallet: AddressText | None = None
    search: Annotated[str, Meta(min_length=2, max_length=100)] | None = None
    has_feedback: bool | None = None
    tag: Tag | None = None
    min_score: DecimalText | None = None
    registered_since: Moment | None = None
    updated_since: Moment | None = None
    sort: Literal["registered_at", "updated_at", "feedback_count"] = "registered_at"
    order: Order = "desc"

    def as_filter(self) -> AgentFilter:
        parameters = Parameters()
        if self.min_score is not None and self.tag is None:
            parameters.refuse("min_score", "can only be given together with tag: scores of several tags have no mean")
        wanted = AgentFilter(
            chain_ids=tuple(ChainId(chain) for chain in self.chain_id),
            owner=parameters.read("owner", self.owner, address),
            wallet=parameters.read("wallet", self.wallet, address),
            search=self.search,
            has_feedback=self.has_feedback,
            tag=self.tag,
            min_score=parameters.read("min_score", self.min_score, decimal),
            registered_since=first_second(self.registered_since),
            updated_since=first_second(self.updated_since),
            sort=self.sort,
            order=self.order,
        )
        parameters.check()
        return wanted


class FeedbackQuery(CursorPaging, frozen=True, kw_only=True):
    client: AddressText | None = None
    tag1: Text | None = None
    tag2: Text | None = None
    include_revoked: bool = False
    order: Order = "desc"

    def as_filter(self) -> FeedbackFilter:
        parameters = Parameters()
        client = parameters.read("client", self.client, address)
        parameters.check()
        return FeedbackFilter(
            client=client, tag1=self.tag1, tag2=self.tag2, include_revoked=self.include_revoked, order=self.order
        )


class ValidationQuery(CursorPaging, frozen=True, kw_only=True):
    validator: AddressText | None = None
    tag: Text | None = None
    answered: bool | None = None

    def as_filter(self) -> ValidationFilter:
        parameters = Parameters()
        validator = parameters.read("validator", self.validator, address)
        parameters.check()
        return ValidationFilter(validator=validator, tag=self.tag, answered=self.answered)


class ReputationQuery(Aliased, frozen=True, kw_only=True):
    """`clients`: addresses between commas in the order of the contract's list, at most 100, or `all`."""

    clients: str = ""
    tag1: Text = ""
    tag2: Text = ""


class ReputationRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`clients`: addresses in the order of the contract's list, or `all` for each that has given feedback."""

    clients: Annotated[list[str], Meta(max_length=1000)] | Literal["all"]
    tag1: Text = ""
    tag2: Text = ""


class ValidationSummaryQuery(Aliased, frozen=True, kw_only=True):
    """`validators`: addresses between commas, at most 100; none means all."""

    validators: str = ""
    tag: Text = ""


@get("/agents", access=ANY, search_cost=2)
async def list_agents(request: Call, filters: NamedDependency[AgentQuery]) -> Listing[AgentView]:
    """Agents, the last registered first unless asked otherwise."""
    page, wanted = filters.as_page(), filters.as_filter()
    registries = await _registries(request)
    async with request.transaction() as tx:
        found = await request.services.agents.list(tx, wanted, page)
        followed = await _followed(request, tx, found.data)

    def view(agent: Agent) -> AgentView:
        return AgentView(
            **structs.asdict(agent),
            registry_id=registries.get(agent.chain_id),
            followed=None if followed is None else (agent.chain_id, agent.agent_id) in followed,
        )

    return listing(found, page, view)


@get("/agents/{chain_id:str}/{agent_id:str}", access=ANY, cost=2)
async def get_agent(request: Call, chain_id: FromPath[str], agent_id: FromPath[str]) -> AgentDetailView:
    """One agent: metadata, feedback by tag, validations."""
    chain, agent = agent_of(chain_id, agent_id)
    registries = await _registries(request)
    async with request.snapshot() as tx:
        found = await request.services.agents.detail(tx, chain, agent)
        as_of = await request.services.chains.standing(tx, chain)
        followed = await _followed(request, tx, [found])
    return AgentDetailView(
        **{name: getattr(found, name) for name in AgentDetail.__struct_fields__},
        registry_id=registries.get(chain),
        followed=None if followed is None else bool(followed),
        as_of=as_of,
    )


@get("/agents/{chain_id:str}/{agent_id:str}/feedback", access=ANY)
async def list_feedback(
    request: Call, chain_id: FromPath[str], agent_id: FromPath[str], filters: NamedDependency[FeedbackQuery]
) -> Listing[Feedback]:
    """Feedback about an agent with the responses to it, newest first unless asked otherwise."""
    (chain, agent), page, wanted = agent_of(chain_id, agent_id), filters.as_page(), filters.as_filter()
    async with request.transaction() as tx:
        found = await request.services.agents.feedback(tx, chain, agent, wanted, page)
    return listing(found, page, as_is)


@get("/agents/{chain_id:str}/{agent_id:str}/validations", access=ANY)
async def list_validations(
    request: Call, chain_id: FromPath[str], agent_id: FromPath[str], filters: NamedDependency[ValidationQuery]
) -> Listing[Validation]:
    """Validations of an agent with their answers, the latest request first."""
    (chain, agent), page, wanted = agent_of(chain_id, agent_id), filters.as_page(), filters.as_filter()
    async with request.transaction() as tx:
        found = await request.services.agents.validations(tx, chain, agent, wanted, page)
    return listing(found, page, as_is)


@get("/agents/{chain_id:str}/{agent_id:str}/reputation", access=ANY, cost=5)
async def get_reputation(
    request: Call, chain_id: FromPath[str], agent_id: FromPath[str], filters: NamedDependency[ReputationQuery]
) -> ReputationView:
    """What the contract's summary says of an agent."""
    agent = agent_of(chain_id, agent_id)
    given = None if filters.clients == ALL else [text for text in filters.clients.split(",") if text]
    if given is not None and len(given) > MOST_IN_QUERY:
        raise _refused("query.clients", f"must be at most {MOST_IN_QUERY} addresses; POST takes more of them")
    clients = None if given is None else _addresses(given, "query.clients")
    return await _reputation(request, agent, clients, filters.tag1, filters.tag2, "query.")


@post("/agents/{chain_id:str}/{agent_id:str}/reputation", access=ANY, cost=5, status_code=200)
async def ask_reputation(
    request: Call, chain_id: FromPath[str], agent_id: FromPath[str], data: JSONBody[ReputationRequest]
) -> ReputationView:
    """The same for a longer list of clients."""
    agent = agent_of(chain_id, agent_id)
    clients = None if data.clients == ALL else _addresses(data.clients, "clients")
    return await _reputation(request, agent, clients, data.tag1, data.tag2, "")


@get("/agents/{chain_id:str}/{agent_id:str}/validations/summary", access=ANY, cost=2)
async def get_validation_summary(
    request: Call, chain_id: FromPath[str], agent_id: FromPath[str], filters: NamedDependency[ValidationSummaryQuery]
) -> ValidationSummaryView:
    """What the validation contract's summary says of an agent."""
    chain, agent = agent_of(chain_id, agent_id)
    given = [text for text in filters.validators.split(",") if text]
    if len(given) > MOST_IN_QUERY:
        raise _refused("query.validators", f"must be at most {MOST_IN_QUERY} addresses")
    validators = _addresses(given, "query.validators")
    async with request.snapshot() as tx:
        summary = await request.services.agents.validation_summary(tx, chain, agent, validators, filters.tag)
        as_of = await request.services.chains.standing(tx, chain)
    return ValidationSummaryView(count=str(summary.count), average_response=summary.average, as_of=as_of)


async def _reputation(
    request: Call, agent: tuple[ChainId, int], clients: Sequence[str] | None, tag1: str, tag2: str, prefix: str
) -> ReputationView:
    if clients is not None and not clients:
        raise _refused(f"{prefix}clients", "must name at least one client, or be all: so the contract wants it")
    async with request.snapshot() as tx:
        summary, asked = await request.services.agents.reputation(tx, *agent, clients, tag1, tag2)
        as_of = await request.services.chains.standing(tx, agent[0])
    return ReputationView(
        count=str(summary.count),
        summary_value=str(summary.value),
        summary_value_decimals=summary.decimals,
        score=format(summary.score, "f"),
        clients_count=asked,
        basis="all" if clients is None else "listed",
        as_of=as_of,
    )


def _addresses(given: Sequence[str], field: str) -> list[str]:
    """
    Raises:
        Invalid: one of them is none.
    """
    found, refused = [], []
    for place, text in enumerate(given):
        try:
            found.append(address(text))
        except ValueError as error:
            refused.append(FieldError(f"{field}[{place}]", str(error)))
    if refused:
        raise Invalid.fields(*refused)
    return found


def _refused(field: str, rule: str) -> Invalid:
    return Invalid.fields(FieldError(field, rule))


async def _registries(request: Call) -> dict[ChainId, str]:
    """What an agent's registry is called everywhere, for each chain."""
    return {
        chain.chain_id: f"eip155:{chain.chain_id}:{chain.registries['identity'].address}"
        for chain in await request.desk.chains.get()
    }


async def _followed(request: Call, tx: Transaction, agents: Collection[Agent]) -> set[tuple[int, str]] | None:
    """Those of them that the organization follows; None for nobody in particular."""
    standing = Exchange.of(request.scope).standing
    if standing is None:
        return None
    asked = [(int(agent.chain_id), agent.agent_id) for agent in agents]
    return await request.services.follows.among(tx, standing.organization_id, standing.environment, asked)


routes = [
    list_agents,
    get_agent,
    list_feedback,
    list_validations,
    get_validation_summary,
    get_reputation,
    ask_reputation,
]
