from __future__ import annotations

import pytest
from msgspec.structs import replace

from agentauri.chain import window
from agentauri.chain.errors import Untruthful
from agentauri.chain.types import Anchor, Header, Log
from chains import logs
from chains.driving import network
from chains.scripted import ScriptedChain, transaction

CHAIN = network()


def make_scripted() -> ScriptedChain:
    """Blocks 1 to 9; 3 and 7 have logs."""
    chain = ScriptedChain()
    for number in range(1, 10):
        chain.mine(*([transaction(logs.transfer(number), logs.registered(number))] if number in (3, 7) else []))
    return chain


def held(chain: ScriptedChain, *numbers: int) -> dict[int, Header]:
    found = [chain.blocks[number] for number in numbers or range(len(chain.blocks))]
    return {one.number: Header(one.number, one.hash, one.parent, one.time, int(one.header["logsBloom"], 16))
            for one in found}  # fmt: skip


def fetched(chain: ScriptedChain) -> list[Log]:
    return [
        Log(
            wire["address"], bytes.fromhex("".join(topic[2:] for topic in wire["topics"])),
            bytes.fromhex(wire["data"][2:]), block.number, block.hash, wire["transactionHash"], 0,
            int(wire["logIndex"], 16), block.time,
        )
        for block in chain.blocks
        for _, wire in block.logs
    ]  # fmt: skip


def base(chain: ScriptedChain, number: int = 0) -> Anchor:
    block = chain.blocks[number]
    return Anchor(block.number, block.hash, block.time)


def check(chain: ScriptedChain, found: list[Log], headers: dict[int, Header] | None = None, **changes: bool) -> None:
    headers = headers or held(chain)
    window.check_headers(base(chain), headers)
    hashes = {number: header.hash for number, header in headers.items()}
    window.check_logs(range(1, 10), CHAIN.registries, found, headers, hashes, **{"blooms": True} | changes)


def refused(chain: ScriptedChain, found: list[Log], headers: dict[int, Header] | None = None) -> bool:
    """Whether it is refused as a lie; fails when it is accepted."""
    with pytest.raises(Untruthful) as caught:
        check(chain, found, headers)
    return caught.value.lie


def test_what_a_chain_says_is_accepted() -> None:
    chain = make_scripted()

    check(chain, fetched(chain))
    check(chain, fetched(chain), held(chain, 0, 9))


def test_a_log_that_was_not_asked_for_is_a_lie() -> None:
    chain = make_scripted()
    log, *rest = fetched(chain)

    assert refused(chain, [replace(log, block_number=10), *rest])
    assert refused(chain, [replace(log, block_number=0), *rest])
    assert refused(chain, [replace(log, address="0x" + "77" * 20), *rest])


def test_two_logs_in_one_place_are_a_lie() -> None:
    chain = make_scripted()
    found = fetched(chain)

    assert refused(chain, [found[0], replace(found[1], log_index=0), *found[2:]])


def test_a_log_that_its_blocks_bloom_excludes_is_a_lie() -> None:
    chain = make_scripted()
    found = fetched(chain)
    forged = replace(found[0], topics=found[0].topics[:-32] + b"\x99" * 32)

    assert refused(chain, [forged, *found[1:]])
    check(chain, [forged, *found[1:]], blooms=False)
    check(chain, [forged, *found[1:]], held(chain, 0, 9))  # no header, no bloom


def test_a_height_with_two_hashes_is_refused_though_a_race_may_explain_it() -> None:
    chain = make_scripted()
    log, *rest = fetched(chain)

    assert not refused(chain, [replace(log, block_hash="0x" + "77" * 32), *rest])
    assert not refused(chain, [replace(log, block_hash="0x" + "77" * 32), *rest], held(chain, 0, 9))


def test_headers_that_do_not_follow_each_other_are_refused() -> None:
    chain = make_scripted()
    headers = held(chain)
    headers[5] = replace(headers[5], hash="0x" + "77" * 32)

    assert not refused(chain, fetched(chain), headers)


def test_a_checkpoint_that_changed_meanwhile_is_refused() -> None:
    chain = make_scripted()
    headers = held(chain, 0, 9)
    headers[0] = replace(headers[0], hash="0x" + "77" * 32)

    assert not refused(chain, fetched(chain), headers)


def test_an_empty_bloom_beside_a_log_says_that_the_chain_keeps_none() -> None:
    chain = make_scripted()
    headers = held(chain)

    assert window.keeps_blooms(headers, fetched(chain))
    headers[3] = replace(headers[3], bloom=0)
    assert not window.keeps_blooms(headers, fetched(chain))


def test_a_block_that_admits_an_address_without_its_log_is_noticed() -> None:
    chain = make_scripted()
    found = fetched(chain)

    assert window.unexplained(CHAIN, held(chain).values(), found, 0) == set()
    assert window.unexplained(CHAIN, held(chain).values(), found[2:], 0) == {3}
    assert window.unexplained(CHAIN, held(chain).values(), found[2:], 3) == set()


def test_the_fork_point_is_the_highest_anchor_that_still_stands() -> None:
    chain = make_scripted()
    anchors = [base(chain, number) for number in (2, 4, 6, 8)]
    chain.fork(4)
    chain.mine(count=4)

    assert window.fork_point(anchors, dict(held(chain))) == anchors[1]
    assert window.fork_point(anchors[2:], dict(held(chain))) is None
    assert window.fork_point(anchors, {2: held(chain)[2], 4: None}) == anchors[0]


def test_a_range_ends_before_the_newest_blocks_or_is_among_them() -> None:
    assert window.last_block(0, 10_000, 2_000) == 2_000
    assert window.last_block(0, 1_000, 2_000) == 968
    assert window.last_block(968, 1_000, 2_000) == 1_000
    assert window.last_block(968, 1_000, 10) == 978


def test_near_the_head_every_header_is_wanted_and_elsewhere_those_that_tell_a_time() -> None:
    chain = make_scripted()
    found = fetched(chain)

    assert window.wanted_headers(4, 9, 30, found) == [5, 6, 7, 8, 9]
    assert window.wanted_headers(0, 9, 1_000, found) == [9]
    assert window.wanted_headers(0, 9, 1_000, [replace(log, block_time=None) for log in found]) == [3, 7, 9]


def test_a_range_that_wants_too_many_headers_is_cut() -> None:
    assert window.cut(9, [3, 7, 9], 3) == (9, [3, 7, 9])
    assert window.cut(9, [3, 7, 9], 2) == (7, [3, 7])


def test_a_range_that_is_too_large_is_halved_down_to_one_address_of_one_block() -> None:
    span = window.Span(10_000)
    asked = []
    while span.too_large(span.blocks, None, fixed=False):
        asked.append(span.blocks)

    assert asked[:3] == [1_000, 500, 250]
    assert asked[-2:] == [1, 1]
    assert span.apart


def test_an_offer_is_taken_and_a_fixed_limit_is_remembered() -> None:
    span = window.Span(10_000)

    span.too_large(2_000, 700, fixed=False)
    assert span.blocks == 700
    span.too_large(700, 500, fixed=True)
    for _ in range(50):
        span.went_well(span.blocks, 0)

    assert span.blocks == 500


def test_a_range_grows_after_five_successes_of_its_full_size() -> None:
    span = window.Span(10_000)

    for _ in range(4):
        span.went_well(2_000, 10)
        span.went_well(3, 10)
    assert span.blocks == 2_000
    span.went_well(2_000, 10)

    assert span.blocks == 2_500
    for _ in range(100):
        span.went_well(span.blocks, 10)
    assert span.blocks == 10_000


def test_a_range_full_of_logs_is_followed_by_smaller_ones() -> None:
    span = window.Span(10_000)

    span.went_well(2_000, 20_000)

    assert span.blocks == 500
