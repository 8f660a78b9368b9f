"""The queue of a message group: recorded choices of Apache's hash."""

import pytest

from rmq.shard import queue_of

QUEUES = (1, 2, 3, 4, 8, 16, 100, 1024)
RECORDED = {  # Guava 31.0.1, Hashing.consistentHash(name.hashCode(), queues)
    "a": (0, 0, 0, 0, 0, 0, 29, 346),
    "A": (0, 0, 0, 0, 0, 11, 96, 798),
    "order-1": (0, 0, 0, 3, 3, 3, 3, 489),
    "order-2": (0, 0, 2, 2, 2, 11, 46, 184),
    "order-3": (0, 1, 1, 3, 7, 7, 35, 666),
    "user-4711": (0, 1, 1, 1, 7, 7, 89, 629),
    "äöü": (0, 0, 0, 0, 4, 13, 64, 64),
    "中文": (0, 0, 0, 3, 3, 3, 80, 401),
    "\N{GRINNING FACE}": (0, 1, 1, 1, 4, 4, 31, 748),
    "polygenelubricants": (0, 1, 2, 2, 2, 2, 58, 185),
    "x-" + "1234567890" * 6: (0, 0, 0, 0, 0, 0, 99, 170),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_group_goes_where_apache_sends_it(name: str) -> None:
    """Hashes below zero and names beyond ASCII included."""
    assert tuple(queue_of(name, queues) for queues in QUEUES) == RECORDED[name]


def test_more_queues_move_few_groups() -> None:
    """And only to the new one."""
    moved = {queue_of(f"g{n}", 9) for n in range(500) if queue_of(f"g{n}", 9) != queue_of(f"g{n}", 8)}
    assert moved == {8}
