"""What alert rules and dashboard ask for is in what a running product tells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import aiohttp
import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from agentauri.demo import LocalChain
from support.processes import Child, until
from support.promql import alert_expressions, dashboard_expressions, selectors
from support.receiver import Receiver

SECONDS = 60.0
UNKNOWN_TOPIC = bytes(range(32))
RATINGS = {
    "name": "Every rating",
    "registry": "reputation",
    "on_reorg": "notify",
    "conditions": [{"condition_type": "event_type_equals", "value": "NewFeedback"}],
}


async def test_every_metric_and_label_of_the_shipped_expressions_is_in_the_scrape(
    chain: LocalChain, serve: Callable[..., Child], http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    child = serve(**chain.settings, RATE_LIMIT_MODE="shadow")
    base = f"http://127.0.0.1:{await child.port()}"
    await something_of_everything(chain, http, receiver, base)

    async def complete() -> bool:
        return not missing(await scraped(http, base))

    try:
        await until(complete, SECONDS, "every metric to be told")
    except AssertionError as error:
        raise AssertionError(missing(await scraped(http, base))) from error


async def something_of_everything(
    chain: LocalChain, http: aiohttp.ClientSession, receiver: Receiver, base: str
) -> None:
    """Agents, a rating and its delivery, a log that nobody knows, a reorg that takes the rating back, a login."""
    action = {"action_type": "webhook", "config": {"url": f"{receiver.url}/hook"}}
    async with http.post(f"{base}/api/v1/triggers", json=RATINGS | {"actions": [action]}) as answer:
        assert answer.status == 201
    agent, _ = await chain.register()
    await chain.emit(chain.identity, ([UNKNOWN_TOPIC], b""))
    await chain.give_feedback(agent, 90, 0)
    await receiver.wait_for(1, SECONDS)
    await chain.reorg(1)
    await chain.mine(3)
    await receiver.wait_for(2, SECONDS)
    account = {"email": "ada@example.org", "username": "ada", "password": "correct horse battery staple 7"}
    async with http.post(f"{base}/api/v1/auth/register", json=account) as answer:
        assert answer.status == 201, await answer.text()


async def scraped(http: aiohttp.ClientSession, base: str) -> dict[str, set[str]]:
    """The labels of every sample, by its name."""
    found: dict[str, set[str]] = defaultdict(set)
    async with http.get(f"{base}/metrics") as answer:
        for family in text_string_to_metric_families(await answer.text()):
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys()
    return found


def missing(samples: dict[str, set[str]]) -> list[str]:
    wanted = {
        selector
        for expression in (*alert_expressions(), *dashboard_expressions())
        for selector in selectors(promql_parser.parse(expression))
    }
    return sorted(f"{one.name} {set(one.labels)}" for one in wanted
                  if one.name not in samples or not one.labels <= samples[one.name])  # fmt: skip
