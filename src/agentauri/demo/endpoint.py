"""A customer's endpoint: a small web server that believes only what a Standard Webhooks signature proves.

Written from the Standard Webhooks text, on purpose without a line of the product's own signing code: what is accepted
here, any receiver accepts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

TOLERANCE_SECONDS = 300  # how far a message's clock may be from ours, against replays


class BadSignature(Exception):
    """The message is not from whom it says, not for us, or too old."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The message's id, once one of its signatures is ours over id, time and body. Raises: `BadSignature`."""
    try:
        message_id, sent, signatures = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        skew = abs(now - int(sent))
    except (KeyError, ValueError) as error:
        raise BadSignature(f"header missing or malformed: {error}") from error
    if skew > TOLERANCE_SECONDS:
        raise BadSignature(f"sent {skew:.0f} s away from now")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    right = hmac.new(key, f"{message_id}.{sent}.".encode() + body, hashlib.sha256).digest()
    for signature in signatures.split():
        version, _, encoded = signature.partition(",")
        if version == "v1" and hmac.compare_digest(encoded, base64.b64encode(right).decode()):
            return message_id
    raise BadSignature("none of its signatures is made with our secret")


class Message(Struct, frozen=True):
    """One verified request. `repeat` says that its id has been here before: at-least-once allows that."""

    id: str
    received_at: float
    body: dict[str, Any]
    repeat: bool


class Endpoint:
    """`messages` holds what was verified, in order of arrival; `refused` the reasons of what was not."""

    def __init__(self) -> None:
        self.url = ""
        self.secret = ""  # known once the trigger is made, and that needs our URL
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.refused: list[str] = []
        self._seen: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Endpoint]:
        endpoint = cls()
        app = web.Application()
        app.router.add_post("/hook", endpoint._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield endpoint
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        received_at = time.time()
        body = await request.read()
        try:
            message_id = verify(self.secret, request.headers, body, received_at)
            decoded = msgspec.json.decode(body, type=dict[str, Any])
        except (BadSignature, msgspec.DecodeError) as error:
            self.refused.append(str(error))
            return web.Response(status=401)
        self.messages.put_nowait(Message(message_id, received_at, decoded, message_id in self._seen))
        self._seen.add(message_id)
        return web.Response(status=204)
