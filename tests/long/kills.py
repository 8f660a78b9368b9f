"""Servers killed with SIGKILL while clients send, receive and acknowledge, and while they start: see tests/crash."""

import json
import subprocess
import sys
from collections.abc import Mapping

ROUNDS = 50  # of 20 kills each: 1,000 in all
KILLS = 20
WITHIN_S = 600


def run(seed: int) -> Mapping[str, int]:
    """One server's life of 20 kills; raises with what was broken."""
    flush = "durable" if seed % 2 else "fast"
    command = [sys.executable, "-m", "tests.crash.runner", "--seed", str(seed), "--flush", flush, "--kills", str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S)
    if done.returncode:
        raise AssertionError(done.stderr)
    counts: dict[str, int] = json.loads(done.stdout)
    return counts
