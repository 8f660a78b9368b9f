"""The queue that a message group's messages go to.

It is the one that Apache's proxy picks (RocketMQ 5.5: Guava's consistent hash over Java's hash of the name), so
that a group stays where it is when a store is taken over, whatever the clients of the two sides hash with.
"""

import functools

from rmq.filter import java_hash

_KEPT = 16_384  # groups whose queue is remembered: a client's names fill at most a few MB
_MASK = (1 << 64) - 1
_MULTIPLIER = 2_862_933_555_777_941_757  # of the linear congruential generator in "A Fast, Minimal Memory,
_DRAW_BITS = 31  # Consistent Hash Algorithm" (Lamping, Veach); Guava draws 31 bits of each state


@functools.lru_cache(_KEPT)
def queue_of(message_group: str, queues: int) -> int:
    """The queue id, below `queues`, of all messages of a group."""
    state = java_hash(message_group) & _MASK
    candidate = 0
    while True:
        state = (_MULTIPLIER * state + 1) & _MASK
        draw = ((state >> (64 - _DRAW_BITS)) + 1) / (1 << _DRAW_BITS)
        following = int((candidate + 1) / draw)
        if following >= queues:
            return candidate
        candidate = following
