"""Redis, the chains, the clock and the outside are looked at too."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import redis.asyncio

from agentauri.cli import main
from agentauri.config import Config
from agentauri.database import Database
from agentauri.doctor import Patient, bundle, examine, redact
from agentauri.types import Secret
from support.bot_api import TOKEN, BotApi
from support.console import Command
from support.doctor import Do, Look
from support.processes import Child


async def test_a_redis_that_refuses_is_told_as_operators_know_it(patient: Patient, look: Look) -> None:
    url = Secret("redis://127.0.0.1:1/0")

    found = await look("redis", redis_url=url)
    report = await examine(msgspec.structs.replace(patient, redis_url=url))

    assert found.finding == "Failed to connect to Redis: Connection refused (os error 111)"
    assert found.fix == "docker compose up -d redis"
    assert "queue_depth" not in {one.check for one in report.checks}


async def test_a_redis_that_evicts_is_mended_by_the_printed_command(
    redis_client: redis.asyncio.Redis, look: Look, do: Do
) -> None:
    await redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = await look("redis_policy")
        assert (found.result, "allkeys-lru" in found.finding) == ("fail", True)
        await do(found.fix)
        assert (await look("redis_policy")).result == "ok"

        await redis_client.config_set("maxmemory-policy", "allkeys-lru")
        assert (await look("redis_policy", heal=True)).fixed == "set maxmemory-policy to noeviction"
    finally:
        await redis_client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
async def with_chain(patient: Patient, config: Config, database: Database) -> Callable[..., object]:
    """The patient with one chain whose checkpoint says this."""
    from agentauri.chain import ChainService, load_chains
    from agentauri.config import load

    settings = load(
        {"DATABASE_URL": "postgresql:///x", "REDIS_URL": "redis://x", "ENVIRONMENT": "development",
         "AGENTAURI_DATA_DIR": str(config.data_dir), "RPC_URLS_84532": "https://node.example"},
        config.data_dir,
    )  # fmt: skip
    chains = ChainService(load_chains(settings))

    async def make(status: str, head: int, behind: int, reason: str | None = None) -> ChainService:
        async with database.transaction() as tx:
            await tx.run(
                """INSERT INTO checkpoints (chain_id, last_block_number, last_block_hash, last_block_time, first_block,
                                            head_number, status, status_reason)
                   VALUES (84532, 100, '0x', extract(epoch FROM now())::bigint - $3, 1, $2, $1, $4)""",
                status, head, behind, reason,
            )  # fmt: skip
        return chains

    return make


@pytest.mark.parametrize(
    ("status", "head", "behind", "reason", "result", "fix"),
    [
        ("live", 100, 2, None, "ok", None),
        ("halted", 120, 5, "changed below its finalized block", "fail", "agentauri chain reset --chain 84532"),
        ("degraded", 120, 5, "no RPC provider answers", "fail", "RPC_URLS_84532"),
        ("backfill", 99_999, 9_000, None, "fail", "restart"),
    ],
)
async def test_a_chain_is_told_with_its_blocks_and_its_own_remedy(
    with_chain: Callable[..., object], look: Look, status: str, head: int, behind: int, reason: str | None,
    result: str, fix: str | None,
) -> None:  # fmt: skip
    found = await look("indexer:84532", chains=await with_chain(status, head, behind, reason))  # type: ignore[misc]

    assert found.result == result, found
    assert f"Latest indexed block: 100, Current chain block: {head}" in found.finding
    assert (reason or "") in found.finding
    assert (fix or "") in (found.fix or "")


async def test_a_clock_that_is_off_is_told(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = time.time
    monkeypatch.setattr("agentauri.doctor.around.time.time", lambda: now() + 3600)

    found = await look("clock")

    assert (found.result, found.finding.startswith("3600")) == ("fail", True)


async def test_security_headers_and_hsts_are_looked_at_from_outside(
    serve: Callable[..., Child], look: Look, patient: Patient
) -> None:
    url = f"http://127.0.0.1:{await serve('--only', 'http').port()}"

    assert (await look("security_headers", url=url)).result == "ok"
    plain = await look("hsts", url=url)
    altered = await look("security_headers", url=url, headers={**patient.headers, "X-Lost": "1"})

    assert (plain.result, "ENABLE_HSTS=true" in (plain.fix or "")) == ("warn", True)
    assert (altered.result, "X-Lost" in altered.finding) == ("fail", True)


async def test_hsts_that_arrives_is_well(serve: Callable[..., Child], look: Look) -> None:
    url = f"http://127.0.0.1:{await serve('--only', 'http', ENABLE_HSTS='true').port()}"

    assert (await look("hsts", url=url)).result == "ok"


@pytest.fixture
async def telegram_action(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.run(
            """INSERT INTO triggers (id, organization_id, user_id, name, environment, enabled, is_stateful, condition,
                                     circuit_breaker_config, start_seq, start_blocks)
               VALUES ('t', 'o', 'u', 'n', 'live', true, false, 'null', '{}', 0, '{}')"""
        )
        await tx.run(
            """INSERT INTO trigger_actions (trigger_id, action_type, config, destination, enabled)
               VALUES ('t', 'telegram', '{}', 'chat', true)"""
        )


@pytest.mark.usefixtures("telegram_action")
async def test_a_bots_token_is_tried_where_somebody_sends_with_it(config: Config, look: Look) -> None:
    async with BotApi.open() as bot_api:

        def with_token(token: str | None) -> Config:
            dispatcher = msgspec.structs.replace(
                config.dispatcher,
                telegram_api_url=bot_api.url,
                telegram_bot_token=None if token is None else Secret(token),
            )
            return msgspec.structs.replace(config, dispatcher=dispatcher)

        assert (await look("telegram_token", config=with_token(TOKEN))).result == "ok"
        assert (await look("telegram_token", config=with_token("1:wrong"))).result == "fail"
        missing = await look("telegram_token", config=with_token(None))
        assert (missing.result, "TELEGRAM_BOT_TOKEN" in (missing.fix or "")) == ("warn", True)


SECRETS = (
    "sk_live_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJK",
    "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
)


def test_what_looks_like_a_secret_is_masked_wherever_it_stands() -> None:
    text = f"key {SECRETS[0]} and {SECRETS[1]}, Bearer {SECRETS[2]} postgres://u:pw@db/x?password=hidden token=hidden"

    masked = redact(text)

    assert not [one for one in (*SECRETS, "pw@db", "hidden") if one in masked]
    assert masked.startswith("key sk_live_***")


async def test_the_bundle_holds_the_state_of_the_system_and_no_secret(patient: Patient, tmp_path: Path) -> None:
    log = tmp_path / "product.log"
    log.write_text("\n".join([f"line {number}" for number in range(600)] + list(SECRETS)))
    to = tmp_path / "report.tar.gz"

    names = await bundle(patient, await examine(patient), [f"SOME_URL=https://u:{SECRETS[0]}@x"], [log], to)

    assert to.stat().st_mode & 0o077 == 0
    with tarfile.open(to) as archive:
        texts = {member.name: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]
    assert set(texts) == {f"agentauri-report/{name}" for name in names}
    assert not [secret for secret in SECRETS if any(secret in text for text in texts.values())]
    tail = texts["agentauri-report/logs/product.log"]
    assert ("line 599" in tail, "line 99\n" in tail) == (True, False)
    assert "agentauri" in texts["agentauri-report/database/connections.json"]


async def test_the_command_prints_finding_reason_and_fix_and_exits_by_the_worst(
    database: Database, agentauri: Command
) -> None:
    async with database.transaction() as tx:
        await tx.run("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")

    with pytest.raises(AssertionError, match="ended with 2") as ended:
        await agentauri("doctor")

    output = str(ended.value)
    assert "FAIL  event_trigger" in output
    assert 'fix:  agentauri psql -c "ALTER TABLE events ENABLE TRIGGER notify_new_event_trigger"' in output
    assert "why:" in output


def test_a_doctor_that_cannot_look_exits_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTAURI_DATA_DIR", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("no folder")

    result = CliRunner().invoke(main, ["doctor"])

    assert result.exit_code == 3
    assert "AGENTAURI_DATA_DIR must name a folder" in result.stderr
