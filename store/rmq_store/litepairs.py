"""Lite topics <-> the checkpoint's pairs: a part of snapshot.py. Formats: checkpoint.py."""

from collections.abc import Iterator
from typing import Any

import msgspec

from rmq_store.checkpoint import (
    LITE,
    LITE_CHUNK,
    LITE_GROUP,
    LITE_PLACE,
    Changed,
    chunk_key,
    number_of,
    numbered_key,
    place_key,
)
from rmq_store.lites import CHUNK_BITS, Lite, Lites

KINDS = (LITE, LITE_CHUNK, LITE_PLACE, LITE_GROUP)
_encode = msgspec.msgpack.Encoder().encode
_NAMES_AT = 9  # behind the kind and a key


def changed(lites: Lites, *, everything: bool) -> Iterator[Changed]:
    """What changed since the last checkpoint, or all there is; marks it clean."""
    if everything:
        _mark_all(lites)
    for key, begin, end in lites.gone:
        for chunk in range(begin, end):
            yield chunk_key(key, chunk), None
    for key in lites.dirty:
        lite = lites.get(key)
        if lite is None:
            yield numbered_key(LITE, key), None
        else:
            yield numbered_key(LITE, key), _encode([lite.topic, lite.name, lite.queue_id, lite.first, lite.touched_ms])
            yield from _chunks(lite)
    for group, topic in lites.bound:
        yield LITE_GROUP + f"{group}\0{topic}".encode(), _encode([])
    for group, topic, key in lites.dirty_places:
        found = lites.group(group, topic)
        place = found.places.get(key) if found is not None else None
        value = None if place is None else _encode([place.next, place.clients])
        yield place_key(key, group, topic), value
    lites.forget_changes()


def _mark_all(lites: Lites) -> None:
    lites.gone.clear()
    lites.dirty.clear()
    lites.dirty_places.clear()
    for lite in lites:
        lite.saved = lite.first
        lites.dirty[lite.key] = None
    for topic, groups in lites.groups.items():
        for name, group in groups.items():
            lites.bound[name, topic] = None
            lites.dirty_places.update(dict.fromkeys((name, topic, key) for key in group.places))


def _chunks(lite: Lite) -> Iterator[Changed]:
    first = lite.first
    for chunk in range(lite.saved >> CHUNK_BITS, (lite.end - 1 >> CHUNK_BITS) + 1):
        number = max(chunk << CHUNK_BITS, first)
        data = lite.offsets[number - first : (chunk + 1 << CHUNK_BITS) - first]
        if data:
            yield chunk_key(lite.key, chunk), _encode([number, data.tobytes()])


def restore(lites: Lites, key: bytes, value: Any) -> None:
    """One pair, in the order of the keys."""
    if key.startswith(LITE):
        lites.restore(*value)
    elif key.startswith(LITE_CHUNK):
        lites.restore_offsets(number_of(key), *value)
    elif key.startswith(LITE_PLACE):
        group, topic = key[_NAMES_AT:].decode().split("\0")
        lites.restore_place(group, topic, number_of(key), *value)
    else:
        lites.restore_group(*key[1:].decode().split("\0"))
