"""One run of a worker as a process of its own, as the agent starts it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from istio_hostagent import workers

LAUNCH = Path(workers.__file__).with_name("launch.py")
NOBODY = 65534
DEADLINE_S = 120.0


def run_worker(module: str, request: object, *, user: int | None = None) -> Any:
    """Return its answer, which has no private key in it; fails if it says anything else."""
    done = subprocess.run(
        [sys.executable, "-I", str(LAUNCH), module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PRIVATE KEY" not in done.stdout
    return json.loads(done.stdout)
