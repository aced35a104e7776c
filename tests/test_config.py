"""Settings: read once, checked whole, and every fault named."""

import stat
from pathlib import Path

import pytest

from agentauri.config import ConfigError, load

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
PRODUCTION = {
    "DATABASE_URL": "postgresql://user:password@db/agentauri_backend?sslmode=require",
    "REDIS_URL": "redis://redis:6379/0",
    "BASE_URL": "https://agents.example",
    "JWT_SECRET": "0123456789abcdefghijklmnopqrstuvwxyz",
    "API_KEY_PEPPER": "zyxwvutsrqponmlkjihgfedcba9876543210",
    "ENCRYPTION_KEY": KEY,
}


def faults(environ: dict[str, str], folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load({"AGENTAURI_DATA_DIR": str(folder / "data"), **environ}, folder)
    return caught.value.faults


def test_nothing_set_means_development_on_embedded_servers(tmp_path: Path) -> None:
    config = load({"AGENTAURI_DATA_DIR": str(tmp_path)}, tmp_path)

    assert config.environment == "development"
    assert config.database is None
    assert config.redis is None
    assert config.dispatcher.allow_insecure_targets


def test_a_database_of_ones_own_means_production(tmp_path: Path) -> None:
    config = load(PRODUCTION, tmp_path)

    assert config.environment == "production"
    assert config.server.host == "0.0.0.0"
    assert not config.dispatcher.allow_insecure_targets


def test_production_names_every_missing_secret_at_once(tmp_path: Path) -> None:
    found = faults({"DATABASE_URL": PRODUCTION["DATABASE_URL"]}, tmp_path)

    for name in ("JWT_SECRET", "API_KEY_PEPPER", "ENCRYPTION_KEY", "BASE_URL"):
        assert any(fault.startswith(f"{name}: required in production") for fault in found)


def test_development_makes_its_secrets_once_and_keeps_them_private(tmp_path: Path) -> None:
    first = load({"AGENTAURI_DATA_DIR": str(tmp_path)}, tmp_path)
    second = load({"AGENTAURI_DATA_DIR": str(tmp_path)}, tmp_path)

    assert first.secrets == second.secrets
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_MAX_CONNECTIONS", "13"),
        ("DB_MAX_CONNECTIONS", "many"),
        ("ALLOW_INSECURE_TARGETS", "yes"),
        ("RPC_URLS_1", "wss://node"),
        ("RPC_URLS_base", "http://node"),
        ("DATABASE_URL", "mysql://db"),
        ("DATABASE_URL", "postgresql://db/agentauri_backend?sslmode=sometimes"),
        ("REDIS_URL", "http://redis"),
        ("ENVIRONMENT", "staging"),
        ("ENCRYPTION_KEY", "short"),
        ("JWT_SECRET", "changeme"),
        ("RETRY_SCHEDULE_SECONDS", "5,0"),
        ("CRITICAL_QUEUE_DEPTH", "10000"),
        ("IDENTITY_ADDRESS_1", "0x12"),
        ("RATE_LIMIT_MODE", "sometimes"),
        ("AUTH_RATE_LIMIT_PER_HOUR", "0"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,10.1.2.3/8"),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("CORS_ALLOWED_ORIGINS", "*"),
        ("CORS_ALLOWED_ORIGINS", "app.example.org"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.org/"),
        ("SECURITY_CONTACT_EMAIL", "a@b\nContact: mailto:c@d"),
        ("SECURITY_POLICY_URL", "policy.html"),
    ],
)
def test_a_bad_value_stops_the_start_with_its_name(tmp_path: Path, name: str, value: str) -> None:
    environ = {"ENVIRONMENT": "development", name: value} | ({"RPC_URLS_1": "http://n"} if "ADDRESS" in name else {})

    assert [fault.split(":")[0] for fault in faults(environ, tmp_path)] == [name]


def test_in_production_only_pages_sent_encrypted_may_read_answers(tmp_path: Path) -> None:
    folder = {"AGENTAURI_DATA_DIR": str(tmp_path)}
    origins = "https://app.example.org, https://other.example.org:8443"
    assert load(folder | {"CORS_ALLOWED_ORIGINS": origins}, tmp_path).server.cors_origins == tuple(origins.split(", "))
    assert load(folder, tmp_path).server.cors_origins[0] == "http://localhost:3000"
    told = faults({"ENVIRONMENT": "production", "CORS_ALLOWED_ORIGINS": "http://app.example.org"}, tmp_path)
    assert "CORS_ALLOWED_ORIGINS" in {fault.split(":")[0] for fault in told}


def test_no_fault_repeats_a_secret(tmp_path: Path) -> None:
    assert "hunter2" not in str(faults({"JWT_SECRET": "hunter2", "ENCRYPTION_KEY": "hunter2"}, tmp_path))


def test_the_environment_wins_over_the_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# settings\nexport SERVER_PORT=9000  # ours\nINSTANCE_NAME='a # b'\nLOG_LEVEL=\nRPC_URL_8453=http://node\n"
    )
    config = load({"AGENTAURI_DATA_DIR": str(tmp_path), "SERVER_PORT": "9001"}, tmp_path)

    assert config.server.port == 9001
    assert config.instance_name == "a # b"
    assert config.log_level == "INFO"
    assert [chain.chain_id for chain in config.chains] == [8453]


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "jwt").write_text(PRODUCTION["JWT_SECRET"] + "\n")
    environ = {name: value for name, value in PRODUCTION.items() if name != "JWT_SECRET"}

    config = load(environ | {"JWT_SECRET_FILE": str(tmp_path / "jwt")}, tmp_path)

    assert config.secrets.jwt_secret.reveal() == PRODUCTION["JWT_SECRET"]
    assert PRODUCTION["JWT_SECRET"] not in repr(config)


SECRETS = PRODUCTION | {
    "JWT_SECRET_PREVIOUS": "abcdefghijklmnopqrstuvwxyz9876543210",
    "METRICS_TOKEN": "may read metrics",
    "MONITORING_TOKEN": "is not limited",
    "TELEGRAM_BOT_TOKEN": "123456:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "RPC_URLS_8453": "https://one.example/v2/key,https://two.example",
    "RPC_URL_84532": "https://three.example/key",
    "RPC_WS_8453": "wss://one.example/v2/key",
    "POLYGON_RPC_URL": "https://four.example/key",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_mounted_file_stands_for_the_variable(tmp_path: Path, name: str) -> None:
    mounted = tmp_path / "mounted"
    mounted.write_text(SECRETS[name] + "\n")
    from_file = {key: value for key, value in SECRETS.items() if key != name} | {f"{name}_FILE": str(mounted)}

    assert load(from_file, tmp_path) == load(SECRETS, tmp_path)


def test_a_mounted_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    environ = PRODUCTION | {"RPC_URLS_8453_FILE": str(tmp_path / "gone")}

    assert faults(environ, tmp_path) == [
        "RPC_URLS_8453_FILE: cannot be read (No such file or directory); name a readable file"
    ]


def test_chains_are_those_with_a_url_that_the_list_names(tmp_path: Path) -> None:
    config = load(
        PRODUCTION | {"RPC_URLS_1": "https://a, https://b", "BASE_RPC_URL": "https://c", "CHAINS": "1, 10"}, tmp_path
    )

    assert [(chain.chain_id, len(chain.rpc_urls)) for chain in config.chains] == [(1, 2)]
