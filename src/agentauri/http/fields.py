"""Forms of values that several routes take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeVar

from eth_hash.auto import keccak
from msgspec import Meta

from agentauri.errors import FieldError, Invalid

T = TypeVar("T")

ChainNumber = Annotated[int, Meta(ge=1, le=2**53 - 1)]
BlockNumber = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Text = Annotated[str, Meta(max_length=1000)]
AddressText = Annotated[str, Meta(max_length=1000, extra_json_schema={"pattern": "^0x[0-9a-fA-F]{40}$"})]
HashText = Annotated[str, Meta(max_length=1000, extra_json_schema={"pattern": "^0x[0-9a-fA-F]{64}$"})]
NumberText = Annotated[str, Meta(max_length=1000, extra_json_schema={"pattern": "^(0|[1-9][0-9]{0,77})$"})]
DecimalText = Annotated[str, Meta(max_length=1000, extra_json_schema={"pattern": r"^-?[0-9]{1,78}(\.[0-9]{1,78})?$"})]
"""Read by the functions of this module, whose words say more than that a form was missed."""
Moment = Annotated[datetime, Meta(tz=True)]

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_DECIMAL = re.compile(r"-?[0-9]{1,78}(\.[0-9]{1,78})?")
_UINT256 = re.compile(r"0|[1-9][0-9]{0,77}")


def address(text: str) -> str:
    """In lower case. Mixed case must carry a right checksum: it is there to be looked at."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("must be an address, 0x and 40 hex digits")
    if text[2:] not in (text[2:].lower(), text[2:].upper(), _checksummed(text[2:].lower())):
        raise ValueError("has the wrong checksum for its mixed case; send it in lower case or correct it")
    return text.lower()


def _checksummed(digits: str) -> str:
    """The capitals of EIP-55: a letter is one where the hash of the lower case says so."""
    mask = keccak(digits.encode()).hex()
    return "".join(digit.upper() if nibble >= "8" else digit for digit, nibble in zip(digits, mask, strict=False))


def transaction_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError("must be a hash, 0x and 64 hex digits")
    return text.lower()


def uint256(text: str) -> int:
    if not _UINT256.fullmatch(text) or int(text) >= 2**256:
        raise ValueError("must be a whole number from 0 to 2^256-1")
    return int(text)


def decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise ValueError("must be a decimal number")
    return Decimal(text)


def first_second(since: datetime | None) -> int | None:
    """The first whole second of a range that includes its beginning."""
    return None if since is None else math.ceil(since.timestamp())


def last_second(until: datetime | None) -> int | None:
    """The last whole second of a range that excludes its end."""
    return None if until is None else math.ceil(until.timestamp()) - 1


class Parameters:
    """Reads parameters beyond what their type says, and refuses all that are wrong at once."""

    def __init__(self) -> None:
        self._refused: list[FieldError] = []

    def read(self, name: str, text: str | None, parse: Callable[[str], T]) -> T | None:
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.refuse(name, str(error))
            return None

    def refuse(self, name: str, rule: str) -> None:
        self._refused.append(FieldError(f"query.{name}", rule))

    def check(self) -> None:
        """
        Raises:
            Invalid: something was refused.
        """
        if self._refused:
            raise Invalid.fields(*self._refused)
