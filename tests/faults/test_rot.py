"""One damaged place in a store: told, mended or set aside; all else is served, and never anything wrong."""

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rmq_store.errors import StoreError
from rmq_store.journal import TopicDrop
from rmq_store.record import Damaged, decode, encode
from rmq_store.repair import survey
from rmq_store.segment import FOLDER
from tests.faults import rot
from tests.faults.rot import Damage, Sample
from tests.long import rot as campaign
from tests.store.support import SEGMENT_BYTES, Rig, draft

FLIPS = 120
KINDS = ("commitlog", "consumequeue", "lock", "rmq/checkpoint", "rmq/format", "rmq/keys")


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Sample, Path]]:
    """A sample, and where its trials are made."""
    with rot.folder() as folder:
        root = Path(folder) / "data"
        yield Sample(root, seed=1, log_bytes=3 * SEGMENT_BYTES), root


def damaged(place: tuple[Sample, Path], *damages: Damage, checkpoint: bool = True) -> Rig:
    """The sample with this damage, opened. The test closes it."""
    sample, root = place
    sample.write(root, checkpoint=checkpoint)
    sample.mark(list(damages), used=True)
    rot.inflict(root, list(damages))
    return Rig(root)


def queue_file(sample: Sample, topic: str = "orders") -> str:
    """Of a topic's first queue."""
    return next(path for path in sample.files if path.startswith(f"consumequeue/{topic}/0"))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_costs_at_most_the_message_it_hits(place: tuple[Sample, Path], kind: str) -> None:
    """In each kind of file, with the checkpoint and without, and again after the next stop."""
    sample, root = place
    rng = random.Random(kind)
    places = [one for one in sample.places() if one[0].startswith(kind)]
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS if kind == "commitlog" else FLIPS // 4):
        damage = sample.flip(*rng.choice(places), rng.randrange(1, 256))
        outcomes[rot.trial(sample, root, [damage], checkpoint=bool(number % 2), again=number % 16 == 0)] += 1
    assert set(outcomes) <= {"whole", "mended", "lost what was hit"}
    assert kind != "commitlog" or outcomes["lost what was hit"] > FLIPS // 4
    assert kind == "commitlog" or not outcomes["lost what was hit"]


def test_zeroed_and_swapped_blocks_cost_at_most_what_they_hit(place: tuple[Sample, Path]) -> None:
    """Of a sector and of a page, in one file and between two."""
    counts = campaign.blocks(*place, random.Random(2), trials=25)
    assert counts["zeroed"] == counts["swapped"] == 25
    assert counts["lost what was hit"] > 5


def test_a_cut_at_a_border_costs_what_lies_behind_it(place: tuple[Sample, Path]) -> None:
    """A byte before, at, and behind; the rest zeros, or a shorter file, which a repair lengthens."""
    sample, root = place
    counts = campaign.cuts(sample, root, sample.borders[len(sample.borders) // 2])
    counts += campaign.cuts(sample, root, sample.borders[-1])
    assert (counts["cuts"], counts["repaired"]) == (24, 12)


def test_every_damaged_record_of_the_log_is_told_by_a_check(place: tuple[Sample, Path]) -> None:
    """Even one that a start with a checkpoint does not read."""
    sample, root = place
    rng = random.Random(4)
    for border in rng.sample(sample.borders[:-1], 12):
        path = f"{FOLDER}/{border - border % SEGMENT_BYTES:020d}"
        damage = sample.flip(path, border % SEGMENT_BYTES + rng.randrange(80), 1)
        sample.write(root, checkpoint=True)
        sample.mark([damage], used=False)
        rot.inflict(root, [damage])
        assert rot.told(root, damage)


# -- what is made from the log -----------------------------------------------------------------------------------------


def test_a_deleted_queue_file_is_made_anew(place: tuple[Sample, Path], caplog: pytest.LogCaptureFixture) -> None:
    """From the log, though a checkpoint is there; told in the log, counted."""
    sample, root = place
    sample.write(root, checkpoint=True)
    sample.mark([], used=True)
    (root / queue_file(sample)).unlink()
    rig = Rig(root)
    assert rot.check(sample, rig, [], []) == set()
    assert rig.store.damage.total > 0
    assert "entries" in caplog.text
    assert "damaged: made anew from the log" in caplog.text
    rig.close()
    rig = Rig(root)
    assert rot.check(sample, rig, [], []) == set()
    assert rig.store.damage.total == 0
    rig.close()


def test_a_queue_file_is_mended_while_messages_come(place: tuple[Sample, Path]) -> None:
    """The block that new entries are being added to, too."""
    sample, root = place
    rig = damaged(place, Damage(queue_file(sample), 0, b"\xff" * 6_000_000))
    rig.send("orders", 0, b"new")
    rig.save()
    rig.send("orders", 0, b"newer")
    assert rot.check(sample, rig, [], [], more=2) == set()
    rig.close()
    rig = Rig(root)
    assert rot.check(sample, rig, [], [], more=2) == set()
    assert rig.bodies("orders")[-2:] == [b"new", b"newer"]
    assert rig.store.damage.total == 0
    rig.close()


def test_a_queue_of_many_blocks_is_mended_block_by_block(tmp_path: Path) -> None:
    """Two damaged next to each other, one alone, and one that another topic of the same name would fit."""
    rig = Rig(tmp_path)
    for life in range(2):
        for number in range(1200):
            rig.send("t", 0, b"%d %d" % (life, number))
        rig.turn()
        if not life:
            rig.store.apply(TopicDrop("t"))
            rig.turn()
    wanted = rig.bodies("t")
    rig.close()
    path = next((tmp_path / "consumequeue" / "t" / "0").iterdir())
    data = bytearray(path.read_bytes())
    for offset in (0, 300, 510, 900):
        data[offset * 20 + 3] ^= 1
    path.write_bytes(data)
    rig = Rig(tmp_path)
    assert rig.bodies("t")[905:] == wanted[905:]
    assert rig.bodies("t") == wanted
    assert rig.store.damage.total == 4 * 250
    rig.close()


# -- the log's end -----------------------------------------------------------------------------------------------------


def test_the_last_record_is_damaged_not_torn_when_all_of_it_was_written(tmp_path: Path) -> None:
    """It stays in its place, passed over, and its offset is not given again to a group that has passed it."""
    rig = Rig(tmp_path)
    rig.send("t", 0, b"a" * 600)
    rig.send("t", 0, b"b" * 600)
    rig.turn()
    rig.crash()
    position = (tmp_path / "commitlog" / f"{0:020d}").read_bytes().rindex(b"bbb")
    rot.inflict(tmp_path, [Damage(f"commitlog/{0:020d}", position, b"x")])
    rig = Rig(tmp_path)
    assert len(rig.store.report.damaged) == 1
    assert rig.store.report.cut_off == 0
    rig.crash()
    assert not (tmp_path / "lost+found").exists()


def test_what_is_cut_off_is_kept_in_lost_and_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn record: some of its sectors were never written."""
    rig = Rig(tmp_path)
    rig.send("t", 0, b"first")
    rig.turn()
    end = rig.store.log.end
    rig.send("t", 0, b"b" * 2000)
    rig.turn()
    rig.crash()
    path = f"commitlog/{0:020d}"
    rot.inflict(tmp_path, [Damage(path, end + 700 - end % 512, bytes(1024))])
    rig = Rig(tmp_path)
    assert (rig.store.report.damaged, rig.store.log.end - end < 1000) == ([], True)
    [kept] = (tmp_path / "lost+found").iterdir()
    assert kept.read_bytes().count(b"b") > 500
    assert f"kept in lost+found/{kept.name}" in caplog.text
    rig.crash()


def test_a_record_of_ours_needs_its_checksum_one_of_apache_does_not(tmp_path: Path) -> None:
    """What was there before our first start is known by `rmq/format`; damage behind it is damage."""
    whole = encode(draft("t", 0, properties=b"TAGS\x01a\x02"), 0, 0, 1, bytes(4), 0)
    size = len(whole) - 20
    theirs = size.to_bytes(4, "big") + whole[4 : size - 9] + (7).to_bytes(2, "big") + whole[size - 7 : size]
    assert decode(theirs, 0, foreign=True).decode_properties() == {"TAGS": "a"}
    with pytest.raises(Damaged, match="no record checksum"):
        decode(theirs, 0, foreign=False)
    rig = Rig(tmp_path)
    rig.send("t")
    rig.close()
    (tmp_path / "rmq" / "format").unlink()
    rig = Rig(tmp_path)
    foreign_end = rig.store.log.foreign_end
    assert 0 < foreign_end <= rig.store.log.end
    rig.close()
    rig = Rig(tmp_path)
    assert rig.store.log.foreign_end == foreign_end
    rig.close()


# -- format and repair -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", ["2", "2 and more", "9 65536 0"])
@pytest.mark.parametrize("read", [Rig, survey])
def test_an_unknown_newer_version_is_refused_by_name(
    tmp_path: Path, front: str, read: Callable[[Path], object]
) -> None:
    """The first word is the version, the last the checksum, whatever lies between; a repair refuses it, too."""
    Rig(tmp_path).close()
    (tmp_path / "rmq" / "format").write_text(f"{front} {zlib.crc32(front.encode()):08x}\n")
    with pytest.raises(StoreError, match=f"store format {front[0]} of another version of rmq, this one reads 1"):
        read(tmp_path)


def test_a_missing_segment_is_refused_with_a_way_on_and_repaired(place: tuple[Sample, Path]) -> None:
    """The repair says what it gave up, keeps what it cut out, and then the server starts."""
    sample, root = place
    segments = sorted(path for path in sample.files if path.startswith(FOLDER))
    sample.write(root, checkpoint=True)
    sample.mark([], used=True)
    (root / segments[1]).unlink()
    with (root / segments[2]).open("ab") as file:
        file.write(b"too much")
    with pytest.raises(StoreError, match="rmq store repair"):
        Rig(root)
    plan = survey(root)
    assert {step.action for step in plan.steps} >= {"create", "shorten", "replace"}
    assert plan.lost
    assert plan.given_up >= SEGMENT_BYTES // 2
    plan.carry_out()
    assert [(root / path).read_bytes() for path in plan.kept] == [b"too much"]
    assert [step for step in survey(root).steps if step.action != "mend"] == []
    rig = Rig(root)
    whole = Damage(segments[1], 0, bytes(SEGMENT_BYTES))
    assert rot.check(sample, rig, [whole], ["damaged: told by the repair"])
    rig.close()


def test_damaged_ranges_are_set_aside_and_the_log_is_clean(place: tuple[Sample, Path]) -> None:
    """Then nothing more is to be repaired, and the replay knows what is in doubt."""
    sample, root = place
    path = max(path for path in sample.files if path.startswith(FOLDER))
    damages = [sample.flip(path, offset, 7) for offset in (100, 20_000)]
    sample.write(root, checkpoint=False)
    sample.mark(damages, used=True)
    rot.inflict(root, damages)
    plan = survey(root)
    assert [step.action for step in plan.steps] == ["replace", "replace"]
    plan.carry_out()
    assert len(plan.kept) == 2
    assert survey(root).steps == []
    rig = Rig(root)
    assert rig.store.report.damaged == []
    rot.check(sample, rig, damages, ["damaged"])
    rig.close()
