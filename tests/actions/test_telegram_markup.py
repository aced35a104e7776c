"""What Telegram reads is what the author wrote, whatever stands on the chain."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentauri.actions.channels.telegram_markup import MARKUPS, MOST, Token, cut, seen, written
from agentauri.actions.filters import TemplateError, UnixTime
from support.telegram_entities import Parsed, Refused, parse, units

VALUES: dict[str, object] = {
    "score": 85,
    "agent_id": 42,
    "tag1": "a*b",
    "tag2": None,
    "timestamp": UnixTime(1702425600),
}


def rendered(source: str, mode: str = "MarkdownV2", **more: object) -> str:
    return written(MARKUPS[mode].compile(source).render(VALUES | more))


def as_read(source: str, mode: str = "MarkdownV2", **more: object) -> Parsed:
    return parse(rendered(source, mode, **more), MARKUPS[mode].parse_mode)


@pytest.mark.parametrize(
    ("mode", "source", "sent"),
    [
        ("MarkdownV2", "{{tag1}}", r"a\*b"),
        ("MarkdownV2", "Done!", r"Done\!"),
        ("MarkdownV2", "Agent {{agent_id}}: {{ score }}", "Agent 42: 85"),
        ("MarkdownV2", "{{timestamp}} {{tag2}}", r"2023\-12\-13 00:00:00 UTC null"),
        ("MarkdownV2", ". ! - = + # { } | > ( )", r"\. \! \- \= \+ \# \{ \} \| \> \( \)"),
        ("MarkdownV2", r"already \. escaped \_", r"already \. escaped \_"),
        ("MarkdownV2", r"a \ b \{{tag1}}", r"a \ b \\a\*b"),
        ("HTML", "<b>{{tag1}}</b> a.b!", "<b>a*b</b> a.b!"),
        ("plain", "*{{tag1}}* <b> .", "*a*b* <b> ."),
    ],
)
def test_a_text_is_escaped_for_its_author(mode: str, source: str, sent: str) -> None:
    assert rendered(source, mode) == sent


@pytest.mark.parametrize(
    ("source", "text", "kinds"),
    [
        ("*b* _i_ __u__ ~s~ ", "b i u s ", ["bold", "italic", "underline", "strikethrough"]),
        ("||h|| `c` ", "h c ", ["spoiler", "code"]),
        ("*a _b __c__ d_ e*", "a b c d e", ["underline", "italic", "bold"]),
        ("[see {{tag1}}](https://x.example/?q={{tag1}}) (it)", "see a*b (it)", ["texturl"]),
        ("```py\nx = {{score}}.```", "x = 85.", ["pre"]),
        ("```{{tag1}}```", "a*b", ["pre"]),
        ("`{{empty}}``{{tag1}}`", "\u200ba*b", ["code", "code"]),
        ("_{{empty}}_ x", "\u200b x", ["italic"]),
        ("||a|b|| {x} 1 > 0", "a|b {x} 1 > 0", ["spoiler"]),
    ],
)  # fmt: skip
def test_marks_of_the_author_are_marks(source: str, text: str, kinds: list[str]) -> None:
    read = as_read(source.replace("empty", "trigger_name"), trigger_name="")

    assert (read.text, [entity.type for entity in read.entities]) == (text, kinds)


def test_a_backslash_before_a_value_does_not_undo_its_escaping() -> None:
    assert as_read(r"\{{tag1}}", tag1="*bold*") == Parsed(r"\*bold*", [])
    assert as_read(r"[x](https://x.example/\{{tag1}})", tag1=")*y*").text == "x"


@pytest.mark.parametrize(
    ("mode", "source", "fault", "position"),
    [
        ("MarkdownV2", "score *85", "a * that is not closed", 7),
        ("MarkdownV2", "agent_id", "a _ that is not closed", 6),
        ("MarkdownV2", "{{score}} __x_", "a _ that is not closed", 14),
        ("MarkdownV2", "*a _b* c_", "a _ that is not closed", 9),
        ("MarkdownV2", "`x", "a ` that is not closed", 1),
        ("MarkdownV2", "a ```x", "a ``` that is not closed", 3),
        ("MarkdownV2", "||x", "a || that is not closed", 1),
        ("MarkdownV2", "x]", "a ] that closes nothing", 2),
        ("MarkdownV2", "[x]", "a link without its (address)", 3),
        ("MarkdownV2", "[x](https://x.example", "an address that is not closed", 4),
        ("MarkdownV2", "_{{ nope }}_", "an unknown name", 2),
        ("HTML", "x <b>y", "a <b> that is not closed", 3),
        ("HTML", "x</b>", "an end tag that closes nothing", 2),
        ("HTML", "<b><i>x</b></i>", "an end tag that closes nothing", 8),
        ("HTML", "1 < 2", "a tag that Telegram does not know", 3),
        ("HTML", "<script>x</script>", "a tag that Telegram does not know", 1),
        ("HTML", "<{{tag1}}>", "a tag that Telegram does not know", 1),
        ("HTML", "<a href={{tag1}}>x</a>", "a tag that Telegram does not know", 1),
        ("HTML", '<span class="x">y</span>', "a span without", 1),
    ],
)
def test_marks_that_do_not_fit_are_refused_with_their_position(
    mode: str, source: str, fault: str, position: int
) -> None:
    with pytest.raises(TemplateError, match=rf"^{re.escape(fault)}.* at character {position}$"):
        MARKUPS[mode].compile(source)


MARKED = {
    "MarkdownV2": [
        "{{tag1}}", "*{{tag1}}*", "_{{tag1}}_", "__{{tag1}}__", "~{{tag1}}~", "||{{tag1}}||", "`{{tag1}}`",
        "```{{tag1}}```", "```py\n{{tag1}}```", "[{{tag1}}](https://x.example/{{tag1}})", "*a _{{tag1}}_ b* !",
        r"\{{tag1}}\\{{tag1}}", "__a _{{tag1}}_ __", "`{{tag1}}``{{tag1}}`", "> {{tag1}} #{{tag1}}|{{tag1}}|",
    ],
    "HTML": [
        "{{tag1}}", "<b>{{tag1}}</b>", '<a href="https://x.example/?{{tag1}}">{{tag1}}</a>',
        "<a href='{{tag1}}'><i>{{tag1}}</i></a>", "<pre><code class=\"language-py\">{{tag1}}</code></pre>",
        '<span class="tg-spoiler">{{tag1}}</span>', "<blockquote expandable>{{tag1}}</blockquote> &amp; & {{tag1}}",
    ],
    "plain": ["{{tag1}}", "*{{tag1}}*"],
}  # fmt: skip
"""All of them show each value as a whole, and the same entities whatever it is."""

HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="\\_*[]()~`>#+-=|{}.!&<>;\"'\n\r a", max_size=60),
    st.sampled_from(["", "_", "__", "`", "```", "\\", "](http://evil.example)", "</b>", "<b>", "&lt;", "{{score}}"]),
)  # fmt: skip


@given(st.sampled_from([(mode, source) for mode, sources in MARKED.items() for source in sources]), HOSTILE)
@example(("MarkdownV2", "_{{tag1}}_"), "")
def test_text_from_the_chain_never_changes_the_markup(marked: tuple[str, str], value: str) -> None:
    mode, source = marked
    read = as_read(source + " end", mode, tag1=value)
    harmless = as_read(source + " end", mode, tag1="x")

    shown = value.replace("\r", "") if mode == "MarkdownV2" else value
    kinds, wanted = ([entity.type for entity in one.entities] for one in (read, harmless))
    assert kinds == wanted if shown else set(kinds) <= set(wanted)  # what marks nothing is no entity
    assert shown in read.text


@given(
    st.sampled_from([(mode, source) for mode, sources in MARKED.items() for source in sources]),
    st.text(alphabet=st.sampled_from("ab_*`\\<&\U0001f916 "), min_size=1, max_size=9),
    st.integers(1, 30),
)
@example(("MarkdownV2", "__a _{{tag1}}_ __"), "\U0001f916<<<<<<\U0001f916", 22)
def test_what_is_cut_is_still_valid_and_no_longer_than_it_may_be(
    marked: tuple[str, str], value: str, most: int
) -> None:
    mode, source = marked
    markup = MARKUPS[mode]
    tokens = markup.compile(f"{source} {source}").render({"tag1": value})

    short = cut(tokens, most)

    read = parse(written(short), markup.parse_mode)
    assert units(read.text) <= max(most, 1)
    assert read.text == seen(short).replace("\u200b", "") or "\u200b" in read.text
    if short is not tokens:
        assert read.text.endswith("…")
        assert all(entity.offset + entity.length <= units(read.text) - 1 for entity in read.entities)
        assert seen(tokens).startswith(read.text[:-1].replace("\u200b", ""))


@pytest.mark.parametrize("mode", list(MARKUPS))
def test_a_message_is_cut_at_4096_units(mode: str) -> None:
    source = "*{{tag1}}*" if mode == "MarkdownV2" else "{{tag1}}"

    assert len(as_read(source, mode, tag1="x" * MOST).text) == MOST
    read = as_read(source, mode, tag1="\U0001f916" * MOST)
    assert units(read.text) in (MOST - 1, MOST)
    assert read.text.endswith("\U0001f916…")


def test_a_link_that_is_cut_keeps_its_address() -> None:
    tokens = MARKUPS["MarkdownV2"].read("see [the transaction](https://x.example/1)", False)

    assert written(cut(tokens, 9)) == "see [the ](https://x.example/1)…"


def test_a_mark_just_before_the_cut_is_left_out() -> None:
    tokens = MARKUPS["HTML"].read("abcd<b>efgh</b>", False)

    assert written(cut(tokens, 5)) == "abcd…"


@pytest.mark.parametrize("value", ["", " ", "\u200b\n", "\0"])
@pytest.mark.parametrize("mode", list(MARKUPS))
def test_a_message_is_never_empty(mode: str, value: str) -> None:
    """Whoever writes the event must not be able to keep its alert from being sent."""
    assert as_read("{{tag1}}", mode, tag1=value).text == "(no text)"


def test_a_message_of_enormous_values_is_bounded() -> None:
    assert len(rendered("{{tag1}}" * 100, tag1="*" * 500_000)) < 20_000


@pytest.mark.parametrize(
    ("mode", "text"),
    [("MarkdownV2", "a.b"), ("MarkdownV2", "*a"), ("HTML", "<x>"), ("HTML", "<b>"), ("HTML", "</b>")],
)
def test_the_stand_in_refuses_what_telegram_refuses(mode: str, text: str) -> None:
    with pytest.raises(Refused):
        parse(text, mode)


def test_tokens_know_what_is_seen() -> None:
    tokens: list[Any] = MARKUPS["HTML"].read("<b>1 &lt; 2</b>", False)

    assert seen(tokens) == "1 < 2"
    assert isinstance(tokens[0], Token)
