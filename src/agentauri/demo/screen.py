"""What the demo shows: a line per thing that happened, and, on a terminal, a panel and a status that stay at the
bottom."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
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
        self.live = out.isatty() and os.environ.get("TERM") != "dumb"
        """What is printed can be taken back again."""
        self._colours = self.live and not os.environ.get("NO_COLOR")
        self._started = time.monotonic()
        self._panel: list[str] = []
        self._status = ""
        self._shown: list[str] = []  # at the bottom; the cursor stands at the end of the last line

    def text(self, text: str = "", style: str = "") -> None:
        self._print(self._painted(style, text))

    def fact(self, name: str, text: str) -> None:
        self._print(f"  {self._painted(DIM, f'{name:<12}')} {text}")

    def line(self, kind: str, text: str, aside: str = "") -> None:
        """Something happened now; `aside` is for figures."""
        at = self._painted(DIM, f"{time.monotonic() - self._started:6.1f}s")
        rest = f"{text:<60} {self._painted(DIM, aside)}" if aside else text
        self._print(f"{at}  {self._painted(COLOURS.get(kind, ''), f'{kind:<11}')} {rest}")

    def panel(self, lines: Sequence[str]) -> None:
        """Keep these lines above the status; elsewhere than on a terminal say nothing."""
        self._panel = list(lines)
        self._redraw()

    def status(self, text: str) -> None:
        """Keep `text` as the last line of a terminal; elsewhere say nothing."""
        self._status = text
        self._redraw()

    def end_status(self) -> None:
        """Take panel and status away."""
        self._panel, self._status = [], ""
        self._redraw()

    def _print(self, line: str) -> None:
        self._redraw(f"{line.rstrip()}\n")

    def _redraw(self, printed: str = "") -> None:
        """Put `printed` above what stays at the bottom."""
        if not self.live:
            self._out.write(printed)
            self._out.flush()
            return
        columns, rows = shutil.get_terminal_size()
        # Since they were written the terminal may have become narrower, and have wrapped them.
        above = sum(max(1, -(-len(line) // columns)) for line in self._shown) - 1
        up = f"\x1b[{above}A" if above > 0 else ""
        bottom = [line for line in (*self._panel, self._status) if line]
        if len(bottom) >= rows:  # what has left the screen at the top cannot be taken back
            bottom = bottom[-1:]
        bottom = [line[: columns - 1] for line in bottom]
        if printed or bottom != self._shown:
            drawn = "\n".join(self._painted(DIM, line) for line in bottom)
            self._out.write(f"\r{up}\x1b[J{printed}{drawn}" if self._shown or bottom else printed)
            self._out.flush()
        self._shown = bottom

    def _painted(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._colours else text
