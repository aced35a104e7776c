"""The command: quick to answer, and plain about what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentauri.cli import main
from agentauri.config import load
from agentauri.connections import masked, postgres_environment, redis_environment


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom agentauri.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'litestar', 'sqlalchemy', 'web3', 'aiohttp', 'asyncpg', 'redis'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "heavy: []" in done.stdout
    assert "serve" in done.stdout


def test_bad_settings_are_all_named_and_end_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTAURI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SERVER_PORT", "http")
    monkeypatch.setenv("RPC_URLS_1", "node")

    result = CliRunner().invoke(main, ["serve"])

    assert result.exit_code == 1
    assert "SERVER_PORT: takes a number from 0 to 65535" in result.stderr
    assert "RPC_URLS_1: takes comma-separated http:// or https:// URLs" in result.stderr


def test_an_unknown_role_is_refused() -> None:
    result = CliRunner().invoke(main, ["serve", "--only", "indexer,cook"])

    assert result.exit_code == 2
    assert "unknown cook; takes indexer, evaluator, dispatcher, http" in result.stderr


def test_env_shows_what_is_set_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("RPC_", "DATABASE", "REDIS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTAURI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RPC_URLS_8453", "https://node.example/v2/secretkey,https://user:pw@other.example:8545")
    monkeypatch.setenv("JWT_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz")

    lines = masked(load())

    assert "RPC_URLS_8453=https://node.example/***,https://other.example:8545/***" in lines
    assert "JWT_SECRET=***" in lines
    assert "DATABASE_URL=(embedded)" in lines
    assert not [line for line in lines if "secretkey" in line or "pw" in line or line.startswith("PATH=")]


def test_connections_are_told_in_the_variables_of_the_tools() -> None:
    assert postgres_environment("postgresql://me:p%40ss@db:5433/agentauri_backend?sslmode=require") == {
        "PGHOST": "db", "PGPORT": "5433", "PGUSER": "me", "PGPASSWORD": "p@ss",
        "PGDATABASE": "agentauri_backend", "PGSSLMODE": "require",
    }  # fmt: skip
    assert postgres_environment("postgresql://postgres@/agentauri_backend?host=%2Frun%2Fours")["PGHOST"] == "/run/ours"
    assert redis_environment("unix://:word@/run/our%20s?db=0") == {
        "REDISCLI_ARGS": "-s /run/our s",
        "REDISCLI_AUTH": "word",
    }
