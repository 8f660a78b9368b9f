"""Reads a whole LMDB file without LMDB, which trusts every pointer in it: a damaged one could end the process.

    page 0, 1   two metas, the one with the higher transaction number counts     native byte order, words of 8 bytes
    page        0  8 its own number   10  2 flags   12  2 end of the pointers (overflow: 4, how many pages)
                16 .. pointers of 2 bytes to nodes, in the order of their keys
    node        0  2 low, 2  2 high, 4  2 flags, 6  2 key length, key; then
                in a leaf    a value of low + high << 16 bytes, or (flag 1) the number of its first overflow page
                in a branch  low + high << 16 + flags << 32 is the page of the keys from this one on

Promises that what it accepts is sound all over: both trees (pairs, free pages) are in order, and every page belongs to
one of them, or is free, and never twice, so that a later commit cannot write over what is in use. What the values say
is not its business (checkpoint.py has their checksum). Other formats of LMDB, and sub-databases, are refused.

A leaf whose nodes are all of one size, as those of a million timers are, is checked at once and not node by node: the
same checks, five times as fast.
"""

import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

Leaf = tuple[list[bytes], list[bytes]]
"""The keys of a page, and their values."""
_PAGE = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_NODE = struct.Struct("=HHHH")
_META = struct.Struct("=IIQQ")  # magic, version, address, map size
_TREE = struct.Struct("=IHHQQQQQ")  # pad (of the first: page size), flags, depth, branches, leaves, overflows, n, root
_WORD = struct.Struct("=Q")
_HALVES, _PAGES = struct.Struct("=HH"), struct.Struct("=I")
_HEAD_BYTES = _PAGE.size
_TREES_AT = _HEAD_BYTES + _META.size
_ENDS_AT = _TREES_AT + 2 * _TREE.size  # last page, transaction number
_META_BYTES = _ENDS_AT + 2 * _WORD.size
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_FLAG = 1, 2, 4, 8
_BIG = 1  # a node's flag: its value lies on overflow pages
_INTEGER_KEYS = 8
_NONE = (1 << 64) - 1  # the root of an empty tree
_KEY_BYTES_MAX = 511
_DEPTH_MAX = 32
_OUT_OF_ORDER = "keys are out of order"


class Unreadable(Exception):  # noqa: N818  # says what the file is
    """Not a sound file; the text says in which way."""


class _Meta:
    """One of the two."""

    def __init__(self, data: bytes, number: int, page_bytes: int) -> None:
        at = number * page_bytes
        if len(data) < at + _META_BYTES:
            raise Unreadable("too short")
        own, _, flags, _, _ = _PAGE.unpack_from(data, at)
        magic, version, address, self.map_bytes = _META.unpack_from(data, at + _HEAD_BYTES)
        self.trees = [_TREE.unpack_from(data, at + _TREES_AT + n * _TREE.size) for n in (0, 1)]
        self.last_page, self.transaction = (_WORD.unpack_from(data, at + _ENDS_AT + n * _WORD.size)[0] for n in (0, 1))
        head = (own, flags, magic, version, address)
        if head != (number, _META_FLAG, _MAGIC, _VERSION, 0):
            raise Unreadable(f"meta page {number} is no meta page")
        if [tree[:2] for tree in self.trees] != [(page_bytes, _INTEGER_KEYS), (0, 0)]:
            raise Unreadable(f"meta page {number} describes other trees")


class _File:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._page_bytes = self._size_of_pages()
        metas = [_Meta(data, number, self._page_bytes) for number in (0, 1)]
        if metas[0].map_bytes != metas[1].map_bytes or len(data) > metas[0].map_bytes:
            raise Unreadable("the size of the map is wrong")
        self.meta = max(metas, key=lambda meta: meta.transaction)  # LMDB: the first, where both are alike
        if self.meta.last_page >= self.meta.map_bytes // self._page_bytes:
            raise Unreadable("the last page lies behind the map")
        self._used = {0, 1}
        self._counts = [0, 0, 0]  # branches, leaves and overflow pages of the tree that is being read
        self._last: tuple[int | bytes, bool] | None = None  # the key before, and whether the next may be the same
        self._key_of: Callable[[bytes], int | bytes] = bytes
        self._pages = min(self.meta.last_page + 1, len(data) // self._page_bytes)

    def _size_of_pages(self) -> int:
        if len(self._data) < _META_BYTES:
            raise Unreadable("too short")
        size = int(_TREE.unpack_from(self._data, _TREES_AT)[0])
        if size < 512 or size > 1 << 16 or size & size - 1:
            raise Unreadable("the size of the pages is wrong")
        return size

    def free_pages(self) -> None:
        """Pages that a later commit may write on: none of them is in use. They may lie behind the end of the file."""
        for value in (value for _, values in self.leaves(0) for value in values):
            count, *pages = struct.unpack_from(f"={len(value) // _WORD.size}Q", value)
            if count > len(pages):
                raise Unreadable("a list of free pages is cut off")
            for page in pages[:count]:
                if not 1 < page <= self.meta.last_page or page in self._used:
                    raise Unreadable(f"page {page} is free, but in use or not there")
                self._used.add(page)

    def leaves(self, number: int) -> Iterator[Leaf]:
        """All pairs of one tree, in order; at the end every count that its description has is compared."""
        _, _, depth, branches, leaves, overflows, entries, root = self.meta.trees[number]
        self._counts, self._last = [0, 0, 0], None
        self._key_of = _integer if number == 0 else bytes
        found = 0
        if root != _NONE:
            if not 0 < depth <= _DEPTH_MAX:
                raise Unreadable("a tree's depth is wrong")
            for leaf in self._walk(root, depth):
                found += len(leaf[0])
                yield leaf
        if [found, *self._counts] != [entries, branches, leaves, overflows]:
            raise Unreadable("a tree is not what its description says")

    def _take(self, number: int, count: int = 1) -> int:
        """Where a page begins; each is taken once."""
        for page in range(number, number + count):
            if not 1 < page < self._pages or page in self._used:
                raise Unreadable(f"page {page} is not there, or used twice")
            self._used.add(page)
        return number * self._page_bytes

    def _walk(self, number: int, depth: int) -> Iterator[Leaf]:
        at = self._take(number)
        own, _, flags, lower, _ = _PAGE.unpack_from(self._data, at)
        count = (lower - _HEAD_BYTES) // 2
        if (own, flags) != (number, _LEAF if depth == 1 else _BRANCH) or not 0 < count <= self._page_bytes // 4:
            raise Unreadable(f"page {number} is not the one that should be there")
        self._counts[flags == _LEAF] += 1
        pointers = struct.unpack_from(f"={count}H", self._data, at + _HEAD_BYTES)
        if depth == 1:
            yield self._leaf(at, pointers)
            return
        for index, pointer in enumerate(pointers):
            yield from self._branch(at, pointer, depth, first=not index)

    def _node(self, page_at: int, pointer: int) -> tuple[int, int, int, bytes, int]:
        """Low, high, flags, key, and where that ends: all within the page."""
        node, end = page_at + pointer, page_at + self._page_bytes
        if pointer < _HEAD_BYTES or node + _NODE.size > end:
            raise Unreadable("a node is outside its page")
        low, high, flags, length = _NODE.unpack_from(self._data, node)
        after = node + _NODE.size + length
        if length > _KEY_BYTES_MAX or after > end:
            raise Unreadable("a key is outside its page")
        return low, high, flags, self._data[node + _NODE.size : after], after

    def _branch(self, page_at: int, pointer: int, depth: int, *, first: bool) -> Iterator[Leaf]:
        """The key of the first one stands for all that come before the second's."""
        low, high, flags, key, _ = self._node(page_at, pointer)
        if not first:
            self._comes(self._key_of(key), or_same=True)
        yield from self._walk(low + (high << 16) + (flags << 32), depth - 1)

    def _leaf(self, page_at: int, pointers: Sequence[int]) -> Leaf:
        alike = self._alike(page_at, pointers)
        if alike is not None:
            return alike
        pairs = [self._pair(page_at, pointer) for pointer in pointers]
        return [key for key, _ in pairs], [value for _, value in pairs]

    def _alike(self, page_at: int, pointers: Sequence[int]) -> Leaf | None:
        """All nodes at once, None where they are not of one size, or not sound: `_pair` tells what is wrong."""
        page = self._data[page_at : page_at + self._page_bytes]
        head = page[pointers[0] : pointers[0] + _NODE.size]
        if len(head) < _NODE.size:
            return None
        low, high, flags, length = _NODE.unpack(head)
        value_at = _NODE.size + length
        size = value_at + low + (high << 16)
        if flags or length > _KEY_BYTES_MAX or min(pointers) < _HEAD_BYTES or max(pointers) + size > len(page):
            return None
        nodes = [page[pointer : pointer + size] for pointer in pointers]
        joined = b"".join(nodes)
        if any(joined[at::size] != head[at : at + 1] * len(nodes) for at in range(_NODE.size)):
            return None
        keys = [node[_NODE.size : value_at] for node in nodes]
        ranks: Sequence[Any] = keys if self._key_of is bytes else [self._key_of(key) for key in keys]
        self._comes(ranks[0], or_same=False)
        if not all(map(operator.lt, ranks, islice(ranks, 1, None))):
            raise Unreadable(_OUT_OF_ORDER)
        self._last = ranks[-1], False
        return keys, [node[value_at:] for node in nodes]

    def _pair(self, page_at: int, pointer: int) -> tuple[bytes, bytes]:
        low, high, flags, key, after = self._node(page_at, pointer)
        self._comes(self._key_of(key), or_same=False)
        size = low + (high << 16)
        if flags == _BIG and after + _WORD.size <= page_at + self._page_bytes:
            return key, self._overflow(_WORD.unpack_from(self._data, after)[0], size)
        if flags or after + size > page_at + self._page_bytes:
            raise Unreadable("a value is outside its page")
        return key, self._data[after : after + size]

    def _comes(self, key: int | bytes, *, or_same: bool) -> None:
        """Keys come in order. A branch's may be that of the leaf's first, which comes next."""
        if self._last is not None and not self._is_after(key, *self._last):
            raise Unreadable(_OUT_OF_ORDER)
        self._last = key, or_same

    @staticmethod
    def _is_after(key: Any, last: Any, or_same: bool) -> bool:
        return bool(key >= last if or_same else key > last)

    def _overflow(self, number: int, size: int) -> bytes:
        if not 1 < number < self._pages:
            raise Unreadable("an overflow page is not there")
        own, _, flags, low, high = _PAGE.unpack_from(self._data, number * self._page_bytes)
        count = _PAGES.unpack(_HALVES.pack(low, high))[0]  # more than are needed, where the value was longer once
        if (own, flags) != (number, _OVERFLOW) or not _HEAD_BYTES + size <= count * self._page_bytes <= len(self._data):
            raise Unreadable(f"page {number} is no such overflow page")
        at = self._take(number, count)
        self._counts[2] += count
        return self._data[at + _HEAD_BYTES : at + _HEAD_BYTES + size]


def _integer(key: bytes) -> int:
    if len(key) != _WORD.size:
        raise Unreadable("a transaction's number is no number")
    return int(_WORD.unpack(key)[0])


def read(path: Path) -> Iterator[Leaf]:
    """Every pair that a file holds, in the order of the keys; whoever has asked for all of them knows it to be sound.

    Raises OSError, and Unreadable where it is not.
    """
    file = _File(path.read_bytes())
    yield from file.leaves(1)
    file.free_pages()
