"""What `agentauri trigger …` prints for people. Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import click
import msgspec

from agentauri.triggers import Backtested, Day, Explained, Explanation, Tested, Traced, Trying

MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}
SIGNS = {
    "eq": "=", "equals": "=", "ne": "!=", "not_equals": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=",
}  # fmt: skip
GATES = {
    "enabled": "the trigger is disabled",
    "draft": "the trigger has no condition, or no action that is enabled",
    "chain": "the event is of another chain",
    "registry": "the event is of another registry",
    "environment": "the trigger is one of the test environment: its messages are made and not sent",
    "created_after": "the event is older than the trigger, or than its being enabled",
    "retracted": "the chain took the event back",
    "cooldown": "it matched too soon after another match",
}
BASES = {"recorded": "as the match recorded it", "recomputed": "found out again from the stored events"}
ROWS = 40
LABEL = 24
"""Columns beside a bar: its date and its number."""


def explained(found: Explained) -> list[str]:
    lines = [
        f"Trigger {_safe(found.trigger_id)}, version {found.trigger_version}; event {_safe(found.event_id)}",
        *_explanation(found.explanation, BASES[found.basis]),
    ]
    if not found.deliveries:
        return [*lines, "", "No delivery was made of it."]
    lines += ["", "Deliveries"]
    for one in found.deliveries:
        why = f"held: {one.hold}" if one.hold else one.reason or ""
        lines.append(f"  {one.id}  action {one.action_id}  {one.status}  {_safe(why)}".rstrip())
    return lines


def tested(found: Tested, source: str) -> list[str]:
    event = found.event
    origin = {"stored": "stored", "sample": "made up", "builtin": "built in"}[source]
    lines = [f"Event {_safe(event.id)}: {_safe(event.event_type)} on chain {event.chain_id} ({origin})"]
    lines += _explanation(found.explanation, "nothing is sent or stored")
    for one in found.actions:
        lines += ["", *_trying(one)]
    return lines


def backtested(found: Backtested, width: int) -> list[str]:
    seconds = max(found.duration_ms, 1) / 1000
    suppressed = sum(found.suppressed.values())
    lines = [
        f"{found.events_scanned:,} events read in {seconds:.1f} s ({found.events_scanned / seconds:,.0f} a second)",
        f"{found.matches:,} matches, {suppressed:,} of them within the cooldown; {found.deliveries:,} deliveries",
    ]
    if not isinstance(found.diff, msgspec.UnsetType):
        lines.append(f"Against the saved trigger: {found.diff.added:,} events more, {found.diff.removed:,} events less")
    if not found.complete:
        lines.append(f"Stopped after {found.events_scanned:,} events, as told: the range has more")
    if found.by_day:
        lines += ["", *plot(found.by_day, width)]
    for one in found.sample:
        lines += ["", f"{_safe(one.event_id)}  agent {one.agent_id or '-'}"]
        lines += [f"  {line}" for line in tree(one.explanation.tree)]
        lines += [_cut(f"  would send {_json(message)}", width) for message in one.rendered if message is not None]
    return lines


def plot(days: Sequence[Day], width: int) -> list[str]:
    """Matches per day as bars, days without one among them; several days to a bar where there would be too many."""
    counts = {date.fromisoformat(one.date): one.matches for one in days}
    first, last = min(counts), max(counts)
    step = -(-((last - first).days + 1) // ROWS)
    bars = [0] * (((last - first).days // step) + 1)
    for day, count in counts.items():
        bars[(day - first).days // step] += count
    room, most = max(10, width - LABEL), max(bars)
    lines = ["Matches per day" if step == 1 else f"Matches per {step} days, by the first of them"]
    for number, count in enumerate(bars):
        bar = "█" * round(count / most * room) or ("▏" if count else "")
        lines.append(f"{first + timedelta(days=number * step)}  {bar}{' ' if bar else ''}{count:,}")
    return lines


def tree(node: Traced) -> list[str]:
    """A condition with all its parts, each with its answer."""
    return [_line(node), *_below(node, "")]


def _below(node: Traced, indent: str) -> list[str]:
    children = [] if isinstance(node.children, msgspec.UnsetType) else node.children
    lines = []
    for number, child in enumerate(children, 1):
        is_last = number == len(children)
        lines.append(f"{indent}{'└─' if is_last else '├─'} {_line(child)}")
        lines += _below(child, indent + ("   " if is_last else "│  "))
    return lines


def _line(node: Traced) -> str:
    mark, colour = MARKS[node.result]
    mark = click.style(mark, fg=colour)
    if node.node != "leaf":
        return f"{mark} {node.node}" + ("" if isinstance(node.reason, msgspec.UnsetType) else f": {node.reason}")
    parts = [f"{mark} {_test(node)}"]
    if not isinstance(node.actual, msgspec.UnsetType):
        parts.append("absent" if node.actual is None else f"is {_json(node.actual)}")
    if not isinstance(node.state_after, msgspec.UnsetType) and node.state_after is not None:
        parts.append(f"before {_state(node.state_before)}, after {_state(node.state_after)}")
    if not isinstance(node.reason, msgspec.UnsetType):
        parts.append(node.reason)
    return "; ".join(parts)


def _test(node: Traced) -> str:
    words = [str(node.condition_type)]
    if not isinstance(node.field, msgspec.UnsetType) and node.field is not None:
        words.append(_safe(node.field))
    if not isinstance(node.operator, msgspec.UnsetType) and node.operator is not None:
        words.append(SIGNS.get(node.operator, node.operator))
    if not isinstance(node.expected, msgspec.UnsetType) and node.expected is not None:
        words.append(_json(node.expected))
    return " ".join(words)


def _state(state: object) -> str:
    if not isinstance(state, Mapping):
        return "nothing"
    return " ".join(f"{name} {_json(value)}" for name, value in state.items()) or "nothing"


def _explanation(found: Explanation, about: str) -> list[str]:
    word = {True: "It matches", False: "It does not match", None: "Nobody can tell any more"}[found.matched]
    lines = [f"{word} ({about}).", "", *tree(found.tree)]
    barred = [GATES[one.gate] for one in found.gates if one.passed is False]
    unknown = [one.gate for one in found.gates if one.passed is None]
    if barred or unknown:
        lines += ["", *(f"{click.style('!', fg='red')} {reason}" for reason in barred)]
        lines += [
            f"{click.style('?', fg='yellow')} whether the {gate} lets it through is not known" for gate in unknown
        ]
    return lines


def _trying(one: Trying) -> list[str]:
    name = one.action_type if one.action_id is None else f"{one.action_type} (action {one.action_id})"
    lines = [f"{name} would send" if one.would_deliver else f"{name} would send nothing: {one.reason}"]
    lines += [f"  error: {_safe(error)}" for error in one.errors]
    if one.rendered is not None:
        lines += [f"  {_safe(part)}: {_json(value)}" for part, value in one.rendered.items()]
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _json(value: object) -> str:
    return _safe(value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode())


def _safe(text: str) -> str:
    """Fields of events are other people's: none of them may move the cursor."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
