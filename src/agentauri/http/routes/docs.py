"""The interactive documentation: a viewer from files of ours, on the document that describes this interface. Nothing is
asked of any other host."""

from __future__ import annotations

import asyncio
from pathlib import Path

from litestar import Response, get
from litestar.params import FromPath

from agentauri.errors import NotFound
from agentauri.http.auth import OPEN
from agentauri.http.metering import FREE

FOLDER = Path(__file__).parents[1] / "viewer"
FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "page.css": "text/css",
    "start.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


@get("/api-docs", access=OPEN, cost=FREE, media_type="text/html")
async def api_docs() -> Response[bytes]:
    """This interface, for people: read it, and try it."""
    return Response(await _read("index.html"), media_type="text/html")


@get("/api-docs/{file:str}", access=OPEN, cost=FREE, media_type="text/plain")
async def api_docs_file(file: FromPath[str]) -> Response[bytes]:
    """What that page is made of."""
    if file not in FILES:
        raise NotFound("There is nothing at this address.")
    return Response(await _read(file), media_type=FILES[file])


async def _read(name: str) -> bytes:
    return await asyncio.to_thread((FOLDER / name).read_bytes)


routes = [api_docs, api_docs_file]
