"""Telegram: one message of a bot to one chat, by the Bot API.

The bot's token stands in the path of every request. It is in no error, excerpt, log line or key of ours: what the other
side says is kept without it, and where messages share a limit they do so by the bot's number.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from agentauri.actions.channels.channel import MASK, Accepted, Ended, Pace, Sent, StoredAction, UnderWay, in_task
from agentauri.actions.channels.target_config import template_fault
from agentauri.actions.channels.telegram_markup import (
    MARKUPS,
    MOST,
    MarkedTemplate,
    Markup,
    Token,
    cut,
    seen,
    units,
    written,
)
from agentauri.actions.errors import DeliveryFailed, Permanent, Retryable
from agentauri.actions.fields import Fields
from agentauri.actions.filters import TemplateError
from agentauri.actions.message import Message
from agentauri.actions.outbound import EXCERPT_LENGTH, USER_AGENT, Outbound, Reply
from agentauri.actions.retry import LONGEST_RETRY_AFTER, judge, retry_after
from agentauri.actions.types import Json
from agentauri.config import TELEGRAM_API_URL
from agentauri.errors import Invalid
from agentauri.log import get_logger
from agentauri.types import OrganizationId, Secret

log = get_logger(__name__)

TOKEN = re.compile(r"([0-9]{1,20}):([A-Za-z0-9_-]{10,100})")
LONGEST_TEMPLATE = 4096
LARGEST_ID = 2**52
_NAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")
_NUMBER = re.compile(r"-?[0-9]{1,16}")

TEST = "Test: "
NOTE = "\n\nRetracted: this event is not on the chain any more."

BOT_INTERVAL, CHAT_INTERVAL, GROUP_INTERVAL = 1 / 30, 1.0, 3.0
"""Seconds between messages: 30 a second of a bot, one a second to a chat, 20 a minute to a group or channel."""

_HINTS = {
    401: "Telegram does not accept the bot's token",
    403: "the bot may not write to the chat",
    404: "Telegram does not know the bot's token",
}


SCHEMA: Json = {
    "type": "object",
    "required": ["chat_id", "message_template"],
    "additionalProperties": False,
    "properties": {
        "chat_id": {"type": ["integer", "string"], "description": "The chat's number, or its @name."},
        "message_template": {"type": "string", "minLength": 1, "maxLength": LONGEST_TEMPLATE},
        "parse_mode": {"enum": list(MARKUPS), "default": "MarkdownV2"},
        "bot_token": {
            "type": "string",
            "description": f"A secret, read back as {MASK}; the installation's own if absent.",
        },
        "disable_notification": {"type": "boolean", "default": False},
        "message_thread_id": {"type": "integer", "minimum": 1},
    },
}


class BotApi(Struct, frozen=True, kw_only=True):
    """Where bots speak. The operator chose it, so its `outbound` may go where a customer's requests may not.

    `token` is the bot of actions that name none.
    """

    outbound: Outbound
    url: str = TELEGRAM_API_URL
    token: Secret | None = None


class TokenMissing(Permanent):
    """Neither the action nor the process names a bot."""

    reason = "telegram_token_missing"


class TelegramChannel:
    action_types = frozenset({"telegram"})
    schema = SCHEMA
    signs = False

    def __init__(self, api: BotApi, timeout: float) -> None:
        self._api = api
        self._timeout = timeout

    async def check(self, config: Json, organization_id: OrganizationId) -> Accepted:  # noqa: ARG002 (asks nobody)
        fields = Fields(config)
        public: Json = {}
        chat = public["chat_id"] = _chat(fields)
        public |= _text(fields) | _options(fields)
        token = fields.text("bot_token")
        if token:
            public["bot_token"] = MASK
            if token != MASK and not TOKEN.fullmatch(token):
                fields.refuse("bot_token", "must be a bot's token, such as 123456:ABC-DEF1234ghIkl")
        elif self._api.token is None:
            fields.refuse("bot_token", "is required, because this installation has no bot of its own")
        fields.finish()
        if fields.errors:
            raise Invalid.fields(*fields.errors)
        secrets = {"bot_token": None if token == MASK else token} if token else {}
        return Accepted(config=public, secrets=secrets, destination=_masked(chat))

    def target(self, config: Json) -> str | None:  # noqa: ARG002 (a token is given to the Bot API and to nobody else)
        return "telegram"

    def prepare(self, action: StoredAction) -> PreparedTelegram:
        token = action.secrets.get("bot_token") or (self._api.token.reveal() if self._api.token else None)
        if token is None:
            raise TokenMissing("configuration", "no bot token: the action has none, and TELEGRAM_BOT_TOKEN is not set")
        config = action.config
        parts = TOKEN.fullmatch(token)
        chat = config.get("chat_id")
        if parts is None or not isinstance(chat, int | str):
            raise Permanent("configuration", "the stored configuration cannot be used")
        try:
            template = _markup(config).compile(str(config["message_template"]))
        except (TemplateError, KeyError) as error:
            raise Permanent("configuration", f"the stored configuration cannot be used: {error}") from error
        kept = ("disable_notification", "message_thread_id")
        return PreparedTelegram(
            api=self._api,
            token=Secret(token),
            bot=parts[1],
            chat=chat,
            template=template,
            options={name: config[name] for name in kept if name in config},
            timeout=self._timeout,
        )


class PreparedTelegram(Struct, frozen=True, kw_only=True):
    api: BotApi
    token: Secret
    bot: str
    chat: int | str
    template: MarkedTemplate
    options: Json
    timeout: float

    @property
    def target(self) -> str:
        return f"telegram://{self.bot}/{self.chat}"

    @property
    def paces(self) -> tuple[Pace, ...]:
        is_person = isinstance(self.chat, int) and self.chat > 0
        return (
            Pace(self.target, CHAT_INTERVAL if is_person else GROUP_INTERVAL),
            Pace(f"telegram://{self.bot}", BOT_INTERVAL),
        )

    def begin(self, message: Message, ended: Ended) -> UnderWay:
        return in_task(self._send(message), ended)

    async def _send(self, message: Message) -> Sent:
        deadline = asyncio.get_running_loop().time() + self.timeout
        if message.kind == "retraction":
            return await self._retract(message, deadline)
        tokens = self._render(message)
        answer = await self._ask("sendMessage", self._marked(tokens), message, deadline)
        if answer.status == 400 and "can't parse" in answer.description.lower():
            log.warning("telegram.sent_plain", trigger_id=message.trigger.id, delivery_id=str(message.delivery_id))
            answer = await self._ask("sendMessage", self._plain(seen(tokens)), message, deadline)
        return self._sent(answer)

    def preview(self, message: Message) -> Json:
        tokens = self._render(message)
        if message.kind != "retraction":
            return {"method": "sendMessage", **self._marked(tokens)}
        original = _Receipt.of(message)
        if original is None:
            return {"method": "sendMessage", **self._plain(**_struck(tokens))}
        return {"method": "editMessageText", **original.place(), **_struck(tokens)}

    def _render(self, message: Message) -> list[Token]:
        return self.template.render(message.values(), TEST if message.kind == "test" else "")

    def _marked(self, tokens: list[Token]) -> Json:
        payload = self._plain(written(tokens))
        mode = self.template.markup.parse_mode
        return payload if mode is None else payload | {"parse_mode": mode}

    def _plain(self, text: object, entities: object = None) -> Json:
        payload: Json = {"chat_id": self.chat, **self.options, "text": text}
        return payload if entities is None else payload | {"entities": entities}

    async def _retract(self, message: Message, deadline: float) -> Sent:
        """Strike the message through that was sent, or answer it where it cannot be changed."""
        text = _struck(self._render(message))
        original = _Receipt.of(message)
        payload = self._plain(**text)
        if original is not None:
            answer = await self._ask("editMessageText", {**original.place(), **text}, message, deadline)
            if answer.ok or "is not modified" in answer.description:  # an earlier try did it
                return Sent(
                    status=answer.status,
                    excerpt="edited",
                    peer=answer.peer,
                    receipt={**original.place(), "edited": True},
                )
            payload["reply_parameters"] = {**original.place(), "allow_sending_without_reply": True}
        return self._sent(await self._ask("sendMessage", payload, message, deadline))

    async def _ask(self, method: str, payload: Json, message: Message, deadline: float) -> _Answer:
        """
        Raises:
            DeliveryFailed: there is no answer of the Bot API's, or it wants to be asked again later.
        """
        reply = await self.api.outbound.exchange(
            "POST",
            f"{self.api.url.rstrip('/')}/bot{self.token.reveal()}/{method}",
            {"user-agent": USER_AGENT, "content-type": "application/json", "accept-encoding": "identity"},
            msgspec.json.encode(payload),
            organization_id=message.organization_id,
            timeout=max(0.001, deadline - asyncio.get_running_loop().time()),
        )
        answer = self._read(reply)
        if judge(answer.status, ()) == "retryable":
            failed = Retryable(
                "status",
                f"Telegram answered {answer.status}",
                status=answer.status,
                excerpt=answer.description,
                peer=answer.peer,
            )
            failed.after = answer.after
            raise failed
        return answer

    def _read(self, reply: Reply) -> _Answer:
        try:
            said = msgspec.json.decode(reply.body, type=_Said)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            said = _Said(ok=False, description=reply.body.decode("utf-8", "replace"))
            if 200 <= reply.status < 300:
                excerpt = self._without_token(said.description)
                told = "the answer is not one of the Bot API's"
                raise Retryable("protocol", told, status=reply.status, excerpt=excerpt, peer=reply.peer) from None
        after = None if said.parameters is None else said.parameters.retry_after
        return _Answer(
            ok=said.ok,
            status=reply.status if said.ok or said.error_code is None else said.error_code,
            description=self._without_token(said.description),
            after=retry_after(reply.headers.get("retry-after"), datetime.now(UTC))
            if after is None
            else min(max(after, 0.0), LONGEST_RETRY_AFTER),
            moved=said.parameters is not None and said.parameters.migrate_to_chat_id is not None,
            result=said.result,
            peer=reply.peer,
        )

    def _without_token(self, text: str) -> str:
        """Whole, before it is cut: half a token must not stay either."""
        secret = self.token.reveal().partition(":")[2]
        return text.replace(secret, MASK).replace("\0", "\ufffd")[:EXCERPT_LENGTH]

    def _sent(self, answer: _Answer) -> Sent:
        if not answer.ok:
            raise _refusal(answer)
        receipt = _Receipt.read(answer.result, self.chat)
        return Sent(
            status=answer.status,
            excerpt="sent" if receipt is None else f"message {receipt.message_id}",
            peer=answer.peer,
            receipt=None if receipt is None else receipt.place(),
        )


class _Parameters(Struct):
    retry_after: float | None = None
    migrate_to_chat_id: int | None = None


class _Said(Struct):
    """An answer as the Bot API writes it."""

    ok: bool
    result: object = None
    error_code: int | None = None
    description: str = ""
    parameters: _Parameters | None = None


class _Answer(Struct, frozen=True, kw_only=True):
    ok: bool
    status: int
    description: str
    after: float | None
    moved: bool
    result: object
    peer: str | None


class _Chat(Struct, frozen=True):
    id: int


class _Result(Struct, frozen=True):
    message_id: int
    chat: _Chat | None = None


class _Receipt(Struct, frozen=True):
    """Where a message stands that was sent."""

    chat_id: int | str
    message_id: int

    @classmethod
    def of(cls, message: Message) -> _Receipt | None:
        """That of the message that this one takes back, if it was one of Telegram's."""
        try:
            return msgspec.json.decode(message.retracts or "", type=cls)
        except msgspec.MsgspecError:
            return None

    @classmethod
    def read(cls, result: object, chat: int | str) -> _Receipt | None:
        try:
            found = msgspec.convert(result, _Result)
        except msgspec.MsgspecError:
            return None
        return cls(chat if found.chat is None else found.chat.id, found.message_id)

    def place(self) -> Json:
        return {"chat_id": self.chat_id, "message_id": self.message_id}


def _struck(tokens: list[Token]) -> Json:
    """The text struck through, and why."""
    whole = seen(tokens).strip()
    text = seen(cut([Token(whole, whole)], MOST - units(NOTE)))
    return {"text": text + NOTE, "entities": [{"type": "strikethrough", "offset": 0, "length": units(text)}]}


def _refusal(answer: _Answer) -> DeliveryFailed:
    told = "the chat has moved to another id" if answer.moved else _HINTS.get(answer.status)
    return Permanent(
        "status",
        f"Telegram answered {answer.status}" + (f": {told}" if told else ""),
        status=answer.status,
        excerpt=answer.description,
        peer=answer.peer,
    )


def _chat(fields: Fields) -> int | str:
    chat = fields.take("chat_id")
    if isinstance(chat, str) and _NUMBER.fullmatch(chat):
        chat = int(chat)
    if isinstance(chat, int) and not isinstance(chat, bool) and 0 < abs(chat) <= LARGEST_ID:
        return chat
    if isinstance(chat, str) and _NAME.fullmatch(chat):
        return chat
    fields.refuse("chat_id", "is required" if chat is None else "must be a chat's number or its @name")
    return 0


def _markup(config: Mapping[str, object]) -> Markup:
    mode = config.get("parse_mode", "MarkdownV2")
    if not isinstance(mode, str) or mode not in MARKUPS:
        raise TemplateError("an unknown parse_mode")
    return MARKUPS[mode]


def _text(fields: Fields) -> Json:
    text: Json = {"message_template": fields.text("message_template", longest=LONGEST_TEMPLATE)}
    if mode := fields.text("parse_mode"):
        text["parse_mode"] = mode
    if mode and mode not in MARKUPS:
        fields.refuse("parse_mode", "must be MarkdownV2, HTML or plain")
    elif not text["message_template"]:
        if not fields.refuses("message_template"):
            fields.refuse("message_template", "is required")
    elif fault := template_fault(lambda: _markup(text).compile(str(text["message_template"]))):
        fields.refuse("message_template", fault)
    return text


def _options(fields: Fields) -> Json:
    options: Json = {}
    silent, thread = fields.take("disable_notification"), fields.take("message_thread_id")
    if silent is not None:
        options["disable_notification"] = silent
        if not isinstance(silent, bool):
            fields.refuse("disable_notification", "must be true or false")
    if thread is not None:
        options["message_thread_id"] = thread
        if not isinstance(thread, int) or isinstance(thread, bool) or not 0 < thread <= LARGEST_ID:
            fields.refuse("message_thread_id", "must be the number of a thread")
    return options


def _masked(chat: int | str) -> str:
    """Enough of it for its owner to know it by."""
    if isinstance(chat, str):
        return f"{chat[:3]}{MASK}"
    return MASK + (digits[-4:] if len(digits := str(abs(chat))) > 6 else "")
