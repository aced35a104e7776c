"""Conditions once more, as plainly as they can be said: one trigger, all its past in lists, no code of ours."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from typing import Any

NUMBERS = {"score", "value", "value_raw", "agent_id", "timestamp", "feedback_index", "block_number"}
HEX = {"client_address"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPELLED = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "=": "eq", "!=": "ne"}
ORDER = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt,
         "gte": operator.ge}  # fmt: skip
SCOPES = {"agent": ["chain_id", "agent_id"], "client": ["chain_id", "client_address"], "trigger": []}
STATEFUL = {"ema_threshold", "rate_limit", "count", "sum", "avg", "min", "max", "sequence", "absence"}
Node = Any


def value_of(event: Any, name: str) -> Any:
    if name.startswith("args."):
        return event.args.get(name[5:])
    found = getattr(event, "score" if name == "value" else name)
    return found.lower() if name in HEX and found is not None else found


def holds_for(leaf: Node, event: Any) -> bool:
    kind = leaf["condition_type"]
    name = {"agent_id_equals": "agent_id", "score_threshold": "score", "event_type_equals": "event_type"}.get(kind)
    name = name or leaf["field"]
    compared = SPELLED.get(leaf.get("operator", "eq"), leaf.get("operator", "eq"))
    found, wanted = value_of(event, name), leaf.get("value")
    if compared == "exists":
        return bool((found not in (None, "")) == wanted)
    if found is None:
        return False
    many = wanted if isinstance(wanted, list) else [wanted]
    if name in NUMBERS:
        many, found = [Decimal(str(one)) for one in many], Decimal(found)
    elif name in HEX and compared != "regex":
        many = [one.lower() for one in many]
    if compared in ("in", "not_in"):
        return bool((found in many) == (compared == "in"))
    one = many[0]
    texts: dict[str, Any] = {"contains": lambda: one in found, "starts_with": lambda: found.startswith(one),
             "ends_with": lambda: found.endswith(one), "regex": lambda: re.search(one, found) is not None}  # fmt: skip
    return bool(texts[compared]() if compared in texts else ORDER[compared](found, one))


def remembers(node: Node) -> bool:
    if isinstance(node, list):
        return any(remembers(one) for one in node)
    if "condition_type" in node:
        return node["condition_type"] in STATEFUL
    return any(remembers(node[kind]) for kind in ("all", "any", "not") if kind in node)


class Naive:
    """`meet` takes events in the order of their evaluation; what it answers is (matched, suppressed)."""

    def __init__(self, condition: Node, cooldown: int = 0) -> None:
        self.condition, self.cooldown = condition, cooldown
        self.past: dict[Any, list[Any]] = {}
        self.used: set[Any] = set()
        self.fired: int | None = None
        self.asked: list[tuple[Any, Any, int, Any]] = []

    def meet(self, event: Any) -> tuple[bool, bool]:
        """Whether it matched, and whether the cooldown was silent about it."""
        self.now: dict[int, bool] = {}
        self.numbers: dict[int, Any] = {}
        fed = list(self.feed(self.condition, [], event))
        for leaf in fed:
            self.now[id(leaf)] = self.take(leaf, event)
        for leaf in fed:
            if leaf["condition_type"] == "absence" and self.holds(leaf["config"]["after"], event):
                self.now[id(leaf)] = True
                if self.holds(self.condition, event):
                    self.asked.append((leaf, self.key(leaf, event), event.timestamp, event))
                self.now[id(leaf)] = False
        if not self.holds(self.condition, event):
            return False, False
        if self.cooldown and self.fired is not None and abs(event.timestamp - self.fired) < self.cooldown:
            return True, True
        self.fired = event.timestamp
        for leaf in fed:
            if leaf["config"].get("reset_on_trigger"):
                self.used |= {(id(leaf), one.seq) for one in self.past[self.key(leaf, event)]}
        return True, False

    def silences(self, time: int) -> list[Any]:
        """The events that nothing followed, once the chain has come to that time."""
        found = []
        for leaf, key, since, event in sorted(self.asked, key=lambda one: one[2]):
            span = seconds(leaf["config"]["within"])
            answers = [one for one in self.past[key] if self.holds(leaf["config"]["expect"], one)]
            if time <= since + span or any(since < one.timestamp <= since + span for one in answers):
                continue
            if not self.cooldown or self.fired is None or abs(since - self.fired) >= self.cooldown:
                self.fired = since
                found.append(event)
        return found

    def holds(self, node: Node, event: Any) -> bool:
        if isinstance(node, list):
            return all(self.holds(one, event) for one in node)
        if "all" in node:
            return self.holds(node["all"], event)
        if "any" in node:
            return any(self.holds(one, event) for one in node["any"])
        if "not" in node:
            return not self.holds(node["not"], event)
        return self.now.get(id(node), False) if node["condition_type"] in STATEFUL else holds_for(node, event)

    def feed(self, node: Node, needed: list[Node], event: Any) -> Any:
        """The leaves that this event feeds."""
        if isinstance(node, list) or "all" in node:
            inner = node if isinstance(node, list) else node["all"]
            needed = needed + [one for one in inner if not remembers(one)]
            for one in inner:
                yield from self.feed(one, needed, event)
        elif "any" in node or "not" in node:
            for one in node.get("any") or [node["not"]]:
                yield from self.feed(one, needed, event)
        elif remembers(node) and self.fits(node, event) and all(self.holds(one, event) for one in needed):
            yield node

    def fits(self, leaf: Node, event: Any) -> bool:
        config, kind = leaf["config"], leaf["condition_type"]
        if any(part is None for part in self.key(leaf, event)[1:]):
            return False
        if kind in ("sequence", "absence"):
            sorts = ("first", "then") if kind == "sequence" else ("after", "expect")
            return any(self.holds(config[one], event) for one in sorts)
        if kind not in ("rate_limit", "count") and value_of(event, leaf.get("field", "score")) is None:
            return False
        return "where" not in config or self.holds(config["where"], event)

    def key(self, leaf: Node, event: Any) -> tuple[Any, ...]:
        scope = leaf["config"].get("scope", "trigger" if leaf["condition_type"] == "rate_limit" else "agent")
        return (id(leaf), *(value_of(event, name) for name in SCOPES.get(str(scope), scope)))

    def take(self, leaf: Node, event: Any) -> bool:
        config, kind, time = leaf["config"], leaf["condition_type"], event.timestamp
        before = self.past.setdefault(self.key(leaf, event), [])
        before.append(event)
        if kind == "absence":
            return False
        if kind == "sequence":
            return self.pair(leaf, before, event)
        compared = ORDER[SPELLED.get(leaf["operator"], leaf["operator"])]
        wanted = Decimal(str(leaf["value"]))
        if kind == "ema_threshold":
            numbers = [float(value_of(one, leaf.get("field", "score"))) for one in before]
            weight, average = 2 / (config["window_size"] + 1), numbers[0]
            for value in numbers[1:]:
                average = weight * value + (1 - weight) * average
            self.numbers[id(leaf)] = average
            if compared in (operator.eq, operator.ne):
                return (abs(average - float(wanted)) <= 1e-9) == (compared is operator.eq)
            return bool(compared(average, float(wanted)))
        span = seconds(config.get("window") or config["time_window"])
        within = [one for one in before if time - span <= one.timestamp <= time]
        within = [one for one in within if (id(leaf), one.seq) not in self.used]
        self.numbers[id(leaf)] = len(within)
        if kind in ("rate_limit", "count"):
            return bool(compared(len(within), wanted))
        values = [Decimal(value_of(one, leaf["field"])) for one in within]
        if kind == "avg":
            return bool(compared(sum(values), wanted * len(values)))
        folds: dict[str, Any] = {"sum": sum, "min": min, "max": max}
        return bool(compared(folds[kind](values), wanted))

    def pair(self, leaf: Node, before: list[Any], event: Any) -> bool:
        def place(one: Any) -> tuple[int, int, int]:
            return (one.timestamp, one.block_number, one.log_index)

        span = seconds(leaf["config"]["within"])
        waiting = [
            one
            for one in before
            if self.holds(leaf["config"]["first"], one)
            and (id(leaf), one.seq) not in self.used
            and event.timestamp - span <= one.timestamp
            and place(one) < place(event)
        ]
        if not waiting or not self.holds(leaf["config"]["then"], event):
            return False
        self.used.add((id(leaf), min(waiting, key=lambda one: (*place(one), one.seq)).seq))
        return True


def seconds(text: str) -> int:
    return int(text[:-1]) * SECONDS[text[-1]]
