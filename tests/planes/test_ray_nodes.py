"""A node of a real Ray cluster that is killed in the middle of a round."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
SCRIPT = Path(__file__).with_name("ray_nodes.py")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="ends the cluster by its process group")
@pytest.mark.timeout(180)
def test_a_killed_node_costs_no_update() -> None:
    # A cluster of its own needs a process of its own: one process speaks to one Ray.
    command = [sys.executable, str(SCRIPT)]
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=150)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "nodes 3 -> 2, same bits: True" in out, out
