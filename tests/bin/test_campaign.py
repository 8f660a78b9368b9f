"""Long campaigns: the ledger is the state."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bin.lib import campaign

NAME = "toy"
MODULE = """
ROUNDS = 3
def run(seed):
    return {"seen": seed % 10}
"""


class Toy:
    """A campaign that fails, or is interrupted, where it is told to."""

    ROUNDS = 4
    COUNTED = False

    def __init__(self, trouble: Mapping[int, BaseException] | None = None) -> None:
        self.trouble = trouble or {}
        self.seeds: list[int] = []

    def run(self, seed: int) -> Mapping[str, int]:
        """Round n is the n-th call."""
        self.seeds.append(seed)
        if error := self.trouble.get(len(self.seeds)):
            raise error
        return {"messages": 7}


def resume(toy: Toy, ledger: Path, commit: str, rounds: int, *, changed: bool = False) -> int:
    """Of a commit that is in no repository."""
    return campaign.resume(toy, NAME, ledger, (commit, changed), rounds, campaign.Code(ledger.parent, toy, commit))


def entries(ledger: Path) -> list[dict[str, object]]:
    """The ledger's lines."""
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_each_round_is_a_line_with_seed_commit_and_counts(tmp_path: Path) -> None:
    """So that anyone can repeat it."""
    ledger = tmp_path / "evidence" / "toy.jsonl"
    assert resume(Toy(), ledger, "abc", 4, changed=True) == 0
    lines = entries(ledger)
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert len({str(line["seed"]) for line in lines}) == 4
    assert all((e["commit"], e["changed"], e["ok"], e["counts"]) == ("abc", True, True, {"messages": 7}) for e in lines)


def test_a_campaign_may_go_by_other_names(tmp_path: Path) -> None:
    """With one ledger for all of them."""
    folder = tmp_path / "tests" / "long"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(f'ALSO = ("doll",){MODULE}')
    assert campaign.main(tmp_path, "doll", 1, None) == 0
    assert campaign.main(tmp_path, "toy", 2, None) == 0
    assert [line["round"] for line in entries(tmp_path / "docs" / "evidence" / "toy.jsonl")] == [0, 1]
    assert [path.name for path in (tmp_path / "docs" / "evidence").iterdir()] == ["toy.jsonl"]
    assert campaign.main(tmp_path, "puppet", 1, None) == 2


def test_a_campaign_may_count_its_rounds(tmp_path: Path) -> None:
    """Then each does its part of all that there is to try."""
    toy = Toy()
    toy.COUNTED = True
    assert resume(toy, tmp_path / "toy.jsonl", "abc", 3) == 0
    assert toy.seeds == [0, 1, 2]


def test_a_stopped_campaign_goes_on_with_the_next_round(tmp_path: Path) -> None:
    """What is in the ledger for this commit is not run again; another commit starts anew, with other seeds."""
    ledger = tmp_path / "toy.jsonl"
    with pytest.raises(KeyboardInterrupt):
        resume(Toy({3: KeyboardInterrupt()}), ledger, "abc", 4)
    rest = Toy()
    assert resume(rest, ledger, "abc", 4) == 0
    assert rest.seeds == [campaign.seed_of(NAME, "abc", number) for number in (2, 3)]
    other = Toy()
    assert resume(other, ledger, "def", 4) == 0
    assert len(other.seeds) == 4
    assert not set(other.seeds) & {entry["seed"] for entry in entries(ledger) if entry["commit"] == "abc"}


def test_a_failed_round_stops_and_is_run_again_with_its_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger keeps the failure; the campaign is done only when that round has passed."""
    ledger = tmp_path / "toy.jsonl"
    assert resume(Toy({2: ValueError("lost m1")}), ledger, "abc", 3) == 1
    failed = entries(ledger)[1]
    assert failed["ok"] is False
    assert "lost m1" in str(failed["error"])
    assert f"--long toy --seed {failed['seed']}" in capsys.readouterr().out
    again = Toy()
    assert resume(again, ledger, "abc", 3) == 0
    assert again.seeds[0] == failed["seed"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one campaign."""
    folder = tmp_path / "tests" / "long"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(MODULE)
    commands = ["init -q", "add .", "-c user.name=n -c user.email=e commit -qm m"]
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def test_the_command_runs_a_campaign_by_name(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger names the commit, and does not itself count as a change."""
    assert campaign.main(checkout, "toy", 2, None) == 0
    assert campaign.main(checkout, "toy", None, None) == 0
    lines = entries(checkout / "docs" / "evidence" / "toy.jsonl")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    assert [(line["commit"], line["changed"]) for line in lines] == [(head, False)] * 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("check: ok, 3 rounds of toy at ")


def test_a_round_counts_for_every_commit_with_the_same_code(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what the campaign tries; else for its own only."""
    (checkout / "tests" / "long" / "toy.py").write_text(f'OF = ("store", "tests/long"){MODULE}')
    (checkout / "store").mkdir()

    def commit(text: str, path: str) -> None:
        (checkout / path).write_text(text)
        for command in ("add .", "-c user.name=n -c user.email=e commit -qm m"):
            subprocess.run(["git", *command.split()], cwd=checkout, check=True)

    def rounds() -> int:
        assert campaign.main(checkout, "toy", None, None) == 0
        return len(entries(checkout / "docs" / "evidence" / "toy.jsonl"))

    commit("one", "store/code")
    assert rounds() == 3
    commit("other", "README.md")
    assert rounds() == 3
    commit("two", "store/code")
    assert rounds() == 6
    commit("one", "store/code")
    assert rounds() == 6


def test_one_seed_is_repeated_without_the_ledger(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To look into a failure."""
    assert campaign.main(checkout, "toy", None, 12) == 0
    assert json.loads(capsys.readouterr().out) == {"seen": 2}
    assert not (checkout / "docs").exists()


def test_an_unknown_campaign_is_refused_with_those_that_are_there(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback."""
    assert campaign.main(checkout, "../toy", None, None) == 2
    assert capsys.readouterr().out == "check: no campaign '../toy'; there are: toy\n"
