"""Who is measured when."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import loads, session, stand
from bench.loads import LOADS
from bench.stand import Settings
from bench.tools import BenchError
from tests.bench.books import results
from tests.bench.fakes import FakeStand

SETTINGS = Settings(seconds=2.0, warm_first_s=70.0, warm_load_s=10.0)
PAUSES = "pause", "resume", "topic", "group", "ready"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStand:
    """A stand that pauses nobody for real."""
    monkeypatch.setattr(stand, "RESUME_S", 0.0)
    return FakeStand(tmp_path, SETTINGS)


def measured(log: list[str]) -> list[str]:
    """The load generator's runs."""
    return [line for line in log if not line.split()[1].startswith(PAUSES)]


def test_pairs_are_interleaved_and_change_their_order(made: FakeStand, tmp_path: Path) -> None:
    """Apache is warmed first: at least as long as it takes, in slices."""
    kept = results(tmp_path)
    session.measure(made, kept, [LOADS["send-b1"]], 3, pairs=True)
    assert measured(made.log) == [
        "apache send",  # the topic's first message
        *["apache send"] * 3,  # 30 + 30 + 20 seconds
        *("apache send", "rmq send", "rmq send"),  # the second: the first message of rmq's topic
        *("rmq send", "apache send"),
        *("apache send", "rmq send"),
    ]
    durations = [flags["duration"] for flags in made.flags if "duration" in flags]
    assert durations == ["30.0s", "30.0s", "20.0s", *["2.0s"] * 6]
    assert [sorted(one) for one in kept.book.pairs["send-b1"].rounds] == [["apache", "rmq"]] * 3


def test_the_next_load_warms_apache_only_a_while(made: FakeStand, tmp_path: Path) -> None:
    """The process is the same."""
    kept = results(tmp_path)
    session.measure(made, kept, [LOADS["send-b1"], LOADS["send-b32"]], 1, pairs=True)
    durations = [flags["duration"] for flags in made.flags if "duration" in flags and flags.get("batch")]
    assert durations == ["10.0s", "2.0s", "2.0s"]


def test_who_is_not_measured_is_paused(made: FakeStand, tmp_path: Path) -> None:
    """They share a core: between the pause and the resume of the one, only the other works."""
    session.measure(made, results(tmp_path), [LOADS["send-b1"]], 2, pairs=True)
    running: set[str] = set()
    sends = 0
    for name, what in (line.split()[:2] for line in made.log):
        if what in ("ready", "resume"):
            running.add(name)
        elif what == "pause":
            running.discard(name)
        elif what == "send":
            assert running == {name}
            sends += 1
    assert sends == 9


def test_rounds_that_are_there_are_not_repeated(made: FakeStand, tmp_path: Path) -> None:
    """A run that was stopped after the first pair goes on with the second; a whole one is left alone."""
    kept = results(tmp_path)
    session.measure(made, kept, [LOADS["send-b1"]], 1, pairs=True)
    first = dict(kept.book.pairs["send-b1"].rounds[0])
    made.log.clear()
    session.measure(made, kept, [LOADS["send-b1"]], 2, pairs=True)
    assert kept.book.pairs["send-b1"].rounds[0] == first
    assert measured(made.log)[-2:] == ["rmq send", "apache send"]
    made.log.clear()
    assert session.left_of([LOADS["send-b1"]], kept, 2, pairs=True) == []
    assert session.left_of([LOADS["send-b1"]], kept, 3, pairs=True) == [LOADS["send-b1"]]
    session.measure(made, kept, [LOADS["send-b1"]], 2, pairs=True)
    assert made.log == []


def test_alone_is_measured_anew(made: FakeStand, tmp_path: Path) -> None:
    """Whoever runs it again wants to see what has changed."""
    kept = results(tmp_path)
    for _ in range(2):
        session.measure(made, kept, [LOADS["send-b1"]], 2, pairs=False)
        assert len(kept.book.alone["send-b1"].rounds) == 2
    assert measured(made.log) == ["rmq send"] * 5  # one first message, four rounds
    assert "apache" not in " ".join(made.log)


def test_every_round_is_in_the_file_at_once(made: FakeStand, tmp_path: Path) -> None:
    """A third that fails takes nothing away, and the next load is measured all the same."""
    kept = results(tmp_path)
    rounds = 0

    def failing(_stand: object, _name: str, _seconds: float) -> dict[str, float]:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise BenchError("no route")
        return {"send_per_s": 1.0}

    broken = replace(LOADS["send-b1"], measure=failing)
    session.measure(made, kept, [broken, LOADS["send-b32"]], 3, pairs=False)
    assert kept.book.alone["send-b1"].failed == "no route"
    assert len(kept.book.alone["send-b1"].rounds) == 2
    assert len(kept.book.alone["send-b32"].rounds) == 3
    assert kept.path.exists()


def test_what_the_server_does_not_serve_is_no_failure(made: FakeStand, tmp_path: Path) -> None:
    """It is asked by a message; Apache is not even started for it."""
    made.answers["send"] = [{"sent_total": 0.0, "errors": 1.0, "errors: SendMessage NOT_IMPLEMENTED": 1.0}]
    kept = results(tmp_path)
    session.measure(made, kept, [LOADS["fifo"]], 3, pairs=True)
    entry = kept.book.pairs["fifo"]
    assert (entry.not_served, entry.failed, entry.rounds) == ("rmq says SendMessage NOT_IMPLEMENTED", "", [])
    assert "apache ready" not in made.log


def test_a_new_topic_is_asked_again_until_it_has_a_route() -> None:
    """Up to a limit, then it is a failure and no refusal."""
    answers = [{"sent_total": 0.0, "errors: no route": 1.0}, {"sent_total": 1.0}]
    assert stand.ask(lambda: answers.pop(0), within_s=5.0, pause_s=0.0) == ""
    with pytest.raises(BenchError, match="no clear answer: no route"):
        stand.ask(lambda: {"sent_total": 0.0, "errors: no route": 1.0}, within_s=0.0, pause_s=0.0)


def test_a_settling_load_is_left_alone_before_the_other_is_measured(made: FakeStand, tmp_path: Path) -> None:
    """What it delayed is delivered while nobody is measured."""
    session.measure(made, results(tmp_path), [LOADS["delay"]], 1, pairs=True)
    assert made.log.count(f"settle {loads.DELAY_S + loads.SETTLE_S:g}") == 3  # the warming, and both of the pair


def test_transactions_come_last_whatever_the_order_asked_for() -> None:
    """Of the loads on the shared server; the others start one of their own."""
    names = ["idle", "transaction", "both", "send-b1"]
    assert [load.name for load in session.in_order(names)] == ["send-b1", "both", "transaction", "idle"]
    shared = [load.name for load in LOADS.values() if not load.own]
    assert shared[-1] == "transaction"


def test_the_four_loads_beside_apache_take_less_than_15_minutes() -> None:
    """As they are measured without any option."""
    chosen = session.in_order(loads.PAIRS)
    assert 8 * 60 < session.estimate_s(chosen, 3, Settings(), pairs=True) < 15 * 60
    assert session.estimate_s(chosen, 3, Settings(), pairs=False) < 4 * 60


def test_a_backlog_that_ends_early_is_filled_higher(made: FakeStand) -> None:
    """And what is left of one serves the next run."""
    made.answers["send"] = [{"sent_total": 1.0}, {"sent_total": 60_000.0}, {"sent_total": 120_000.0}]
    made.answers["consume"] = [
        {},  # the group's first look
        {"drained": 1.0, "recv_per_s": 30_000.0, "received_total": 60_000.0},
        {"recv_per_s": 30_000.0, "received_total": 90_000.0},
        {"recv_per_s": 9_000.0, "received_total": 20_000.0},
    ]
    assert "drained" not in loads.consume(made, "rmq", 2.0)
    assert [flags["n"] for flags in made.flags if flags.get("batch") == 32 and "n" in flags] == [60_000, 135_000]
    assert made.server("rmq").backlog == 30_000
    loads.consume(made, "rmq", 0.5)
    assert [flags["n"] for flags in made.flags if flags.get("batch") == 32 and "n" in flags][2:] == []


def test_closing_ends_every_server(made: FakeStand, tmp_path: Path) -> None:
    """Shared ones and others."""
    session.measure(made, results(tmp_path), [LOADS["send-b1"]], 1, pairs=True)
    made.spawn("rmq")
    made.close()
    assert sorted(line for line in made.log if line.endswith("close")) == ["apache close", "rmq close", "rmq close"]
