"""Reads single variables, from the environment and `.env`, and collects what is wrong with them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class ConfigError(Exception):
    """The settings cannot be used; `faults` says why, one line per variable."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Reader:
    """Reads single variables and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.asked: set[str] = set()
        self.faults: list[str] = []

    def raw(self, name: str) -> str | None:
        """The variable, or the content of the file that `<name>_FILE` names."""
        self.asked |= {name, f"{name}_FILE"}
        if (path := self.values.get(f"{name}_FILE")) and name not in self.values:
            try:
                return Path(path).read_text(encoding="utf-8").strip() or None
            except OSError as error:
                self.faults.append(f"{name}_FILE: cannot be read ({error.strerror}); name a readable file")
        return self.values.get(name)

    def parse(self, name: str, default: T, convert: Callable[[str], T], takes: str) -> T:
        raw = self.raw(name)
        if raw is None:
            return default
        try:
            return convert(raw.strip())
        except (ValueError, binascii.Error):
            self.faults.append(f"{name}: takes {takes}")
            return default

    def number(self, name: str, default: int, low: int, high: int) -> int:
        return self.parse(name, default, lambda raw: within(int(raw), low, high), f"a number from {low} to {high}")

    def flag(self, name: str, default: bool) -> bool:
        words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
        return self.parse(name, default, lambda raw: known(words, raw.lower()), "true, false, 1, 0, on or off")

    def text(self, name: str, default: str) -> str:
        return self.raw(name) or default

    def choice(self, name: str, default: str, *choices: str) -> str:
        return self.parse(name, default, lambda raw: _among(raw.lower(), choices), " or ".join(choices))


def within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError
    return value


def known(words: Mapping[str, T], word: str) -> T:
    if word not in words:
        raise ValueError
    return words[word]


def _among(word: str, choices: tuple[str, ...]) -> str:
    return known({choice: choice for choice in choices}, word)


def merged(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {key: value for key, value in (_dotenv(folder / ".env") | dict(environ)).items() if value.strip()}


def _dotenv(path: Path) -> dict[str, str]:
    """`KEY=value` lines; `export ` before and quotes around are dropped, `#` after white space starts a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    values = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$", line)
        if not match:
            continue
        key, value = match.groups()
        if value[:1] in ("'", '"') and value.rstrip()[-1:] == value[:1] and len(value.rstrip()) > 1:
            values[key] = value.rstrip()[1:-1]
        else:
            values[key] = re.sub(r"(^|\s+)#.*$", "", value).strip()
    return values
