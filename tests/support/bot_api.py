"""A Bot API that is Telegram's as far as its documentation goes: tokens, chats, markup, lengths, edits, its words."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

from support.telegram_entities import Entity, Refused, parse, units

TOKEN = "123456789:AAE-b0tsecret_b0tsecret_b0tsecret12"  # not a bot's
PERSON, GROUP, CHANNEL = 4242, -100200300, "@agents"
MOST = 4096


class Asked(NamedTuple):
    method: str
    payload: dict[str, Any]


class Stands(NamedTuple):
    """A message as its readers see it."""

    chat_id: int
    text: str
    entities: list[Entity]
    reply_to: int | None = None


class BadRequest(Exception):
    def __init__(self, description: str, code: int = 400, **parameters: object) -> None:
        super().__init__(description)
        self.code = code
        self.parameters = parameters


class BotApi:
    """`asked` in order of arrival, `messages` by their number. `troubles` are answered first, one for each request;
    `handle` takes the raw request and answers whatever it likes."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.messages: dict[int, Stands] = {}
        self.troubles: deque[BadRequest] = deque()
        self.chats: dict[object, int] = {PERSON: PERSON, GROUP: GROUP, CHANNEL: -100900}
        self.blocked: set[int] = set()
        self.handle: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.url = ""
        self._numbers = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[BotApi]:
        api = cls()
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", api._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        try:
            yield api
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        payload = json.loads(await request.read())
        self.asked.append(Asked(method, payload))
        await asyncio.sleep(0)
        if self.handle is not None:
            return await self.handle(request)
        try:
            if self.troubles:
                raise self.troubles.popleft()
            if request.match_info["token"] != TOKEN:
                raise BadRequest("Unauthorized", 401)
            match method:
                case "getMe":
                    result: dict[str, object] = {"id": 123456789, "is_bot": True, "username": "agentauri_bot"}
                case "sendMessage":
                    result = self._send(payload)
                case "editMessageText":
                    result = self._edit(payload)
                case _:
                    raise BadRequest("Not Found", 404)
        except BadRequest as error:
            refusal: dict[str, object] = {"ok": False, "error_code": error.code, "description": str(error)}
            if error.parameters:
                refusal["parameters"] = error.parameters
            return web.json_response(refusal, status=error.code)
        return web.json_response({"ok": True, "result": result})

    def _send(self, payload: dict[str, Any]) -> dict[str, object]:
        chat = self._chat(payload)
        reply = payload.get("reply_parameters")
        if reply is not None and reply["message_id"] not in self.messages:
            if not reply.get("allow_sending_without_reply"):
                raise BadRequest("Bad Request: message to be replied not found")
            reply = None
        number = next(self._numbers)
        self.messages[number] = Stands(chat, *_text(payload), None if reply is None else reply["message_id"])
        return {"message_id": number, "chat": {"id": chat, "type": "private"}, "text": self.messages[number].text}

    def _edit(self, payload: dict[str, Any]) -> dict[str, object]:
        chat, number = self._chat(payload), payload["message_id"]
        if number not in self.messages:
            raise BadRequest("Bad Request: message to edit not found")
        changed = Stands(chat, *_text(payload), self.messages[number].reply_to)
        if changed == self.messages[number]:
            raise BadRequest(
                "Bad Request: message is not modified: specified new message content and reply markup are exactly the "
                "same as a current content and reply markup of the message"
            )
        self.messages[number] = changed
        return {"message_id": number, "chat": {"id": chat, "type": "private"}, "text": changed.text}

    def _chat(self, payload: dict[str, Any]) -> int:
        chat = self.chats.get(payload["chat_id"])
        if chat is None and payload["chat_id"] in self.chats.values():
            chat = payload["chat_id"]
        if chat is None:
            raise BadRequest("Bad Request: chat not found")
        if chat in self.blocked:
            raise BadRequest("Forbidden: bot was blocked by the user", 403)
        return chat


def _text(payload: dict[str, Any]) -> tuple[str, list[Entity]]:
    try:
        text, entities = parse(payload["text"], payload.get("parse_mode"))
    except Refused as error:
        raise BadRequest(f"Bad Request: can't parse entities: {error}") from error
    if "entities" in payload:
        entities = [Entity(one["type"], one["offset"], one["length"]) for one in payload["entities"]]
        if any(one.offset < 0 or one.offset + one.length > units(text) for one in entities):
            raise BadRequest("Bad Request: ENTITY_BOUNDS_INVALID")
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise BadRequest("Bad Request: message text is empty")
    if units(text) > MOST:
        raise BadRequest("Bad Request: message is too long")
    return text, entities
