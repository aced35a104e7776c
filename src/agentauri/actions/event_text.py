"""Templates over an event alone, for texts that are needed before there is a delivery."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentauri.actions.filters import TemplateError, UnixTime
from agentauri.actions.template import EVENT_NAMES, TEXT, Placeholder, compile_text


def compile_event_text(source: str) -> Callable[[Mapping[str, object]], str]:
    """A function from an event's columns to the text.

    Raises:
        TemplateError: see `compile_text`; also where it names what an event does not have.
    """
    template = compile_text(source, TEXT)
    for part in template.parts:
        if isinstance(part, Placeholder) and part.name.partition(".")[0] not in EVENT_NAMES:
            raise TemplateError("a placeholder names what no event has")

    def render(fields: Mapping[str, object]) -> str:
        return template.render({**fields, "timestamp": UnixTime(str(fields["timestamp"]))})

    return render
