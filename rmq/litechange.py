"""What one call changes of what a client subscribes, and of who else does. Pure: no store, no clock.

In an exclusive group (RocketMQ 5.5: lite.sub.model) a client that names a lite topic takes it over from whoever had it.
The whole set, which clients say every 30 s, takes nothing over: else a client that missed its notice would take back,
unasked, what it lost. What another one has is left out of such a set, and the client that says it is told so again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rmq.port import LiteAction


class LiteChange(NamedTuple):
    """By key. `placed`: the group's place in them is looked at; `taken`: who loses them; `refused`: the client asks for
    them in vain.
    """

    added: Mapping[int, str]
    removed: Sequence[int]
    placed: Mapping[int, str]
    taken: Mapping[int, Sequence[str]]
    refused: Mapping[int, str]


def change_of(
    action: LiteAction, named: Mapping[int, str], mine: Collection[int], others: Mapping[int, Sequence[str]]
) -> LiteChange:
    """`mine`: keys of what the client subscribes; `others`: who else subscribes what, where that excludes it."""
    if action == "remove":
        return LiteChange({}, [key for key in mine if key in named], {}, {}, {})
    added = {key: name for key, name in named.items() if key not in mine}
    if action == "add":
        return LiteChange(added, [], named, {key: others[key] for key in named if key in others}, {})
    free = {key: name for key, name in added.items() if key not in others}
    refused = {key: name for key, name in added.items() if key in others}
    return LiteChange(free, [key for key in mine if key not in named], free, {}, refused)
