"""Which triggers may match an event, out of a million, without asking each.

A trigger is filed under the most selective equality that its condition needs, or in the bare bucket of its chain and
registry where it needs none. `candidates` may name too many triggers, never too few. To stay small, triggers are
numbers, buckets are arrays of numbers, and definitions are packed bytes; programs are compiled on first use.

Numbers are never used again: a changed trigger gets a new one and its old one goes dead, so that nothing is ever
searched for and removed. `worn` says when the dead are so many that a fresh index is cheaper.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from agentauri.events import Event
from agentauri.triggers.fields import FIELDS, Getter, Kind, getter
from agentauri.triggers.matching import Check, Definition, Key, compile_nodes, eligible, necessary
from agentauri.triggers.state.programs import StateProgram, compile_state

PROGRAMS = 50_000
WORN = 10_000

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Definition).decode

Bucket = int | array  # type: ignore[type-arg]  # one number costs nothing; array("I") when there are more


class Program(Struct, frozen=True):
    """One trigger, ready to run. With a `state` the match is not decided by the event alone."""

    definition: Definition
    check: Check
    state: StateProgram | None = None

    def matches(self, event: Event) -> bool:
        return eligible(self.definition, event) and self.check(event)


class _Scope:
    """The triggers of one (chain or any, registry or any)."""

    def __init__(self) -> None:
        self.bare = array("I")
        self.tables: dict[str, tuple[Getter, dict[int | str, Bucket]]] = {}

    def file(self, keys: Iterable[Key] | None, number: int) -> None:
        if keys is None:
            self.bare.append(number)
            return
        for column, value in keys:
            if column not in self.tables:
                self.tables[column] = (getter(column, folded=FIELDS[column].kind is Kind.HEX), {})
            table = self.tables[column][1]
            bucket = table.get(value)
            if bucket is None:
                table[value] = number
            elif isinstance(bucket, int):
                table[value] = array("I", (bucket, number))
            else:
                bucket.append(number)


class Index:
    """Holds the triggers that can fire. Knows nothing of the database; `Catalog` keeps it true."""

    def __init__(self) -> None:
        self._scopes: dict[tuple[int | None, str | None], _Scope] = {}
        self._seen_by: dict[tuple[int, str], tuple[_Scope, ...]] = {}
        self._packed: list[bytes | None] = []
        self._numbers: dict[str, int] = {}
        self._programs: OrderedDict[int, Program] = OrderedDict()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def worn(self) -> bool:
        """Whether the dead outnumber the living by so much that they cost more than a fresh start."""
        return len(self._packed) - len(self._numbers) > max(WORN, len(self._numbers))

    def put(self, definition: Definition) -> None:
        """Add a trigger, or replace what is known about it."""
        self.drop(definition.trigger_id)
        number = len(self._packed)
        place = (definition.chain_id, definition.registry)
        scope = self._scopes.get(place)
        if scope is None:
            scope = self._scopes[place] = _Scope()
            self._seen_by.clear()
        scope.file(necessary(definition.nodes), number)
        self._packed.append(_pack(definition))
        self._numbers[definition.trigger_id] = number

    def drop(self, trigger_id: str) -> None:
        number = self._numbers.pop(trigger_id, None)
        if number is not None:
            self._packed[number] = None
            self._programs.pop(number, None)

    def candidates(self, event: Event) -> list[int]:
        """Numbers of all triggers that may match, each once."""
        found: list[int] = []
        for scope in self._scopes_of(event):
            found.extend(scope.bare)
            for read, table in scope.tables.values():
                bucket = table.get(read(event))  # type: ignore[call-overload]  # an absent field is no key
                if bucket is not None:
                    found.append(bucket) if isinstance(bucket, int) else found.extend(bucket)
        return found if len(found) < 2 else list(dict.fromkeys(found))

    def program(self, number: int) -> Program | None:
        """The trigger of that number, compiled; None when it has been dropped or replaced."""
        program = self._programs.get(number)
        if program is not None:
            self._programs.move_to_end(number)
            return program
        packed = self._packed[number]
        if packed is None:
            return None
        definition = _unpack(packed)
        program = self._programs[number] = Program(
            definition, compile_nodes(definition.nodes), compile_state(definition)
        )
        if len(self._programs) > PROGRAMS:
            self._programs.popitem(last=False)
        return program

    def definition(self, number: int) -> Definition:
        """What is known about a trigger that was not dropped."""
        packed = self._packed[number]
        assert packed is not None
        return _unpack(packed)

    def find(self, trigger_id: str) -> int | None:
        """The number of a trigger that can fire."""
        return self._numbers.get(trigger_id)

    def _scopes_of(self, event: Event) -> tuple[_Scope, ...]:
        place = (event.chain_id, event.registry)
        seen = self._seen_by.get(place)
        if seen is None:
            wanted = ((chain, registry) for chain in (event.chain_id, None) for registry in (event.registry, None))
            seen = tuple(self._scopes[key] for key in wanted if key in self._scopes)
            self._seen_by[place] = seen
        return seen
