"""A message that is stored under another topic than its own until its time has come: delayed ones and half ones.

The record under the system's topic says where the message goes (REAL_TOPIC, REAL_QID); the real message says with
RMQ_ORIGIN which record it stands for. Whose they are, and when, is delay.py's and transaction.py's.
"""

from collections.abc import Mapping, Sequence

from rmq_store import record
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store
from rmq_store.timers import REAL_QUEUE, REAL_TOPIC

PLACE = (REAL_TOPIC, REAL_QUEUE)
_HIDDEN = f"%b%b{REAL_TOPIC}\x01%b\x02{REAL_QUEUE}\x01%d\x02".encode()


def hide(draft: Draft, topic: bytes, own: bytes) -> Draft:
    """The record that waits under `topic`; `own`: what it has, encoded, besides the message's properties and place."""
    properties = _HIDDEN % (draft.properties, own, draft.topic, draft.queue_id)
    return Draft.make(
        topic, 0, draft.body, properties, draft.sys_flag, draft.born_ms, draft.born_host, draft.born_port,
        draft.reconsume_times,
    )  # fmt: skip


def reveal(
    kept: Record, properties: Mapping[str, str], topic: Topic, queue_id: int, origin: Origin, without: Sequence[str]
) -> tuple[Draft, int]:
    """The real message, and its tags code. `properties` are the waiting record's, `without`: those that it leaves."""
    left = {name: value for name, value in properties.items() if name not in without and name not in PLACE}
    left[Origin.PROPERTY] = origin.text()
    draft = Draft.make(
        topic.name_bytes, queue_id, kept.body, record.encode_properties(left), kept.sys_flag, kept.born_ms,
        kept.born_host, kept.born_port, kept.reconsume_times,
    )  # fmt: skip
    return draft, record.tags_code(left.get("TAGS", ""))


def read(store: Store, topic: str, number: int) -> Record | None:
    """A record that waits under `topic`, by its current number; None where it is lost, gone or not there yet."""
    queue = store.state.queue(topic, 0)
    entries = queue.read(number, 1) if queue is not None else []
    if queue is None or not entries:
        return None
    if entries[0].position >= store.log.written:
        store.log.write()  # sent in this very turn, and a test's clock has moved on
    return store.read(queue, number, entries[0])
