"""What the demo prints suits where it goes: plain lines into a pipe, colours and a status onto a terminal."""

from __future__ import annotations

import io

import pytest

from agentauri.demo.screen import Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown(out: io.StringIO) -> str:
    screen = Screen(out)
    screen.status("so far")
    screen.line("feedback", "Ada was rated 87", "block 13")
    screen.end_status()
    return out.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    assert "\x1b" not in (text := shown(io.StringIO()))
    assert "so far" not in text
    assert text.count("\n") == 1


def test_a_terminal_gets_colours_and_a_status_below_the_lines() -> None:
    text = shown(Terminal())

    assert "\x1b[37mfeedback" in text
    assert text.count("so far") == 2


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    text = shown(Terminal())

    assert "\x1b[37m" not in text
    assert "so far" in text
