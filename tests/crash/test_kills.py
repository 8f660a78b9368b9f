"""kill -9 in the middle of everything, with both profiles that keep messages: nothing acknowledged is missing."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 10
WITHIN_S = 240


@pytest.mark.crash
@pytest.mark.parametrize("flush", ["durable", "fast"])
def test_what_was_acknowledged_survives_kills(flush: str) -> None:
    """Sends, acks and starts are killed at random moments; then every message is there, as sent, once settled for ever.

    Only a process's end is tried here: what a power cut takes is another matter.
    """
    seed = random.SystemRandom().getrandbits(32)
    command = [sys.executable, "-m", "tests.crash.runner", "--seed", str(seed), "--flush", flush, "--kills", str(KILLS)]
    print("repeat it with:", *command[1:])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(counts)
    assert counts["kills"] == KILLS
    assert counts["sent"] > 100
    assert counts["acked"] > 100
    assert counts["delayed"] > 20
    assert counts["recalled"] > 5
    assert counts["sends_cut_off"] + counts["acks_cut_off"] > 0
