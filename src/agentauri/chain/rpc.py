"""One provider: JSON-RPC over HTTP, many calls in a request, its errors told apart, its health kept.

Nothing here logs, raises or stores a URL: it may hold a key. A provider goes by its name.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from agentauri import metrics
from agentauri.chain.dialects import classify
from agentauri.chain.errors import BatchTooLarge, ProviderFailed, RangeTooLarge, RpcError, Throttled, TimedOut
from agentauri.chain.health import Bucket, Health
from agentauri.config import RpcConfig
from agentauri.log import Seldom, get_logger
from agentauri.types import ChainId, Secret, utc_now

log = get_logger(__name__)
T = TypeVar("T")

MOST_CALLS = 100
MOST_BYTES = 64 * 1024 * 1024


class Call(Struct, frozen=True):
    method: str
    params: Sequence[Any] = ()


class Answer:
    """What one call came to."""

    def __init__(self, result: msgspec.Raw | None, error: RpcError | None) -> None:
        self._result = result
        self.error = error

    def read(self, decode: Callable[[bytes], T]) -> T:
        """The result, as `decode` reads it.

        Raises:
            RpcError: the call failed, or its result cannot be read so.
        """
        if self.error is not None:
            raise self.error
        try:
            return decode(self._result or b"null")
        except (msgspec.DecodeError, ValueError) as error:
            raise ProviderFailed(f"an answer that cannot be read: {error}") from error


class _Error(Struct):
    code: int | None = None
    message: str = ""


class _Response(Struct):
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | str | None = None


read_text = msgspec.json.Decoder(str).decode
_read_responses = msgspec.json.Decoder(list[_Response] | _Response).decode


class Provider:
    """`ask` is the only door. Its record is in `health`."""

    def __init__(
        self, name: str, url: Secret, chain_id: ChainId, session: aiohttp.ClientSession, config: RpcConfig
    ) -> None:
        self.name = name
        self.health = Health(config.rest)
        self.last_ok_at: datetime | None = None
        self.vetted = False
        """It serves the right chain, as far as it has been asked."""
        self._url = url
        self._private = _private_parts(url.reveal())
        self._chain_id = chain_id
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=config.timeout)
        self._bucket = Bucket(config.requests_per_second)
        self._most_calls = MOST_CALLS
        self._seldom = Seldom()

    async def ask(self, *calls: Call) -> list[Answer]:
        """Make these calls in one request, or in as few as the provider takes; answers come in the order of calls.

        A call's own error stays in its answer.

        Raises:
            RpcError: the request as a whole failed. It has been held against the provider.
        """
        answers: list[Answer] = []
        while len(answers) < len(calls):
            batch = calls[len(answers) : len(answers) + self._most_calls]
            try:
                answers += await self._request(batch)
            except BatchTooLarge as error:
                if len(batch) == 1:
                    raise ProviderFailed(error.message) from error
                self._most_calls = len(batch) // 2
        return answers

    def blame(self, reason: str) -> None:
        """Hold against it what only its answers' content shows: it lags, or contradicts itself."""
        self.health.failed(time.monotonic(), reason)

    def distrust(self, reason: str) -> None:
        """It lied, or is not what it should be: let it rest."""
        self.health.lied(time.monotonic(), reason)

    async def _request(self, calls: Sequence[Call]) -> list[Answer]:
        if (delay := self._bucket.wait(len(calls), time.monotonic())) > 0:
            await asyncio.sleep(delay)
        started = time.monotonic()
        outcomes = ["error"] * len(calls)
        try:
            answers = await self._exchange(calls)
            outcomes = ["error" if answer.error else "ok" for answer in answers]
        except Throttled as error:
            outcomes = ["rate_limited"] * len(calls)
            self._throttled(error)
            raise
        except (BatchTooLarge, RangeTooLarge):
            raise
        except RpcError as error:
            error.held = True
            self.health.failed(time.monotonic(), error.message)
            raise
        finally:
            for call, outcome in zip(calls, outcomes, strict=True):
                metrics.RPC_REQUESTS.labels(self._chain_id, self.name, call.method, outcome).inc()
            metrics.RPC_SECONDS.labels(self._chain_id, self.name).observe(time.monotonic() - started)
        self.health.answered(time.monotonic() - started)
        self.last_ok_at = utc_now()
        self._seldom.over("throttled")
        return answers

    async def _exchange(self, calls: Sequence[Call]) -> list[Answer]:
        body = [
            {"jsonrpc": "2.0", "id": number, "method": call.method, "params": call.params}
            for number, call in enumerate(calls)
        ]
        status, after, raw = await self._post(msgspec.json.encode(body if len(body) > 1 else body[0]))
        if status == 413 and len(calls) > 1:
            raise BatchTooLarge("HTTP 413")
        try:
            responses = _read_responses(raw)
        except (msgspec.DecodeError, ValueError):
            # Not JSON-RPC at all: the status says what it is, or that it is nothing we know.
            raise classify(status, None, "" if status != 200 else "an answer that is not JSON-RPC", after) from None
        if not isinstance(responses, _Response):
            by_id = {response.id: response for response in responses}
        elif responses.error or len(calls) == 1:  # many answer a whole batch with one error
            by_id = dict.fromkeys(range(len(calls)), responses)
        else:
            by_id = {}
        return [self._answer(call, by_id.get(number), status, after) for number, call in enumerate(calls)]

    def _answer(self, call: Call, response: _Response | None, status: int, after: float | None) -> Answer:
        if response is None:
            raise ProviderFailed("calls without an answer")
        if response.error is None and response.result:
            return Answer(response.result, None)
        wrong = response.error if isinstance(response.error, _Error) else _Error(message=response.error or "")
        error = classify(status, wrong.code, self._scrubbed(wrong.message) or "neither result nor error", after)
        if isinstance(error, Throttled | BatchTooLarge):
            raise error
        if isinstance(error, RangeTooLarge) and call.method != "eth_getLogs":
            error = ProviderFailed(error.message)
        return Answer(None, error)

    async def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, Retry-After, body."""
        try:
            async with self._session.post(
                self._url.reveal(),
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                raw = bytearray()
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > MOST_BYTES:
                        raise RangeTooLarge("an answer of more than 64 MiB")
                return response.status, _seconds(response.headers.get("Retry-After")), bytes(raw)
        except TimeoutError as error:
            raise TimedOut("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            number = error.errno if isinstance(error, OSError) else None
            why = f" ({error.strerror})" if number and isinstance(error, OSError) and error.strerror else ""
            raise ProviderFailed(f"{type(error).__name__}{self._scrubbed(why)}") from None

    def _throttled(self, error: Throttled) -> None:
        rest = self.health.throttled(time.monotonic(), error.message, error.after)
        if self._seldom.due("throttled"):
            log.warning(
                "rpc.rate_limited",
                code="RPC_RATE_LIMITED",
                message="RPC rate limit exceeded",
                chain_id=self._chain_id,
                provider=self.name,
                rest_seconds=round(rest, 3),
            )

    def _scrubbed(self, message: str) -> str:
        """Without what could tell the URL or its key, cut to what fits a log line."""
        for part in self._private:
            message = message.replace(part, "…")
        return re.sub(r"(?i)https?://\S+", "…", message)[:300]


def _private_parts(url: str) -> list[str]:
    parts = urlsplit(url)
    found = [parts.hostname, parts.username, parts.password, *parts.path.split("/")]
    found += [value for _, value in parse_qsl(parts.query)]
    return sorted((part for part in found if part and len(part) >= 6), key=len, reverse=True)


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is no use to a clock that may be wrong."""
    try:
        return float(value) if value else None
    except ValueError:
        return None
