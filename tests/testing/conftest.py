"""Runs test files of users: each in a pytest of its own, with the plugin and with this tree's rmq."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

import pytest

from rmq.testing.process import environment

Runs: TypeAlias = Callable[..., pytest.RunResult]
PLUGIN = () if entry_points(group="pytest11", name="rocketmq") else ("-p", "rmq.pytest_plugin")


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs one file of tests, given as text, and what is given beside it as files; its result."""

    def run(text: str, *args: str, **files: str) -> pytest.RunResult:
        pytester.makepyfile(test_user=text)
        for name, content in files.items():
            Path(pytester.path, name.replace("_", ".")).write_text(content)
        for variable in ("RMQ_PORT", "PYTEST_ADDOPTS"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        monkeypatch.setenv("HOME", str(pytester.path))  # the official client writes logs there
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", *args, timeout=300)

    return run
