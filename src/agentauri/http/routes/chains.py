"""Routes about the chains that are indexed."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from agentauri.chain import ChainStatus
from agentauri.errors import NotFound
from agentauri.http.auth import ANY
from agentauri.http.call import Call
from agentauri.http.lists import Listing, Paging, as_is, listing
from agentauri.types import Paged


@get("/chains", access=ANY)
async def list_chains(request: Call, filters: NamedDependency[Paging]) -> Listing[ChainStatus]:
    """Every known chain, and how far it is indexed."""
    page, chains = filters.as_page(), await request.desk.chains.get()
    end = page.offset + page.limit
    found = Paged(data=chains[page.offset : end], total=len(chains), has_more=end < len(chains))
    return listing(found, page, as_is)


@get("/chains/{chain_id:str}", access=ANY)
async def get_chain(request: Call, chain_id: FromPath[str]) -> ChainStatus:
    """One chain."""
    for chain in await request.desk.chains.get():
        if str(chain.chain_id) == chain_id:
            return chain
    raise NotFound("There is no such chain.")


routes = [list_chains, get_chain]
