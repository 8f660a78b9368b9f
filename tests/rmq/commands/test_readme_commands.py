"""README.md, section Commands: each line runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import Server

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path: Path) -> None:
    """In order, in one shell that stops at the first failure."""
    found = re.search(r"## Commands\n.*?```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "rmq").write_text(f'#!/bin/sh\nexec {sys.executable} -m rmq "$@"\n')
    (tmp_path / "rmq").chmod(0o755)
    with Server("--flush", "memory") as server:
        path = f"{tmp_path}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "RMQ_ENDPOINT": server.endpoint}
        done = subprocess.run(
            ["sh", "-eu"], input=found[1], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing new" in done.stdout
