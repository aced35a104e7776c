"""What the demo shows: a line per thing that happened, and, on a terminal, a status that stays at the bottom."""

from __future__ import annotations

import os
import time
from typing import TextIO

COLOURS = {
    "registered": "36",
    "feedback": "37",
    "event": "33",
    "match": "33",
    "delivered": "32",
    "reorg": "35",
    "retraction": "32",
    "problem": "1;31",
}
DIM, BOLD = "2", "1"


class Screen:
    """Colours where `out` is a terminal, unless NO_COLOR is set (no-color.org) or the terminal is a dumb one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._terminal and not os.environ.get("NO_COLOR")
        self._started = time.monotonic()
        self._status = ""

    def text(self, text: str = "", style: str = "") -> None:
        self._print(self._painted(style, text))

    def fact(self, name: str, text: str) -> None:
        self._print(f"  {self._painted(DIM, f'{name:<12}')} {text}")

    def line(self, kind: str, text: str, aside: str = "") -> None:
        """Something happened now; `aside` is for figures."""
        at = self._painted(DIM, f"{time.monotonic() - self._started:6.1f}s")
        rest = f"{text:<60} {self._painted(DIM, aside)}" if aside else text
        self._print(f"{at}  {self._painted(COLOURS.get(kind, ''), f'{kind:<11}')} {rest}")

    def status(self, text: str) -> None:
        """Keep `text` as the last line of a terminal; elsewhere say nothing."""
        if self._terminal:
            self._status = text
            self._out.write(f"\r\x1b[2K{self._painted(DIM, text)}")
            self._out.flush()

    def end_status(self) -> None:
        if self._status:
            self._out.write("\r\x1b[2K")
            self._status = ""

    def _print(self, line: str) -> None:
        status = self._status
        self.end_status()
        self._out.write(f"{line.rstrip()}\n")
        self._out.flush()
        if status:
            self.status(status)

    def _painted(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._colours else text
