"""What the admin port's tests share: the port, short forms of its verbs, views of its answers."""

from collections.abc import Callable, Sequence

import pytest

from rmq import message as m
from rmq.admin import Admin
from rmq.adminport import GroupTopicInfo, Kept, Page
from rmq.errors import ClientError, Code
from tests.rmq.rig import GROUP, TOPIC, Rig, request

OTHER = "shipping"
DLQ = m.DLQ_PREFIX + GROUP
RETRY = m.RETRY_PREFIX + GROUP


def texts(found: Page | Sequence[Kept]) -> list[str]:
    """Bodies, in order."""
    messages = found.messages if isinstance(found, Page) else found
    return [kept.body.decode() for kept in messages]


def admin(rig: Rig) -> Admin:
    """The port under test."""
    return rig.broker.admin


def refused(call: Callable[[], object]) -> tuple[Code, str]:
    """How a call is refused."""
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.code, caught.value.text


def of_topic(rig: Rig, group: str = GROUP, topic: str = TOPIC, open_max: int = 0) -> GroupTopicInfo:
    """What the group holds of one topic."""
    (found,) = [one for one in admin(rig).group_info(group, open_max=open_max).topics if one.topic == topic]
    return found


def make(rig: Rig, topic: str = TOPIC, queues: int = 1, group: str = GROUP, attempts_max: int = 0) -> None:
    """A topic and a group."""
    rig.wait(admin(rig).put_topic(topic, None, queues))
    rig.wait(admin(rig).put_group(group, attempts_max, None))


def bury_all(rig: Rig, *names: str, group: str = GROUP) -> None:
    """Sends them, and the group gives up on each at once."""
    for name in names:
        rig.send(name)
        rig.bury(rig.one(request(group=group)).handle, group)


def replay(rig: Rig, *ids: str) -> int:
    """How many are with the group then."""
    return rig.wait(admin(rig).replay(GROUP, ids))


def letters(rig: Rig, limit: int = 100) -> list[str]:
    """Those that are listed."""
    return texts(admin(rig).dead_letters(GROUP, limit))


def find(rig: Rig, topic: str = TOPIC, **wanted: str) -> list[tuple[str, str]]:
    """Topic and body of what is found."""
    found = rig.wait(admin(rig).find(topic, **wanted))  # type: ignore[arg-type]  # message_id or key
    return [(kept.topic, kept.body.decode()) for kept in found]
