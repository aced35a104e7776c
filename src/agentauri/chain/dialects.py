"""What providers mean by their errors. Each has words of its own, and many hide an error in a 200."""

from __future__ import annotations

import re

from agentauri.chain.errors import BatchTooLarge, Lagging, ProviderFailed, RangeTooLarge, RpcError, Throttled

_BATCH = re.compile(r"\bbatch\b.*(?:size|large|limit|many|more than|max|not supported|disabled)|too many.*\bbatch\b")
_RANGE = re.compile(
    r"blocks? range|\branges? (?:is )?(?:too|over|exceed)|too (?:many|wide|large|big)\b.*(?:result|logs|range|block)|"
    r"response (?:size|too large)|range.*should work|"
    r"(?:result|logs|block|range).*(?:exceed|limit|larger than|greater than|more than|max)|"
    r"(?:exceed|limit|more than|max\w*)\b.*(?:result|logs|range|blocks)|"
    r"timed? ?out|payload too large|request entity too large"
)
_THROTTLE = re.compile(r"rate.?limit|too many requests|requests? (?:per|limit)|throughput|capacity|compute units|quota")
_LAG = re.compile(
    r"unknown block|header not found|block not found|could not find block|not yet available|beyond (?:current )?head|"
    r"after last accepted|cannot be found"
)
_OFFER = re.compile(r"(?:should work|try with|retry with)")
_SPAN = re.compile(r"(0x[0-9a-f]+|\d+)\s*(?:,|-|to)\s*(0x[0-9a-f]+|\d+)")
_NUMBER = re.compile(r"(?<![\w.,])(\d[\d,_]*)(k?)\b")
_COUNTS_LOGS = re.compile(r"results|logs\b|response|timed? ?out")


def classify(status: int, code: int | None, message: str, retry_after: float | None = None) -> RpcError:
    """The error that an HTTP status and a JSON-RPC error (if there is one) stand for.

    A limit on ranges comes before a limit on requests: -32005 is used for both, and only the words tell.
    """
    words = message.lower()
    if _BATCH.search(words):
        return BatchTooLarge(message)
    if status == 429 or _THROTTLE.search(words):
        return Throttled(message or "HTTP 429", retry_after)
    if _LAG.search(words):
        return Lagging(message)
    if status == 413 or _RANGE.search(words):
        return _range_too_large(message or "HTTP 413", words.replace("eth_getlogs", ""))
    if code in (-32005, -32029, 429):
        return Throttled(message, retry_after)
    return ProviderFailed(message or f"HTTP {status}")


def _range_too_large(message: str, words: str) -> RangeTooLarge:
    if _OFFER.search(words) and (spans := _SPAN.findall(words)):
        first, last = (int(text, 0) for text in spans[-1])
        return RangeTooLarge(message, max(1, last - first + 1))
    if not _COUNTS_LOGS.search(words) and (numbers := _NUMBER.findall(words)):
        digits, thousands = numbers[-1]  # "…from 1 to 5000, maximum is set to 2048": the limit is said last
        blocks = int(digits.replace(",", "").replace("_", "")) * (1000 if thousands else 1)
        return RangeTooLarge(message, max(1, blocks), fixed=True)
    return RangeTooLarge(message)
