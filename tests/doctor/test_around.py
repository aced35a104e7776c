"""What the doctor says and does, how it ends, and what it packs."""

from __future__ import annotations

import tarfile
from pathlib import Path

import msgspec
import pytest
import redis.asyncio

from agentauri.cli import main
from agentauri.config import database_config
from agentauri.database import Database
from agentauri.doctor import CHECKS, Patient, bundle, examine, redact
from doctor.house import House
from support.console import Command
from support.doctor import Look


async def test_fix_has_a_redis_forget_nothing(redis_client: redis.asyncio.Redis, look: Look) -> None:
    try:
        await redis_client.config_set("maxmemory-policy", "allkeys-lru")
        assert (await look("redis_policy", heal=True)).fixed == "set maxmemory-policy to noeviction"
    finally:
        await redis_client.config_set("maxmemory-policy", "noeviction")


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
        await agentauri("doctor", "event_trigger")

    output = str(ended.value)
    assert "FAIL  event_trigger" in output
    assert 'fix:  agentauri psql -c "ALTER TABLE events ENABLE TRIGGER notify_new_event_trigger"' in output
    assert "why:" in output


async def test_a_running_installation_is_well_but_for_a_chain_that_nobody_named(house: House) -> None:
    found = await house.doctor()

    assert {name: one.finding for name, one in found.items() if one.result != "ok"} == {
        "indexer": "no chain is configured"
    }
    assert {one for one in CHECKS if one.name not in {name.partition(":")[0] for name in found}} == set()


async def test_what_fix_does_it_says_and_what_it_may_not_do_it_leaves(house: House) -> None:
    await house.sql("ALTER TABLE events DISABLE TRIGGER notify_new_event_trigger")

    found = await house.doctor("event_trigger", "indexer", "--fix")

    assert (found["event_trigger"].result, found["event_trigger"].fixed) == ("ok", "enabled the triggers on events")
    assert (found["indexer"].result, found["indexer"].fixed) == ("warn", None)
    assert (await house.doctor("event_trigger"))["event_trigger"].fixed is None


async def test_a_fix_is_for_where_it_is_run(patient: Patient, look: Look) -> None:
    """With the compose file, from within its network, and on servers of our own, which one process runs on."""
    within = database_config("postgresql://postgres@postgres:5432/agentauri_backend", (20, 30))

    beside = (await look("indexer")).fix
    home = (await look("indexer", embedded=True, served_by=4711)).fix

    assert (beside or "").endswith("&& docker compose up -d event-processor")
    assert (home or "").endswith("&& kill 4711; while kill -0 4711 2>/dev/null; do sleep 1; done; agentauri serve")
    report = await examine(msgspec.structs.replace(patient, database_settings=within), only=["listener", "workers"])
    assert {one.fix for one in report.checks if one.fix} == {
        "docker compose restart event-processor",
        "docker compose restart action-workers",
    }
    async with patient.database.transaction() as tx:
        await tx.run("DROP FUNCTION queue_event_change CASCADE")
    dropped = await look("event_trigger", database_settings=within)
    assert dropped.fix == "docker compose exec api-gateway agentauri migrate"


async def test_a_check_that_nobody_knows_is_named(house: House) -> None:
    typed = await house.terminal.type("agentauri doctor redis rediss")

    assert typed.code == 3
    assert "no check is called rediss" in typed.output


async def test_the_archive_of_an_installation_holds_none_of_its_secrets(house: House) -> None:
    env = (house.folder / ".env").read_text()
    secrets = [house.key, *(path.read_text().strip() for path in (house.folder / "data" / "secrets").iterdir())]
    secrets.append(env.partition("REDIS_URL=unix://:")[2].partition("@")[0])
    log = house.parts["api-gateway"][0].log
    with log.open("a") as lines:
        lines.write(f"{house.key} {env}\n")

    await house.terminal.type(f"agentauri doctor indexer --bundle report.tar.gz --log {log}")

    with tarfile.open(house.folder / "report.tar.gz") as archive:
        texts = [archive.extractfile(member).read().decode() for member in archive]  # type: ignore[union-attr]
    assert len(secrets) == 5
    assert all(len(secret) > 30 for secret in secrets)
    assert not [secret for secret in secrets if any(secret in text for text in texts)]
    assert any("http.listening" in text for text in texts)


def test_a_doctor_that_cannot_look_exits_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTAURI_DATA_DIR", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("no folder")

    result = CliRunner().invoke(main, ["doctor"])

    assert result.exit_code == 3
    assert "AGENTAURI_DATA_DIR must name a folder" in result.stderr
