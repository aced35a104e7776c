"""What is installed is whole: migrations, data files and contracts travel in the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_what_serve_and_demo_need(tmp_path: Path) -> None:
    script = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())

    needed = {"chain/chains.toml", "py.typed", "_alembic/env.py", "demo/contracts/IdentityRegistry.json"}
    needed |= {
        f"http/viewer/{name}"
        for name in ("index.html", "start.js", "swagger-ui-bundle.js", "swagger-ui.css", "LICENSE.txt")
    }
    assert {f"agentauri/{name}" for name in needed} <= names
    revisions = {path.name for path in (ROOT / "alembic" / "versions").iterdir() if path.name != "__pycache__"}
    assert all(
        any(name.startswith(f"agentauri/_alembic/versions/{revision}") for name in names) for revision in revisions
    )
    assert not [name for name in names if "__pycache__" in name]
