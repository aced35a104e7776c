"""How Telegram reads MarkdownV2 and HTML, by its documentation: the visible text and the entities, or the words with
which it refuses. Written apart from what the product has, so that the two can disagree."""

from __future__ import annotations

import re
from typing import NamedTuple


class Refused(Exception):
    """The rest of "Bad Request: can't parse entities: "."""


class Entity(NamedTuple):
    """`offset` and `length` in UTF-16 units."""

    type: str
    offset: int
    length: int
    argument: str = ""


class Parsed(NamedTuple):
    text: str
    entities: list[Entity]


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def parse(text: str, parse_mode: str | None) -> Parsed:
    """
    Raises:
        Refused
    """
    match parse_mode:
        case None:
            return Parsed(text, [])
        case "MarkdownV2":
            return _parse_markdown(text)
        case "HTML":
            return _parse_html(text)
    raise Refused("unsupported parse_mode")


NAMES = {
    "*": "Bold", "_": "Italic", "__": "Underline", "~": "Strikethrough", "||": "Spoiler", "`": "Code", "```": "Pre",
    "[": "TextUrl",
}  # fmt: skip


class _Open(NamedTuple):
    mark: str
    byte: int
    start: int
    argument: str


def _parse_markdown(text: str) -> Parsed:
    seen: list[str] = []
    entities: list[Entity] = []
    opened: list[_Open] = []
    position = 0

    def byte(at: int) -> int:
        return len(text[:at].encode())

    def now() -> int:
        return units("".join(seen))

    def close(argument: str = "") -> None:
        mark, _, start, language = opened.pop()
        if now() > start:
            entities.append(Entity(NAMES[mark].lower(), start, now() - start, argument or language))

    while position < len(text):
        character, following = text[position], text[position + 1 : position + 2]
        top = opened[-1].mark if opened else ""
        if character == "\\" and following and 0 < ord(following) < 127:
            seen.append(following)
            position += 2
        elif character not in ("`" if top in ("`", "```") else "_*[]()~`>#+-=|{}.!"):
            seen.append(character)
            position += 1
        elif _closes(top, text, position):
            if top == "[":
                url, position = _url(text, position, "".join(seen)[opened[-1].start :], byte)
                close(url)
            else:
                close()
                position += len(top)
        else:
            mark, language, end = _mark(text, position)
            opened.append(_Open(mark, byte(position), now(), language))
            position = end
    if opened:
        raise Refused(f"Can't find end of {NAMES[opened[-1].mark]} entity at byte offset {opened[-1].byte}")
    return Parsed("".join(seen), entities)


def _mark(text: str, position: int) -> tuple[str, str, int]:
    """The mark that opens there, the language of code, and where what it marks begins."""
    if found := re.compile(r"```([^\s`]+(?=\s))?(\n\r|\r\n|\n|\r)?").match(text, position):
        return "```", found[1] or "", found.end()
    for mark in ("__", "||", "_", "*", "~", "[", "`"):
        if text.startswith(mark, position):
            return mark, "", position + len(mark)
    raise Refused(f"Character '{text[position]}' is reserved and must be escaped with the preceding '\\'")


def _closes(top: str, text: str, position: int) -> bool:
    match top:
        case "":
            return False
        case "[":
            return text[position] == "]"
        case "_":
            return text[position] == "_" and text[position + 1 : position + 2] != "_"
    return text.startswith(top, position)


def _url(text: str, position: int, label: str, byte: object) -> tuple[str, int]:
    if text[position + 1 : position + 2] != "(":
        return label, position + 1
    url, at = "", position + 2
    while at < len(text) and text[at] != ")":
        if text[at] == "\\" and 0 < ord(text[at + 1 : at + 2] or "\0") < 127:
            at += 1
        url += text[at]
        at += 1
    if at >= len(text):
        assert callable(byte)
        raise Refused(f"Can't find end of a URL at byte offset {byte(position + 2)}")
    return url, at + 1


TAGS = {
    *("a", "b", "strong", "i", "em", "s", "strike", "del", "u", "ins", "tg-spoiler", "tg-emoji", "span", "pre", "code"),
    *("blockquote",),
}


def _parse_html(text: str) -> Parsed:
    seen: list[str] = []
    entities: list[Entity] = []
    opened: list[_Open] = []
    position = 0
    while position < len(text):
        if text[position] == "&":
            character, position = _reference(text, position)
            seen.append(character)
        elif text[position] != "<":
            seen.append(text[position])
            position += 1
        elif text.startswith("</", position):
            position = _end_tag(text, position, seen, entities, opened)
        else:
            position = _start_tag(text, position, seen, opened)
    if opened:
        raise Refused(f"Can't find end tag corresponding to start tag {opened[-1].mark}")
    return Parsed("".join(seen), entities)


def _reference(text: str, position: int) -> tuple[str, int]:
    if found := re.compile(r"&#(?:x([0-9a-fA-F]+)|([0-9]+));?").match(text, position):
        number = int(found[1], 16) if found[1] else int(found[2])
        if 0 < number < 0x10FFFF and not 0xD800 <= number < 0xE000:
            return chr(number), found.end()
    if found := re.compile(r"&(lt|gt|amp|quot)(?![a-z]);?").match(text, position):
        return {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}[found[1]], found.end()
    return "&", position + 1


def _start_tag(text: str, begin: int, seen: list[str], opened: list[_Open]) -> int:
    at = begin + 1
    while at < len(text) and not text[at].isspace() and text[at] != ">":
        at += 1
    if at >= len(text):
        raise Refused(f"Unclosed start tag at byte offset {len(text[:begin].encode())}")
    name, argument = text[begin + 1 : at].lower(), ""
    if name not in TAGS:
        raise Refused(f'Unsupported start tag "{name}" at byte offset {len(text[:begin].encode())}')
    attribute = re.compile(r"""\s*([^\s=>]+)\s*(?:=\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9.-]+(?=[\s>]))))?""")
    while text[at : at + 1] != ">":
        if not text[at : at + 1]:
            raise Refused(f"Unclosed start tag at byte offset {len(text[:begin].encode())}")
        if found := attribute.match(text, at):
            argument = next((value for value in found.groups()[1:] if value is not None), "")
            at = found.end()
        elif text[at].isspace():
            at += 1
        else:
            raise Refused(f'Empty attribute name in the tag "{name}" at byte offset {len(text[:begin].encode())}')
    if name == "span" and argument != "tg-spoiler":
        raise Refused(f'Tag "span" must have class "tg-spoiler" at byte offset {len(text[:begin].encode())}')
    opened.append(_Open(name, begin, units("".join(seen)), argument))
    return at + 1


def _end_tag(text: str, begin: int, seen: list[str], entities: list[Entity], opened: list[_Open]) -> int:
    if not opened:
        raise Refused(f"Unexpected end tag at byte offset {len(text[:begin].encode())}")
    end = text.find(">", begin)
    if end < 0:
        raise Refused(f"Unclosed end tag at byte offset {len(text[:begin].encode())}")
    name, (mark, _, start, argument) = text[begin + 2 : end].strip().lower(), opened.pop()
    if name != mark:
        raise Refused(
            f'Unmatched end tag at byte offset {len(text[:begin].encode())}, expected "</{mark}>", found "</{name}>"'
        )
    if units("".join(seen)) > start:
        entities.append(Entity(mark, start, units("".join(seen)) - start, argument))
    return end + 1
