"""Telegram's MarkdownV2 and HTML, read as Telegram reads them, before anything is sent.

A template is read once, when it is written: marks that do not fit are refused with their position, and what is only
text gets the backslashes that MarkdownV2 wants. A rendered text is read again to cut it where no mark is torn, and to
know what of it a reader sees.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from html import escape as escape_html

from msgspec import Struct

from agentauri.actions.filters import TemplateError, text
from agentauri.actions.template import TEXT, Placeholder, Sink, Template, Values, compile_text

MOST = 4096
"""UTF-16 units that a message may have, as they are seen."""

ELLIPSIS = "…"
APART = "\u200b"
"""Nothing to see, but it keeps two marks from being read as one."""

EMPTY = "(no text)"
"""For a message of which nothing can be seen: Telegram refuses it, and whoever wrote the event must not decide that."""


class Token(Struct):
    """A piece of marked-up text as it is written and as it is seen. A mark that opens knows what closes it."""

    written: str
    seen: str = ""
    at: int = 0
    mark: str = ""
    closing: str = ""
    closes: bool = False


Read = Callable[[str, bool], list[Token]]


class Markup(Struct, frozen=True):
    """One way of marking text up. `parse_mode` is its name for the Bot API, None where there are no marks."""

    parse_mode: str | None
    escape: Callable[[str], str]
    read: Read

    def compile(self, source: str) -> MarkedTemplate:
        """
        Raises:
            TemplateError: unknown names, or marks that do not fit; names the character.
        """
        compile_text(source, TEXT)  # positions in what the author wrote, not in what follows from it
        prepared = "".join(token.written for token in self.read(source, True))
        return MarkedTemplate(compile_text(prepared, Sink(value=self._escape_value)), self)

    def _escape_value(self, value: str) -> str:
        return self.escape(value[: MOST + 1])  # what is longer is cut in any case


class MarkedTemplate(Struct, frozen=True):
    template: Template
    markup: Markup

    def render(self, values: Values, heading: str = "") -> list[Token]:
        """A text that Telegram takes: not empty, and no longer than it may be. `heading` is plain text."""
        pieces = [self.markup.escape(heading)]
        for part in self.template.parts:
            if isinstance(part, Placeholder):
                piece = self.template.escape(text(part.value(values)))
                torn = not piece and pieces[-1].endswith(("_", "`"))
                pieces.append(APART if torn else piece)
            else:
                pieces.append(part)
        tokens = self.markup.read("".join(pieces), False)
        return cut(tokens, MOST) if is_visible(tokens) else self.markup.read(self.markup.escape(EMPTY), False)


def written(tokens: Sequence[Token]) -> str:
    return "".join(token.written for token in tokens)


def seen(tokens: Sequence[Token]) -> str:
    return "".join(token.seen for token in tokens)


def units(value: str) -> int:
    """Its length as Telegram counts."""
    return len(value) + sum(character > "\uffff" for character in value)


def is_visible(tokens: Sequence[Token]) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for token in tokens for character in token.seen)


def cut(tokens: list[Token], most: int) -> list[Token]:
    """As much of it as fits with "…" at the end, which stands outside of all marks; all of it where it fits."""
    if sum(units(token.seen) for token in tokens) <= most:
        return tokens
    left = most - units(ELLIPSIS) - min(16, sum(token.mark.startswith("_") for token in tokens))  # some may go APART
    kept: list[Token] = []
    opened: list[Token] = []
    for token in tokens:
        if units(token.seen) > left:
            beginning = _beginning(token.seen, left) if token.written == token.seen else ""
            if beginning:
                kept.append(Token(beginning, beginning))
            break
        left -= units(token.seen)
        kept.append(token)
        if token.closing:
            opened.append(token)
        elif token.closes:
            opened.pop()
    while kept and kept[-1].closing:  # opened just before the end, with nothing in it
        kept.pop()
        opened.pop()
    for token in reversed(opened):
        if token.closing.startswith("_") and kept[-1].written.endswith("_"):
            kept.append(Token(APART))
        kept.append(Token(token.closing, closes=True))
    return [*kept, Token(ELLIPSIS, ELLIPSIS)]


def _beginning(whole: str, most: int) -> str:
    length = max(0, most)
    while length and units(whole[:length]) > most:
        length -= 1
    return whole[:length]


_RESERVED = re.compile(r"([\\_*\[\]()~`>#+\-=|{}.!])")
_PLAIN = re.compile(r"[^\\_*\[\]()~`>#+\-=|{}.!]+")
_PLAIN_CODE = re.compile(r"[^\\`{]+")
_PRE = re.compile(r"```(?:([^\s`{]+)(?=\s))?(?:\r\n|\n\r|\n|\r)?")
_MARKS = ("```", "`", "__", "_", "*", "~", "||", "[")


def escape_markdown(value: str) -> str:
    return _RESERVED.sub(r"\\\1", value.replace("\r", ""))  # Telegram drops it anyway; after ``` it would vanish


def read_markdown(source: str, is_template: bool) -> list[Token]:
    """
    Raises:
        TemplateError: a mark that is not closed, or that closes nothing.
    """
    tokens: list[Token] = []
    opened: list[Token] = []
    position = 0
    while position < len(source):
        inner = opened[-1].mark if opened else ""
        token, position = _markdown_token(source, position, inner, is_template)
        tokens.append(token)
        if token.closes:
            opened.pop().closing = token.written
        elif token.mark:
            opened.append(token)
    if opened:
        mark = opened[-1].mark
        raise TemplateError(f"a {mark} that is not closed (write \\{mark[0]} for the character)", opened[-1].at)
    return tokens


def _markdown_token(source: str, at: int, inner: str, is_template: bool) -> tuple[Token, int]:
    """The token that begins there, and where the next one does. `inner` is the mark that was opened last."""
    if is_template and source.startswith("{{", at):
        end = source.index("}}", at) + 2
        return Token(source[at:end], source[at:end], at), end
    in_code = inner.startswith("`")
    if plain := (_PLAIN_CODE if in_code else _PLAIN).match(source, at):
        return Token(plain[0], plain[0], at), plain.end()
    character = source[at]
    if character == "\\":
        return _backslash(source, at, is_template)
    if inner and _ends(inner, source, at):
        return _end_of(inner, source, at, is_template)
    if in_code and character != "`":
        return Token(character, character, at), at + 1
    mark = next((mark for mark in _MARKS if source.startswith(mark, at)), None)
    if mark == "```":
        found = _PRE.match(source, at)
        assert found is not None
        return Token(f"```{found[1] or ''}\n", at=at, mark=mark), found.end()
    if mark is not None:
        return Token(mark, at=at, mark=mark), at + len(mark)
    if character == "]":
        raise TemplateError("a ] that closes nothing (write \\] for the character)", at)
    return Token(f"\\{character}", character, at), at + 1


def _backslash(source: str, at: int, is_template: bool) -> tuple[Token, int]:
    following = source[at + 1 : at + 2]
    if following and 0 < ord(following) <= 126 and not (is_template and source.startswith("{{", at + 1)):
        return Token(source[at : at + 2], following, at), at + 2
    return Token("\\\\", "\\", at), at + 1


def _ends(inner: str, source: str, at: int) -> bool:
    if inner == "[":
        return source[at] == "]"
    if inner == "_":
        return source[at] == "_" and not source.startswith("__", at)
    return source.startswith(inner, at)


def _end_of(inner: str, source: str, at: int, is_template: bool) -> tuple[Token, int]:
    if inner != "[":
        return Token(inner, at=at, closes=True), at + len(inner)
    if not source.startswith("](", at):
        raise TemplateError("a link without its (address) (write \\[ and \\] for the characters)", at)
    address, position = ["]("], at + 2
    while not source.startswith(")", position):
        if position >= len(source):
            raise TemplateError("an address that is not closed", at + 1)
        if is_template and source.startswith("{{", position):
            end = source.index("}}", position) + 2
            address.append(source[position:end])
        elif source[position] == "\\":
            token, end = _backslash(source, position, is_template)
            address.append(token.written)
        else:
            end = position + 1
            address.append(source[position])
        position = end
    return Token("".join([*address, ")"]), at=at, closes=True), position + 1


TAGS = frozenset({
    "b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "span", "tg-spoiler", "a", "code", "pre", "blockquote",
    "tg-emoji",
})  # fmt: skip
_ENTITY = re.compile(r"&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|(lt|gt|amp|quot));")
_ATTRIBUTE = r"""\s+[a-zA-Z-]+\s*=\s*(?:"[^"]*"|'[^']*'|[a-zA-Z0-9.-]+(?=[\s>]))"""
_TAG = re.compile(rf"<([a-zA-Z-]+)((?:{_ATTRIBUTE})*(?:\s+expandable)?)\s*>")
_END_TAG = re.compile(r"</([a-zA-Z-]+)\s*>")
_SPOILER = re.compile(r"""\s+class\s*=\s*["']?tg-spoiler["']?""")
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_PLAIN_HTML = re.compile(r"[^<&{]+")


def read_html(source: str, is_template: bool) -> list[Token]:
    """
    Raises:
        TemplateError: a tag that Telegram does not know, that is not closed, or that closes nothing.
    """
    tokens: list[Token] = []
    opened: list[Token] = []
    position = 0
    while position < len(source):
        if is_template and source.startswith("{{", position):
            end = source.index("}}", position) + 2
            token = Token(source[position:end], source[position:end])
        elif found := _PLAIN_HTML.match(source, position):
            token, end = Token(found[0], found[0]), found.end()
        elif source[position] == "<":
            token, end = _tag(source, position, opened)
        elif entity := _ENTITY.match(source, position):
            token, end = Token(entity[0], _decoded(entity)), entity.end()
        else:
            token, end = Token(source[position], source[position]), position + 1
        tokens.append(token)
        position = end
    if opened:
        raise TemplateError(f"a <{opened[-1].mark}> that is not closed", opened[-1].at)
    return tokens


def _tag(source: str, at: int, opened: list[Token]) -> tuple[Token, int]:
    if found := _END_TAG.match(source, at):
        if not opened or opened[-1].mark != found[1].lower():
            raise TemplateError("an end tag that closes nothing", at)
        opened.pop()
        return Token(found[0], at=at, closes=True), found.end()
    found = _TAG.match(source, at)
    if found is None or found[1].lower() not in TAGS:
        raise TemplateError("a tag that Telegram does not know (write &lt; for the character)", at)
    name = found[1].lower()
    if name == "span" and not _SPOILER.fullmatch(found[2]):
        raise TemplateError('a span without class="tg-spoiler"', at)
    token = Token(found[0], at=at, mark=name, closing=f"</{name}>")
    opened.append(token)
    return token, found.end()


def _decoded(entity: re.Match[str]) -> str:
    decimal, hexadecimal, name = entity.groups()
    if name:
        return _NAMED[name]
    number = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else entity[0]


def read_plain(source: str, _: bool) -> list[Token]:
    return [Token(source, source)] if source else []


MARKUPS = {
    "MarkdownV2": Markup("MarkdownV2", escape_markdown, read_markdown),
    "HTML": Markup("HTML", escape_html, read_html),
    "plain": Markup(None, lambda value: value, read_plain),
}
