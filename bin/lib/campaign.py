"""Long campaigns: `bin/check --long NAME` runs rounds of tests/long/NAME.py until this commit has had enough of them.

A campaign is a module with `ROUNDS: int` and `run(seed: int) -> Mapping[str, int]`: one round, decided by its seed
alone; it returns counts (kills, messages checked, ...) and raises where a promise does not hold. `COUNTED = True`: the
seed is the round's number, for a campaign whose rounds together are all that there is to try. `ALSO`: other names that
the same campaign, with the same ledger, goes by. `OF`: the paths that it tries (without: all sources and tests); a
round counts for every commit that has the same there. Each round is one JSON line in docs/evidence/NAME.jsonl:
{"round", "seed", "commit", "changed", "python", "ok", "seconds", "counts"}, and "error" for a failure. The ledger is
the state: a campaign that was stopped goes on with the next round. A round that failed is run again first; `--seed N`
repeats any one without writing.
"""

import hashlib
import importlib.util
import json
import platform
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

SOURCES = ("rmq", "store", "proxy", "proto", "tests")


class Campaign(Protocol):
    """What tests/long/NAME.py has."""

    ROUNDS: int

    def run(self, seed: int) -> Mapping[str, int]:
        """One round; raises when a promise does not hold."""


def main(root: Path, name: str, rounds: int | None, seed: int | None) -> int:
    """Returns the exit code: 0 when the ledger shows all rounds of this code as passed."""
    name = own_name(root, name)
    campaign = find(root, name)
    if campaign is None:
        print(f"check: no campaign {name!r}; there are: {', '.join(names(root)) or 'none'}")
        return 2
    if seed is not None:
        print(json.dumps(dict(campaign.run(seed))))
        return 0
    ledger = root / "docs" / "evidence" / f"{name}.jsonl"
    try:
        at = commit(root)
        return resume(campaign, name, ledger, at, rounds or campaign.ROUNDS, Code(root, campaign, at[0]))
    except KeyboardInterrupt:
        print(f"check: {name} stopped; the same command goes on")
        return 130


def names(root: Path) -> list[str]:
    """The campaigns that there are."""
    return sorted(path.stem for path in (root / "tests" / "long").glob("[a-z]*.py"))


def own_name(root: Path, name: str) -> str:
    """Of the campaign that goes by this name, too; the same name where there is none."""
    own = names(root)
    if name in own:
        return name
    return next((one for one in own if name in getattr(find(root, one), "ALSO", ())), name)


def find(root: Path, name: str) -> Campaign | None:
    """The campaign's module, None if there is none of that name."""
    if name not in names(root):
        return None
    spec = importlib.util.spec_from_file_location(f"tests.long.{name}", root / "tests" / "long" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Campaign, module)


def commit(root: Path) -> tuple[str, bool]:
    """The commit's id, and whether files differ from it (the ledgers aside)."""
    head = _git(root, "rev-parse", "HEAD") or "none"
    return head, bool(_git(root, "status", "--porcelain", "--", ".", ":!docs/evidence"))


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()


class Code:
    """What a campaign tries, as the commit `head` has it."""

    def __init__(self, root: Path, campaign: Campaign, head: str) -> None:
        self._root = root
        self._head = head
        self._paths: Sequence[str] = getattr(campaign, "OF", SOURCES)
        self._same = {head: True}

    def is_of(self, commit: str) -> bool:
        """Whether another commit has the same. One that is not here has not."""
        if commit not in self._same:
            command = ["git", "diff", "--quiet", commit, self._head, "--", *self._paths]
            self._same[commit] = subprocess.run(command, cwd=self._root, capture_output=True).returncode == 0
        return self._same[commit]


def resume(campaign: Campaign, name: str, ledger: Path, at: tuple[str, bool], rounds: int, code: Code) -> int:
    """Runs what is missing in the ledger."""
    passed = rounds_passed(ledger, code)
    for number in (n for n in range(rounds) if n not in passed):
        seed = number if getattr(campaign, "COUNTED", False) else seed_of(name, at[0], number)
        entry = play(campaign, number, seed, at)
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with ledger.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")
        print(f"{name} {number + 1}/{rounds} seed {entry['seed']}: {entry['counts']} {entry['seconds']} s", flush=True)
        if not entry["ok"]:
            print(f"{entry['error']}\ncheck: failed: {name}; repeat it with --long {name} --seed {entry['seed']}")
            return 1
    print(f"check: ok, {rounds} rounds of {name} at {at[0][:12]}")
    return 0


def rounds_passed(ledger: Path, code: Code) -> set[int]:
    """The rounds whose last entry for this code is a pass."""
    passed: dict[int, bool] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []:
        entry = json.loads(line)
        if code.is_of(entry["commit"]):
            passed[entry["round"]] = entry["ok"]
    return {number for number, ok in passed.items() if ok}


def seed_of(name: str, head: str, number: int) -> int:
    """Another seed for each commit, the same one when a round is run again."""
    return int.from_bytes(hashlib.sha256(f"{name} {head} {number}".encode()).digest()[:6], "big")


def play(campaign: Campaign, number: int, seed: int, at: tuple[str, bool]) -> dict[str, object]:
    """One round, as its line of the ledger."""
    started = time.monotonic()
    counts: Mapping[str, int] = {}
    error = ""
    try:
        counts = campaign.run(seed)
    except Exception:  # whatever a round raises is its result
        error = traceback.format_exc()
    entry: dict[str, object] = {
        "round": number,
        "seed": seed,
        "commit": at[0],
        "changed": at[1],
        "python": platform.python_version(),
        "ok": not error,
        "seconds": round(time.monotonic() - started, 1),
        "counts": dict(counts),
    }
    return {**entry, "error": error} if error else entry
