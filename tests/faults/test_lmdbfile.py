"""LMDB's file read without LMDB: the same pairs, or a clear no; whatever the bytes are, never a crash."""

import contextlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import lmdb
import pytest

from rmq_store import checkpoint, lmdbfile
from rmq_store.checkpoint import FORMAT, TIMER, Checkpoint, Meta, timer_pair
from rmq_store.lmdbfile import Unreadable
from tests.faults import rot

PAGE = 4096
META = Meta(FORMAT, 10, 0, 10, 1, 1, [0], 0)


def filled(folder: Path, seed: int, commits: int) -> dict[bytes, bytes]:
    """A file of several levels, with overflow pages, free pages and deleted keys; what it holds."""
    rng = random.Random(seed)
    pairs: dict[bytes, bytes] = {}
    with lmdb.open(str(folder), map_size=1 << 30) as env:
        for _ in range(commits):
            with env.begin(write=True) as txn:
                for _ in range(rng.randrange(60)):
                    key = b"k%d" % rng.randrange(1500)
                    if rng.random() < 0.3:
                        txn.delete(key)
                        pairs.pop(key, None)
                    else:
                        pairs[key] = rng.randbytes(rng.choice((3, 60, 900, 3000, 9000)))
                        txn.put(key, pairs[key])
    return pairs


def pairs_of(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Of all leaves."""
    for keys, values in lmdbfile.read(path):
        yield from zip(keys, values, strict=True)


@pytest.mark.parametrize("commits", [0, 1, 7, 90])
def test_it_reads_what_lmdb_wrote(tmp_path: Path, commits: int) -> None:
    """In the order of the keys, after any history."""
    pairs = filled(tmp_path, commits, commits)
    found = list(pairs_of(tmp_path / "data.mdb"))
    assert dict(found) == pairs
    assert [key for key, _ in found] == sorted(pairs)


@pytest.mark.fuzz
def test_a_flipped_byte_is_a_no_or_changes_one_value(tmp_path: Path) -> None:
    """Structure is checked here, values are the checkpoint's to check. In the metas as in the trees."""
    pairs = filled(tmp_path, 3, 15)
    whole = (tmp_path / "data.mdb").read_bytes()
    rng = random.Random(5)
    refused = 0
    for number in range(400):
        page = rng.randrange(2) if number % 4 == 0 else rng.randrange(len(whole) // PAGE)
        at = page * PAGE + rng.randrange(PAGE if number % 4 == 1 else 160)
        data = bytearray(whole)
        data[at] ^= rng.randrange(1, 256)
        (tmp_path / "data.mdb").write_bytes(data)
        try:
            found = dict(pairs_of(tmp_path / "data.mdb"))
        except Unreadable:
            refused += 1
        else:
            older = at < 2 * PAGE  # the meta before the last may count now: LMDB would read the same
            assert older or sum(found.get(key) != value for key, value in pairs.items()) <= 1
    assert refused > 20


def test_any_byte_of_a_meta_that_is_flipped_leaves_what_lmdb_opens(tmp_path: Path) -> None:
    """Or is a no: a start must not fail for the checkpoint that it can do without. 152 bytes of each count."""
    filled(tmp_path, 3, 15)
    path = tmp_path / "data.mdb"
    whole = path.read_bytes()
    for at in (page * PAGE + offset for page in (0, 1) for offset in range(152)):
        for mask in (1, 128, 158):
            data = bytearray(whole)
            data[at] ^= mask
            path.write_bytes(data)
            if outcome(path) is not None:
                with lmdb.open(str(tmp_path), map_size=1 << 30) as env, env.begin() as txn:
                    assert txn.stat()


@pytest.mark.fuzz
def test_pages_of_nodes_alike_are_checked_as_node_by_node(tmp_path: Path) -> None:
    """A flipped byte is a no to both ways, or to neither, and then both find the same."""
    path = tmp_path / "data.mdb"
    rng = random.Random(7)
    with lmdb.open(str(tmp_path), map_size=1 << 30) as env, env.begin(write=True) as txn:
        for number in range(600):
            txn.put(timer_pair(rng.randrange(1 << 40), number, number)[0], rng.randbytes(8))
    whole = path.read_bytes()
    said = []
    for number in range(400):
        data = bytearray(whole)
        at = rng.randrange(2, len(whole) // PAGE) * PAGE + rng.randrange(PAGE if number % 4 == 1 else 160)
        data[at] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        said.append(outcome(path))
        with mock.patch.object(lmdbfile._File, "_alike", return_value=None):
            assert outcome(path) == said[-1]
    assert 100 < said.count(None) < 390


def outcome(path: Path) -> list[tuple[bytes, bytes]] | None:
    """The pairs; None where the file is not sound."""
    try:
        return list(pairs_of(path))
    except Unreadable:
        return None


@pytest.mark.parametrize("size", [0, 1, 100, PAGE, 2 * PAGE, 3 * PAGE, 5 * PAGE + 7])
def test_a_file_that_is_cut_is_a_no(tmp_path: Path, size: int) -> None:
    """Or holds nothing."""
    filled(tmp_path, 3, 15)
    path = tmp_path / "data.mdb"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Unreadable):
        list(pairs_of(path))


def test_garbage_is_a_no(tmp_path: Path) -> None:
    """Random pages behind two metas that are right."""
    filled(tmp_path, 3, 15)
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    refused = 0
    for seed in range(60):
        rng = random.Random(seed)
        page = rng.randrange(2, len(data) // PAGE)
        noise = rng.randbytes(PAGE) if seed % 2 else data[rng.randrange(2, len(data) // PAGE) * PAGE :][:PAGE]
        path.write_bytes(data[: page * PAGE] + noise + data[(page + 1) * PAGE :])
        try:
            list(pairs_of(path))
        except Unreadable:
            refused += 1
    assert refused > 10


def kept(folder: Path) -> dict[bytes, bytes]:
    """A checkpoint's pairs."""
    found = checkpoint.read(folder)
    assert found is not None
    return dict(found.pairs)


def test_checksums_follow_every_commit(tmp_path: Path) -> None:
    """Put, replace, delete, everything anew, and over a restart."""
    one = Checkpoint(tmp_path)
    one.commit(META, [(b"a", b"1"), (b"b", b"2")], everything=False)
    one.commit(META, [(b"a", b"3"), (b"b", None), (b"gone", None)], everything=False)
    assert kept(tmp_path) == {b"a": b"3"}
    one.close()
    one = Checkpoint(tmp_path)
    assert one.load() is not None
    assert one.load() is None
    one.commit(META, [(b"c", b"4")], everything=False)
    assert kept(tmp_path) == {b"a": b"3", b"c": b"4"}
    one.commit(META, [(b"d", b"5")], everything=True)
    assert kept(tmp_path) == {b"d": b"5"}
    one.close()


def test_timers_stay_when_everything_is_written_anew(tmp_path: Path) -> None:
    """And the checksums with them; keys before and behind theirs go."""
    one = Checkpoint(tmp_path)
    timers = [timer_pair(70, 2, 2), timer_pair(60, 3, 1), timer_pair(60, 4, 4)]
    one.commit(META, [(b"a", b"1"), (b"z", b"2"), (TIMER, b"\x91\x05"), *timers], everything=False)
    one.commit(META, [(b"d", b"5"), timer_pair(60, 4, None)], everything=True)
    found = checkpoint.read(tmp_path)
    assert found is not None
    assert ([*zip(*found.timers(), strict=True)], found.pairs) == (
        [(60, 3, 1), (70, 2, 2)],
        [(b"d", b"5"), (TIMER, b"\x91\x05")],
    )
    one.close()


def test_checksums_are_right_after_a_commit_that_failed_and_was_done(tmp_path: Path) -> None:
    """LMDB raises when its last sync fails: what it wrote may be there, or not. Whoever failed tells all again."""
    one = Checkpoint(tmp_path)
    env = one._env

    @contextlib.contextmanager
    def begin(*, write: bool) -> Iterator[lmdb.Transaction]:
        with env.begin(write=write) as txn:
            yield txn
        raise lmdb.DiskError("too late")

    again = [timer_pair(60, 3, 3), (b"a", b"1")]
    with mock.patch.object(one, "_env", SimpleNamespace(begin=begin)), pytest.raises(lmdb.DiskError):
        one.commit(META, again, everything=False)
    one.commit(META, again, everything=True)
    assert kept(tmp_path) == {b"a": b"1"}
    one.close()


@pytest.mark.parametrize("key", [b"a", b"m", b"new"])
def test_what_we_did_not_commit_is_told(tmp_path: Path, key: bytes) -> None:
    """A value changed, its pair deleted, one added: by whoever writes LMDB well."""
    one = Checkpoint(tmp_path)
    one.commit(META, [(b"a", b"1"), (b"b", b"2")], everything=False)
    with one._env.begin(write=True) as txn:
        txn.put(key, b"\x01" * 30)
    one.close()
    with pytest.raises(Unreadable, match="checksums do not match"):
        checkpoint.read(tmp_path)
    with rot.logged() as lines:
        one = Checkpoint(tmp_path)
    assert one.load() is None
    assert "the whole log is read" in lines[0]
    one.close()


def test_a_checkpoint_of_a_format_that_knows_less_counts(tmp_path: Path) -> None:
    """2 was without timers, 3 without what is known of message groups; before that another language was spoken."""
    one = Checkpoint(tmp_path)
    for number in (2, 3, FORMAT):
        one.commit(Meta(number, 0, 0, 0, 1, 1, [], 0), [(b"t", b"\x01")], everything=True)
        kept = checkpoint.read(tmp_path)
        assert kept is not None
        assert (kept.meta.format, kept.pairs) == (number, [(b"t", b"\x01")])
    one.commit(Meta(1, 0, 0, 0, 1, 1, [], 0), [], everything=True)
    with pytest.raises(Unreadable, match="format 1"):
        checkpoint.read(tmp_path)
    one.close()


def test_another_format_and_another_shape_are_told(tmp_path: Path) -> None:
    """With checksums that are right."""
    one = Checkpoint(tmp_path)
    one.commit(Meta(99, 0, 0, 0, 1, 1, [], 0), [], everything=True)
    with pytest.raises(Unreadable, match="format 99"):
        checkpoint.read(tmp_path)
    one.commit([1], [], everything=True)  # type: ignore[arg-type]  # what another version may write
    with pytest.raises(Unreadable, match="another version's"):
        checkpoint.read(tmp_path)
    one.close()


def test_a_page_that_is_free_and_in_use_is_a_no(tmp_path: Path) -> None:
    """LMDB would write over what is in use: every list of free pages is compared."""
    filled(tmp_path, 3, 15)
    path = tmp_path / "data.mdb"
    data = bytearray(path.read_bytes())
    metas = [struct.unpack_from("=Q", data, page * PAGE + 144)[0] for page in (0, 1)]
    newest = metas.index(max(metas))
    root = struct.unpack_from("=Q", data, newest * PAGE + 16 + 24 + 48 + 40)[0]
    refused = 0
    for at in range(2 * PAGE, len(data) - 8, 8):
        (number,) = struct.unpack_from("=Q", data, at)
        if 1 < number < len(data) // PAGE and number != at // PAGE:
            copy = bytearray(data)
            struct.pack_into("=Q", copy, at, root)
            path.write_bytes(copy)
            try:
                list(pairs_of(path))
            except Unreadable:
                refused += 1
    assert refused > 3
