"""Named points at which a test may kill the process, to prove that it does not matter.

`AGENTAURI_CRASH_AT=evaluator.committed` (or `evaluator.committed:3` for the third time it is reached) makes `reach` end
the process with SIGKILL, as a power cut would. Unset, as always outside tests, `reach` does nothing.
"""

from __future__ import annotations

import os
import signal

_point, _, _count = os.environ.get("AGENTAURI_CRASH_AT", "").partition(":")
_left = int(_count or 1)


def reach(point: str) -> None:
    global _left
    if point != _point:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
