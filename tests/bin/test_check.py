"""bin/check: its steps and its last line."""

import shlex
import sys
from pathlib import Path

import pytest

from bin.lib import check


def python(code: str) -> list[str]:
    """A step's command."""
    return [sys.executable, "-c", code]


def test_a_step_s_output_is_shown_only_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a step; the first failure ends the run and is named in the last line, its command above that."""
    todo = [
        ("good", python("print('fine')")),
        ("bad", python("print('why'); exit(3)")),
        ("never", python("print('x')")),
    ]
    assert check.run_all(iter(todo)) == 1
    out = capsys.readouterr().out
    assert out.startswith("good ... ok ")
    assert "fine" not in out
    assert "why" in out
    assert "never" not in out
    assert out.splitlines()[-2:] == [f"by itself: {shlex.join(todo[1][1])}", "check: failed: bad"]


def test_the_last_line_of_a_good_run_is_check_ok(capsys: pytest.CaptureFixture[str]) -> None:
    """CI and people look there."""
    assert check.run_all(iter([("good", python(""))])) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "check: ok"


def test_a_step_that_hangs_is_ended_as_a_failure() -> None:
    """What it printed is kept."""
    code, output = check.run(["sh", "-c", "echo so far; exec sleep 60"], within_s=1.0)
    assert code == 1
    assert output == "so far\n\nstill running after 1 s"


def test_steps_come_in_the_order_of_cheapness(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second must not wait behind what takes minutes; other Pythons get the quick tests only."""
    monkeypatch.setattr(check, "other_pythons", lambda _running: iter([("3.12", "/opt/python3.12")]))
    names = [name for name, _ in check.steps(quick=False)]
    static = ["ruff format", "ruff", "codespell", "mypy", "import-linter", "genproto"]
    tests = ["coverage erase", "pytest", "pytest, the slow part", "coverage combine", "coverage"]
    assert names == [*static, *tests, "environment 3.12", "pytest 3.12"]
    full, quick = (dict(check.steps(quick=quick)) for quick in (False, True))
    assert check.SLOW in full["pytest, the slow part"]
    assert f"not ({check.SLOW})" in quick["pytest"]
    assert "coverage" not in quick["pytest"]
    assert f"not ({check.SLOW})" in full["pytest 3.12"]


def test_another_python_counts_only_if_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shim that fails, or that is another version than its name says, is passed over."""
    for folder, text in (("a", "exit 127"), ("b", "echo 3.11"), ("c", "echo 3.12")):
        (tmp_path / folder).mkdir()
        script = tmp_path / folder / "python3.12"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setattr(check, "VERSIONS", ("3.12", "3.99"))
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b:{tmp_path}/c")
    assert list(check.other_pythons("3.11")) == [("3.12", f"{tmp_path}/c/python3.12")]
    assert list(check.other_pythons("3.12")) == []


def test_quick_and_long_exclude_each_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is refused before anything runs."""
    monkeypatch.setattr(sys, "argv", ["check", "--quick", "--long", "x"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
