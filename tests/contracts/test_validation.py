"""Validation registry: who asks, who answers, and what counts."""

from __future__ import annotations

import pytest

from agentauri.demo import Account, LocalChain, Reverted

OWNER, VALIDATOR, OTHER = (Account.number(n).address for n in (0, 2, 41))


def named(n: int) -> bytes:
    return n.to_bytes(32, "big")


async def test_the_first_writer_owns_a_request_hash_whoever_the_agent(chain: LocalChain) -> None:
    first, _ = await chain.register()
    second, _ = await chain.register(owner=OTHER)
    await chain.request_validation(first, "", named(0), validator=OWNER)

    with pytest.raises(Reverted, match="exists"):
        await chain.request_validation(second, "ipfs://q", named(0), owner=OTHER)

    assert await chain.read(chain.validation_call("getAgentValidations", first)) == ((named(0),),)
    assert await chain.read(chain.validation_call("getValidatorRequests", OWNER)) == ((named(0),),)


async def test_only_those_who_act_for_a_known_agent_ask_a_real_validator(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()

    with pytest.raises(Reverted, match="bad validator"):
        await chain.request_validation(agent_id, "q", named(1), validator="0x" + "00" * 20)
    with pytest.raises(Reverted, match="Not authorized"):
        await chain.request_validation(agent_id, "q", named(1), owner=OTHER)
    with pytest.raises(Reverted) as refused:
        await chain.request_validation(9, "q", named(1))
    assert refused.value.data[:4] == bytes.fromhex("7e273289")


async def test_only_the_named_validator_answers_and_may_answer_again(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    asked = await chain.request_validation(agent_id, "ipfs://q", named(1))

    with pytest.raises(Reverted, match="unknown"):
        await chain.respond_validation(named(2), 1)
    with pytest.raises(Reverted, match="not validator"):
        await chain.respond_validation(named(1), 1, validator=OTHER)
    with pytest.raises(Reverted, match="resp>100"):
        await chain.respond_validation(named(1), 101)
    await chain.respond_validation(named(1), 100, tag="soft finality")
    answered = await chain.respond_validation(named(1), 0, tag="hard finality")

    assert asked.logs[0].topics[3] == answered.logs[0].topics[3] == named(1)
    status = await chain.read(chain.validation_call("getValidationStatus", named(1)))
    assert status[:5] == (VALIDATOR, agent_id, 0, bytes(32), "hard finality")
    with pytest.raises(Reverted, match="unknown"):
        await chain.read(chain.validation_call("getValidationStatus", named(2)))


async def test_a_summary_counts_answers_once_and_unanswered_requests_never(chain: LocalChain) -> None:
    agent_id, _ = await chain.register()
    for n, response in enumerate((100, 67, 0)):
        await chain.request_validation(agent_id, "q", named(n))
        await chain.respond_validation(named(n), response, tag="t" if n else "")
    await chain.request_validation(agent_id, "q", named(9))

    async def summary(validators: list[str], tag: str) -> tuple[int, int]:
        count, average = await chain.read(chain.validation_call("getSummary", agent_id, validators, tag))
        return count, average

    assert await summary([], "") == (3, 55)
    assert await summary([VALIDATOR, VALIDATOR], "") == (3, 55)
    assert await summary([], "t") == (2, 33)
    assert await summary([OTHER], "") == (0, 0)
