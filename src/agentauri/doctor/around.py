"""What is around: Redis, the chains, the clock, the disk, and how the product looks from outside."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import aclosing

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from agentauri.actions import connect_redis, describe_fault
from agentauri.chain import ChainStatus
from agentauri.doctor.check import Check, Finding, Patient, ask, fail, ok, plural, warn

PINGS = 100
SLOW_PING_MS = 10.0
LAG_SECONDS = 300
SKEW_WARN, SKEW_FAIL = 1.0, 5.0
HEAD_SECONDS = 900
SUGGESTED_ID, SUGGESTED = 84532, "Base Sepolia (84532)"
DISK_SHARE = 0.15
OUTSIDE_SECONDS = 10.0


def _client(patient: Patient) -> aclosing[Redis]:
    return aclosing(connect_redis(patient.redis_url.reveal()))


async def _redis(patient: Patient) -> Sequence[Finding]:
    start = "agentauri serve" if patient.embedded else "docker compose up -d redis"
    async with _client(patient) as client:
        try:
            await client.ping()
        except (RedisError, OSError) as error:
            return [fail(f"Failed to connect to Redis: {describe_fault(error)}", start)]
    return [ok("PONG")]


async def _redis_latency(patient: Patient) -> Sequence[Finding]:
    times = []
    async with _client(patient) as client:
        for _ in range(PINGS):
            started = time.perf_counter()
            await client.ping()
            times.append((time.perf_counter() - started) * 1000)
    median = statistics.median(times)
    text = f"{median:.2f} ms is the median of {PINGS} pings"
    return [ok(text) if median < SLOW_PING_MS else warn(text, "agentauri redis-cli --latency")]


async def _redis_policy(patient: Patient) -> Sequence[Finding]:
    async with _client(patient) as client:
        try:
            policy = (await client.config_get("maxmemory-policy")).get("maxmemory-policy")
        except ResponseError:
            return [ok("this Redis does not tell its policy")]
    if policy in (b"noeviction", "noeviction"):
        return [ok("noeviction")]
    name = policy.decode() if isinstance(policy, bytes) else policy
    return [fail(f"{name}: full memory drops ids of deliveries",
                 "agentauri redis-cli CONFIG SET maxmemory-policy noeviction")]  # fmt: skip


async def _set_policy(patient: Patient) -> str | None:
    async with _client(patient) as client:
        try:
            await client.config_set("maxmemory-policy", "noeviction")
        except ResponseError:
            return None
    return "set maxmemory-policy to noeviction"


async def _indexers(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        statuses = [status for status in await patient.chains.status(tx) if status.enabled]
    if not statuses:
        first = patient.take_up("event-processor")
        return [
            warn(
                "no chain is configured",
                ask(f"A JSON-RPC URL of {SUGGESTED}", f'echo "RPC_URLS_{SUGGESTED_ID}=$it" >> .env && {first}'),
            )
        ]
    return [_indexer(patient, status) for status in statuses]


def _indexer(patient: Patient, status: ChainStatus) -> Finding:
    part = str(status.chain_id)
    at = f"Latest indexed block: {status.indexed_block}, Current chain block: {status.latest_block}"
    because = f" ({status.status_reason})" if status.status_reason else ""
    resting = [one.name for one in status.providers if not one.healthy]
    another = ask(
        f"URL of one more provider of {status.name}",
        f'sed -i.old -E "s|^(RPC_URLS?_{part}=.*)|\\1,$it|" .env && {patient.take_up("event-processor")}',
    )
    if status.status == "halted":
        return fail(f"halted{because}. {at}", f"agentauri chain reset --chain {part}", part)
    if status.status == "degraded":
        return fail(f"degraded{because}. {at}", another, part)
    if status.lag_seconds is not None and status.lag_blocks and status.lag_seconds > LAG_SECONDS:
        text = f"Indexer appears stuck or is catching up: {status.lag_seconds} s behind. {at}"
        return fail(text, patient.restart("event-processor"), part)
    if resting:
        return warn(f"{', '.join(resting)} does not answer or limits our rate. {at}", another, part)
    if status.status == "starting":
        return warn(f"has not begun{because}", patient.restart("event-processor"), part)
    return ok(f"{status.status}, {plural(len(status.providers), 'provider')} healthy. {at}", part)


async def _clock(patient: Patient) -> Sequence[Finding]:
    async with patient.database.transaction(durable=False) as tx:
        await tx.fetchval("SELECT 1")
        before = time.time()
        theirs = float(await tx.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
        after = time.time()
        heads = await tx.fetch(
            """SELECT chain_id, last_block_time FROM checkpoints
               WHERE status = 'live' AND last_block_number = head_number AND updated_at > now() - interval '1 minute'"""
        )
    skew = max(0.0, before - theirs, theirs - after)
    text = f"{skew:.1f} s between this machine and PostgreSQL"
    if skew >= SKEW_FAIL:
        found = [fail(text, "timedatectl set-ntp true")]
    elif skew >= SKEW_WARN:
        found = [warn(text, "timedatectl set-ntp true")]
    else:
        found = [ok(text)]
    for row in heads:
        ahead = row["last_block_time"] - theirs
        if ahead > HEAD_SECONDS:
            found.append(warn(f"the newest block is {ahead:.0f} s ahead of our clock", "timedatectl set-ntp true",
                              str(row["chain_id"])))  # fmt: skip
    return found


async def _disk(patient: Patient) -> Sequence[Finding]:
    folder = patient.config.data_dir
    if not folder.exists():
        return [ok("the data are not on a disk that can be seen from here")]
    usage = shutil.disk_usage(folder)
    share = usage.free / usage.total
    text = f"{share:.0%} free on the disk of {folder} ({usage.free / 2**30:.0f} GiB)"
    if share >= DISK_SHARE:
        return [ok(text)]
    return [(fail if share < DISK_SHARE / 5 else warn)(text, f"du -xh -d 2 {folder} | sort -h | tail")]


async def _telegram_token(patient: Patient) -> Sequence[Finding]:
    """The token of the installation; one that an action brings itself is its user's business."""
    async with patient.database.transaction(durable=False) as tx:
        used = await tx.fetchval("SELECT count(*) FROM trigger_actions WHERE action_type = 'telegram' AND enabled")
    settings = patient.config.dispatcher
    if not used:
        return [ok("no action sends to Telegram")]
    if settings.telegram_bot_token is None:
        return [warn(f"{plural(used, 'action')} for Telegram, and no token but those that they bring",
                     _new_token(patient))]  # fmt: skip
    url = f"{settings.telegram_api_url}/bot{settings.telegram_bot_token.reveal()}/getMe"
    try:
        timeout = aiohttp.ClientTimeout(total=OUTSIDE_SECONDS)
        async with patient.session.post(url, json={}, timeout=timeout, allow_redirects=False) as answer:
            said = await answer.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return [warn(f"the Bot API does not answer: {type(error).__name__}", "agentauri env")]
    if isinstance(said, dict) and said.get("ok") is True:
        return [ok(f"{plural(used, 'action')} for Telegram, and the bot's token is good")]
    return [fail("the Bot API refuses the token", _new_token(patient))]


def _new_token(patient: Patient) -> str:
    both = patient.take_up("event-processor action-workers")
    return ask("Token of the bot", f'echo "TELEGRAM_BOT_TOKEN=$it" >> .env && {both}')


async def _headers(patient: Patient) -> Sequence[Finding]:
    got = await _answer_headers(patient)
    if isinstance(got, Finding):
        return [got]
    wrong = [name for name, value in patient.headers.items() if name not in HSTS and got.get(name) != value]
    if wrong:
        return [fail(f"missing or altered on the way: {', '.join(wrong)}",
                     f"scripts/test-security-headers.sh {patient.url}")]  # fmt: skip
    return [ok(f"all {len(patient.headers)} security headers arrive")]


HSTS = frozenset({"Strict-Transport-Security"})


async def _hsts(patient: Patient) -> Sequence[Finding]:
    got = await _answer_headers(patient)
    if isinstance(got, Finding):
        return [got]
    if "Strict-Transport-Security" in got:
        return [ok(got["Strict-Transport-Security"])]
    return [warn("browsers are not told to insist on https", patient.change("api-gateway", "ENABLE_HSTS=true"))]


async def _answer_headers(patient: Patient) -> dict[str, str] | Finding:
    url = f"{(patient.url or '').rstrip('/')}/api/v1/health"
    try:
        timeout = aiohttp.ClientTimeout(total=OUTSIDE_SECONDS)
        async with patient.session.get(url, timeout=timeout, allow_redirects=False) as answer:
            return dict(answer.headers)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return fail(f"{url}: {type(error).__name__}", patient.restart("api-gateway"))


REDIS = (
    Check(name="redis", why="While Redis is away, deliveries are sent straight from PostgreSQL, more slowly.",
          look=_redis),
    Check(name="redis_latency", why="Every delivery asks Redis several times.", look=_redis_latency, needs=("redis",)),
    Check(name="redis_policy", why="A Redis that evicts forgets deliveries until the next sweep.", look=_redis_policy,
          needs=("redis",), heal=_set_policy),
)  # fmt: skip
CHECKS = (
    Check(name="indexer", why="What is not indexed is not matched.", look=_indexers, needs=("database", "schema")),
    Check(name="clock", why="Receivers refuse signatures whose time is minutes off.", look=_clock,
          needs=("database", "schema")),
    Check(name="telegram_token", why="Without a good token every message to Telegram is given up.",
          look=_telegram_token, needs=("database", "schema")),
    Check(name="disk", why="A full disk stops everything, and loses nothing.", look=_disk,
          needs=("database",)),
)  # fmt: skip
OUTSIDE = (
    Check(name="security_headers", why="A proxy that drops them leaves browsers without them.", look=_headers),
    Check(name="hsts", why="Without it the first visit may be made in the clear.", look=_hsts),
)
