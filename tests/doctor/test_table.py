"""Every problem of the troubleshooting page is a scene that is played here, and so is every check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from agentauri.doctor import CHECKS, OUTSIDE

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "troubleshooting.md"

# By heading of the page and check: the scene in which it is found. Those of a running installation run the printed fix.
SCENES: dict[str, dict[str, str]] = {
    "Events are not processed": {
        "listener": "test_events_that_wait_for_an_evaluator_that_is_gone_go_on_when_it_is_started",
        "workers": "test_events_that_wait_for_an_evaluator_that_is_gone_go_on_when_it_is_started",
        "backlog": "test_events_that_wait_for_an_evaluator_that_is_gone_go_on_when_it_is_started",
        "event_trigger": "test_events_that_no_trigger_of_the_database_announces_are_announced_again",
        "conditions": "test_a_trigger_that_was_spoilt_by_hand_is_named_and_switched_off",
    },
    "Events fail or are parked": {
        "parked": "test_an_event_that_failed_and_was_set_aside_is_evaluated_again",
        "foreign_triggers": "test_evaluation_that_something_slows_down_is_quick_again_without_it",
    },
    "The queue of deliveries is deep": {
        "queue_depth": "test_a_deep_queue_drains_when_there_are_more_workers",
        "queue_consistency": "test_a_queue_that_somebody_touched_is_made_true",
    },
    "Attempts fail": {
        "dead_letters": "test_what_was_given_up_is_sent_again",
        "telegram_token": "test_a_bot_without_a_token_is_given_one_that_works",
        "clock": "test_a_clock_that_is_off_is_found_by_the_doctor",
    },
    "TLS fails": {
        "tls": "test_certificates_that_have_expired_are_made_anew",
        "certificate": "test_certificates_that_are_gone_are_made_anew",
    },
    "The pool is exhausted": {
        "pool": "test_pools_that_together_want_more_than_the_server_has_are_made_smaller",
        "long_queries": "test_a_transaction_left_open_is_named_and_ended_by_the_printed_statement",
    },
    "The database is away": {"database": "test_a_database_that_is_away_is_the_only_thing_said_of_the_database"},
    "The disk is full": {"disk": "test_a_disk_that_is_all_but_full_is_told_and_what_fills_it_is_listed"},
    "Somebody holds a lock or a transaction open": {
        "locks": "test_a_session_in_everybodys_way_is_named_and_ended",
    },
    "`serve` does not start": {
        "schema": "test_a_schema_that_is_not_there_is_made",
        "partitions": "test_a_missing_partition_is_made_by_the_printed_command",
    },
    "Redis is away": {
        "redis": "test_a_redis_that_was_stopped_is_started",
        "redis_policy": "test_a_redis_that_forgets_is_told_not_to",
    },
    "A trigger's breaker is open": {
        "breakers": "test_a_breaker_that_is_open_is_closed_and_what_it_held_is_sent",
    },
    "Its state cannot be saved": {"breaker_writes": "test_a_breaker_that_cannot_be_written_down_can_be_again"},
    "The indexer does not move": {"indexer": "test_a_chain_is_asked_for_where_there_is_none"},
    "It is slow": {
        "processing_time": "test_evaluation_that_something_slows_down_is_quick_again_without_it",
        "trigger_count": "test_an_event_that_many_triggers_match_is_told_with_their_number",
        "redis_latency": "test_a_redis_that_answers_late_is_told_with_the_time",
        "statements": "test_statements_that_nobody_ranks_are_ranked_after_a_restart",
        "invalid_indexes": "test_an_invalid_index_is_rebuilt_by_the_printed_statement",
    },
    "An API key is refused": {
        "api_keys": "test_a_key_that_was_revoked_or_has_expired_and_is_still_used_is_replaced",
    },
    "The rate limit is exceeded": {
        "rate_limits": "test_an_organization_that_has_used_up_its_hour_is_given_a_larger_plan",
    },
    "Security headers are missing": {
        "security_headers": "test_headers_that_a_proxy_drops_are_named",
        "hsts": "test_browsers_are_told_to_insist_on_https",
    },
}


def told() -> dict[str, set[str]]:
    """By heading of the page, the checks of the line under it."""
    found = re.findall(r"^#+ (.+)\n\n\*\*Doctor:\*\* (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {heading: set(re.findall(r"`([a-z_]+)`", line)) for heading, line in found}


def played() -> set[str]:
    files = [*HERE.glob("test_*.py"), HERE.parent / "chaos" / "test_clock.py"]
    return {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
    }


def test_every_heading_with_a_check_is_played_with_these_checks() -> None:
    assert told() == {heading: set(checks) for heading, checks in SCENES.items()}


def test_every_check_is_played() -> None:
    assert {name for checks in SCENES.values() for name in checks} == {check.name for check in (*CHECKS, *OUTSIDE)}


@pytest.mark.parametrize("heading", SCENES)
def test_the_scenes_are_there(heading: str) -> None:
    assert set(SCENES[heading].values()) <= played()
