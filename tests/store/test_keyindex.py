"""The key index: what a search finds, who waits for it, and how that ends."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_store import keyfile, keyindex
from rmq_store.disk import RealDisk
from rmq_store.flush import Mode
from rmq_store.journal import TopicDrop
from rmq_store.keyindex import TooManySearches
from rmq_store.record import SYS_FLAG_PREPARED, SYS_FLAG_ROLLBACK, Record
from tests.store.keyrig import BIG, BODY, find, newest_first, opened, properties, put, put_many, start_find
from tests.store.support import Rig, WatchedDisk, draft


def test_a_message_is_found_by_its_id_and_by_each_of_its_keys() -> None:
    """UNIQ_KEY, and the words of KEYS."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "one", "red blue  red")
        put(rig, "two", "blue")
        assert [find(rig, key) for key in ("one", "red", "blue", "green", "")] == [
            ["one"],
            ["one"],
            ["two", "one"],
            [],
            [],
        ]


def test_a_key_belongs_to_its_topic() -> None:
    """The same key elsewhere is another key."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "here", "k")
        put(rig, "there", "k", topic="u")
        assert (find(rig, "k"), find(rig, "k", topic="u"), find(rig, "k", topic="v")) == (["here"], ["there"], [])


@pytest.mark.parametrize("flag", [SYS_FLAG_PREPARED, SYS_FLAG_ROLLBACK])
def test_half_messages_roll_backs_and_the_journal_have_no_entry(flag: int) -> None:
    """Nobody may read them."""
    with opened(None, mode=Mode.MEMORY) as rig:
        rig.topic("t")
        hidden = msgspec.structs.replace(draft("t", 0, properties=properties("hidden")), sys_flag=flag)
        rig.store.log.append(hidden, 0, 0)
        rig.store.flusher.touch()
        rig.turn()
        put(rig, "seen")
        assert (find(rig, "hidden"), find(rig, "seen")) == ([], ["seen"])
        assert rig.store.keys._table is not None
        assert rig.store.keys._table.count == 1


def test_the_newest_come_first_and_only_as_many_as_are_wanted() -> None:
    """Across files and the table in memory."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 50)
        assert find(rig, "all") == newest_first(50)
        assert find(rig, "all", limit=7) == newest_first(7, 43)
        assert find(rig, "k1", limit=2) == ["m49", "m46"]


def test_bodies_end_an_answer_but_one_always_fits() -> None:
    """The message that goes beyond the limit is the last."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 10)
        assert find(rig, "all", bytes_max=len(BODY) + 1) == ["m9", "m8"]
        assert find(rig, "all", bytes_max=1) == ["m9"]


def test_a_message_that_no_queue_points_to_is_not_found() -> None:
    """Its topic was deleted, and another of that name begun."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "old", "k")
        rig.store.apply(TopicDrop("t"))
        put(rig, "new", "k")
        assert (find(rig, "k"), find(rig, "old")) == (["new"], [])


def test_what_is_not_safe_is_not_found(tmp_path: Path) -> None:
    """As everywhere."""
    disk = WatchedDisk(RealDisk(tmp_path))
    with opened(tmp_path, disk=disk, mode=Mode.DURABLE) as rig:
        rig.wait(rig.store.when_safe(rig.send("t", properties=properties("first"))))
        disk.gate.clear()
        rig.send("t", properties=properties("second"))
        rig.turn()
        assert (find(rig, "first"), find(rig, "second")) == (["first"], [])
        disk.gate.set()


def test_keys_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash only says where to look."""
    monkeypatch.setattr(keyindex, "key_hash", lambda topic, key: 7)
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "a", "x y")
        put(rig, "b", "x")

        def has_y(found: Record) -> bool:
            return "y" in found.decode_properties().get("KEYS", "").split()

        found = rig.wait(rig.store.keys.find([("t", "y")], has_y, limit=9, bytes_max=BIG))
        assert isinstance(found, list)
        assert [one.decode_properties()["UNIQ_KEY"] for one in found] == ["a"]


def test_several_names_make_one_answer() -> None:
    """In order of their positions."""
    with opened(None, mode=Mode.MEMORY) as rig:
        for number, topic in enumerate("tutut"):
            put(rig, f"m{number}", "k", topic=topic)
        found = rig.wait(rig.store.keys.find([("t", "k"), ("u", "k")], lambda _: True, limit=4, bytes_max=BIG))
        assert isinstance(found, list)
        assert [one.decode_properties()["UNIQ_KEY"] for one in found] == newest_first(4, 1)


_message = st.tuples(st.sampled_from("tu"), st.lists(st.sampled_from("abcdef"), max_size=3), st.integers(0, 9000))


@settings(max_examples=30, deadline=None)
@given(messages=st.lists(_message, max_size=60), look_at=st.sets(st.integers(0, 59)), limit=st.integers(1, 20))
def test_it_finds_what_a_dictionary_would(
    messages: list[tuple[str, list[str], int]], look_at: set[int], limit: int
) -> None:
    """Whatever is sent, and whenever someone looks."""
    naive: dict[tuple[str, str], list[str]] = {}
    with opened(None, mode=Mode.MEMORY) as rig:
        for number, (topic, keys, size) in enumerate(messages):
            put(rig, f"m{number}", " ".join(keys), topic, bytes(size))
            for key in {f"m{number}", *keys}:
                naive.setdefault((topic, key), []).insert(0, f"m{number}")
            if number in look_at:
                assert find(rig, "a", topic) == naive.get((topic, "a"), [])
        for topic, key in [(topic, key) for topic in "tu" for key in [*"abcdef", "m0", "m59"]]:
            assert find(rig, key, topic, limit) == naive.get((topic, key), [])[:limit]


# -- who waits ---------------------------------------------------------------------------------------------------------


def test_a_search_that_is_cancelled_ends() -> None:
    """The next one has its turn."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put_many(rig, 20)
        first, second = start_find(rig, "all"), start_find(rig, "m3")
        first.cancel()
        assert len(rig.wait(second)) == 1  # type: ignore[arg-type]  # a list
        assert not rig.store.keys._searches


def test_a_stop_ends_every_search() -> None:
    """Cancelled: there is no answer any more."""
    rig = Rig(None, mode=Mode.MEMORY)
    put_many(rig, 3)
    search = start_find(rig, "all")
    rig.close()
    assert search.cancelled()


def test_searches_have_a_limit() -> None:
    """Beyond it the caller is told at once."""
    with opened(None, mode=Mode.MEMORY) as rig:
        waiting = [start_find(rig, "m") for _ in range(keyindex.SEARCHES_MAX)]
        with pytest.raises(TooManySearches):
            rig.wait(start_find(rig, "m"))
        for search in waiting:
            rig.wait(search)


def test_where_no_file_can_be_written_searches_say_so_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table stays in memory, so memory does not grow, and nothing is lost."""
    disk = WatchedDisk(RealDisk(tmp_path))
    with opened(tmp_path, disk=disk) as rig:
        put_many(rig, 60)
        disk.broken.add(("write", keyfile.FOLDER))
        with pytest.raises(OSError, match="No space left"):
            find(rig, "all")
        assert rig.store.keys._unsaved is not None
        assert len(rig.store.keys._files) == 1
        disk.broken.clear()
        assert find(rig, "all") == newest_first(60)


def test_a_queue_that_cannot_be_read_fails_the_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is served."""
    with opened(None, mode=Mode.MEMORY) as rig:
        put(rig, "m")

        def broken(position: int) -> None:
            raise OSError("gone")

        monkeypatch.setattr(rig.store.keys, "_read_at", broken)
        with pytest.raises(OSError, match="gone"):
            find(rig, "m")
        monkeypatch.undo()
        assert find(rig, "m") == ["m"]
