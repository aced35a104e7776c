"""What a bug report needs, as one archive: what the doctor says, the state of the stores, the ends of logs.

Everything that may be a secret is masked before it is written; what users configured and what chains said is left out.
"""

from __future__ import annotations

import io
import platform
import re
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agentauri.doctor.check import Patient
from agentauri.doctor.types import Report
from agentauri.errors import Unavailable

LOG_LINES = 500
LOG_BYTES = 4 * 2**20
TABLES = {
    "connections": """SELECT pid, application_name, client_addr::text, state, wait_event_type, wait_event,
                             backend_start::text, xact_start::text, query_start::text, left(query, 300) AS query
                      FROM pg_stat_activity WHERE datname = current_database() ORDER BY pid""",
    "tables": """SELECT relname, n_live_tup, n_dead_tup, last_autovacuum::text, pg_total_relation_size(relid) AS bytes
                 FROM pg_stat_user_tables ORDER BY bytes DESC""",
    "heartbeats": """SELECT instance, role, version, status::text, seen_at::text
                     FROM process_heartbeats ORDER BY seen_at""",
    "chains": """SELECT chain_id, status, status_reason, last_block_number, head_number, safe_number, finalized_number,
                        progressed_at::text, updated_at::text FROM checkpoints ORDER BY chain_id""",
    "providers": """SELECT chain_id, name, state, successes, failures, consecutive_failures, last_error,
                           last_ok_at::text
                    FROM rpc_providers ORDER BY chain_id, name""",
    "deliveries": """SELECT status, hold, reason, count(*) FROM deliveries
                     WHERE created_at > now() - interval '24 hours' GROUP BY 1, 2, 3 ORDER BY 4 DESC""",
}  # fmt: skip
SECRET = re.compile(
    r"""(?P<keep>\b(?:sk_(?:live|test)_|urt_|whsec_))[A-Za-z0-9_\-+/=]+
      | (?P<scheme>\b[a-z][a-z0-9+.\-]*://)[^\s"'<>]+
      | (?P<name>(?i:authorization|password|secret|token|pepper|api[_-]?key)["']?\s*[:=]\s*["']?)[^\s"',;}]+
      | \beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """The text without keys, tokens, passwords and whatever follows the scheme of a URL."""
    return SECRET.sub(lambda found: (found["keep"] or found["scheme"] or found["name"] or "") + "***", text)


async def bundle(
    patient: Patient, report: Report, settings: Sequence[str], logs: Sequence[Path], to: Path
) -> list[str]:
    """Write the archive to `to`, readable by its owner alone; the names of what is in it.

    Raises:
        OSError: it cannot be written, or a log of `logs` cannot be read.
    """
    parts = {
        "doctor.json": msgspec.json.format(msgspec.json.encode(report)).decode(),
        "settings.txt": "\n".join(settings),
        "system.txt": f"{platform.platform()}\nPython {sys.version}\n",
    }
    parts |= await _tables(patient)
    own = sorted(patient.config.data_dir.glob("*.log")) if patient.embedded else []
    parts |= {f"logs/{path.name}": _tail(path) for path in [*own, *logs]}
    _write(to, {name: redact(text) for name, text in parts.items()})
    return list(parts)


async def _tables(patient: Patient) -> Mapping[str, str]:
    parts = {}
    for name, query in TABLES.items():
        try:
            async with patient.database.transaction(durable=False) as tx:
                rows = [dict(row) for row in await tx.fetch(query)]
            text = msgspec.json.format(msgspec.json.encode(rows, enc_hook=str)).decode()
        except Unavailable as error:
            text = error.message
        parts[f"database/{name}.json"] = text
    return parts


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_LINES:])


def _write(to: Path, parts: Mapping[str, str]) -> None:
    to.touch(mode=0o600)
    with tarfile.open(to, "w:gz") as archive:
        for name, text in parts.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"agentauri-report/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
