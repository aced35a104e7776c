"""What the layers around the application know about one request, and hand to each other in its scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from agentauri.accounts import Anonymous, Principal, Standing
from agentauri.http.rate_limit import Rate
from agentauri.types import OrganizationId

UNMATCHED = "unmatched"

Layer = Callable[[HTTPScope, Receive, Send], Awaitable[None]]
"""An ASGI application that sees requests only: the server takes no web sockets."""


class Exchange(Struct):
    """`route` is the template of the address, never what a caller made up. `named` is the organization that path,
    header or query name; `standing` is the principal's in the one that the request is about, None for nobody in
    particular. `rate` is where her budget stands, None until it is asked."""

    request_id: str
    client: str
    route: str = UNMATCHED
    principal: Principal = Anonymous()
    named: OrganizationId | None = None
    standing: Standing | None = None
    rate: Rate | None = None

    def bind(self, scope: HTTPScope) -> None:
        cast(dict[str, object], cast(object, scope))["exchange"] = self

    @staticmethod
    def of(scope: HTTPScope) -> Exchange:
        return cast(Exchange, cast(dict[str, object], cast(object, scope))["exchange"])


def header(scope: HTTPScope, name: bytes) -> str | None:
    """The first header of this lower-case name."""
    for found, value in scope["headers"]:
        if found == name:
            return value.decode("latin-1")
    return None
