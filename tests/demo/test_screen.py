"""What the demo prints suits where it goes: plain lines into a pipe; colours, a panel and a status onto a terminal."""

from __future__ import annotations

import io
import re

import pytest

from agentauri.demo.screen import Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)


def tell(screen: Screen) -> None:
    screen.status("so far")
    screen.panel(["head 12", "events 3"])
    screen.line("feedback", "Ada was rated 87", "block 13")
    screen.line("reorg", "block 13 replaced")


def seen(text: str, columns: int = 100) -> list[str]:
    """What a terminal of that width shows of it."""
    rows: list[str] = [""]
    row = column = 0
    for control, count, final, character in re.findall(r"(\x1b\[)(\d*;?\d*)([A-Za-z])|([\s\S])", text):
        if control and final == "A":
            row -= int(count or 1)
        elif control and final == "J":
            rows[row:] = [rows[row][:column]]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
        elif character:
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]


def test_a_pipe_gets_plain_lines() -> None:
    screen = Screen(out := io.StringIO())

    tell(screen)
    screen.end_status()

    text = out.getvalue()
    assert "\x1b" not in text
    assert "so far" not in text
    assert "head 12" not in text
    assert text.count("\n") == 2


def test_a_dumb_terminal_gets_plain_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen(out := Terminal())

    tell(screen)

    assert not screen.live
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_panel_and_status_below_the_lines_and_loses_them_at_the_end() -> None:
    screen = Screen(out := Terminal())

    tell(screen)
    *lines, head, events, status = seen(out.getvalue())
    screen.end_status()

    assert [line.split()[1] for line in lines] == ["feedback", "reorg"]
    assert (head, events, status) == ("head 12", "events 3", "so far")
    assert [line for line in seen(out.getvalue()) if line] == lines


def test_what_has_not_changed_is_not_written_again() -> None:
    screen = Screen(out := Terminal())
    tell(screen)
    before = len(out.getvalue())

    screen.panel(["head 12", "events 3"])

    assert len(out.getvalue()) == before


def test_a_terminal_that_became_narrower_is_cleared_of_all_it_had_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(out := Terminal())
    screen.panel(["x" * 60, "y" * 10])
    wrapped = "\n".join(["x" * 25, "x" * 25, "x" * 10, "y" * 10])
    before = len(out.getvalue())

    monkeypatch.setenv("COLUMNS", "25")
    screen.line("feedback", "Ada")

    shown = seen(wrapped + out.getvalue()[before:], 25)
    assert not any(line.startswith("x" * 25) for line in shown)
    assert shown[-2:] == ["x" * 24, "y" * 10]


def test_a_terminal_of_few_lines_gets_the_status_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "3")
    screen = Screen(out := Terminal())

    tell(screen)

    assert "head 12" not in seen(out.getvalue())
    assert seen(out.getvalue())[-1] == "so far"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(out := Terminal())

    tell(screen)

    assert not re.search(r"\x1b\[[0-9;]*m", out.getvalue())
    assert "so far" in out.getvalue()
