"""The wheel: all four packages, the manual, and nothing that is not ours."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout as it is."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("rmq-*.whl")
    return built


def test_it_holds_the_packages_with_their_types_and_the_manual(wheel: Path) -> None:
    """And no tests, tools or caches."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"rmq", "rmq_store", "rmq_proxy", "rmq_proto"}
    assert {f"{package}/py.typed" for package in tops} <= set(names)
    assert "rmq/config.yaml" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_it_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Its own manual is shown."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    probe = "import sys, rmq, rmq.cli; print(rmq.__file__); sys.exit(rmq.cli.run(['config', 'show']))"
    done = subprocess.run([sys.executable, "-P", "-c", probe], env=env, capture_output=True, text=True, timeout=60)
    first, _, manual = done.stdout.partition("\n")
    assert first == str(tmp_path / "site" / "rmq" / "__init__.py")
    assert manual == (ROOT / "config.yaml").read_text(encoding="utf-8")
