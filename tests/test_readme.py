"""README.md is true: its example runs, and its table of flags is the command's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmq.cli import cli
from tests.serving import Server

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example() -> str:
    """The README's Python program."""
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_table_lists_every_flag_of_serve() -> None:
    """In the order of the command's help."""
    listed = re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE)
    assert listed == ["--flush", *(parameter.opts[0] for parameter in cli.commands["serve"].params)]


@pytest.mark.foreign
def test_the_example_sends_and_receives(tmp_path: Path) -> None:
    """As it stands, only the port is another; 12 lines."""
    assert len([line for line in example().splitlines() if line]) == 12
    with Server() as server:
        program = (
            example().replace("localhost:8081", f"localhost:{server.port}")
            + "\nconsumer.shutdown(); producer.shutdown()"
        )
        env = {**os.environ, "HOME": str(tmp_path)}  # the client writes logs there
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sent [0-9A-F]+\nreceived b'hello'\n", done.stdout)
