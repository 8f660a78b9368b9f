"""Apache 4.9.7 and 5.5.0 each open an export of a store that our server wrote, and Java consumers read all of it.

The store has seen a stop and a kill -9, and holds what a store can: several segments, state at the head of each,
journal records between messages, settled, leased and dead messages, transactions that ended, compressed and foreign
text.
"""

import base64
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rmq_proto import v2
from rmq_store import halves, journal
from rmq_store.commitlog import CommitLog
from rmq_store.disk import RealDisk
from rmq_store.export import export
from rmq_store.record import (
    BLANK,
    MAGIC,
    MAGIC_BLANK,
    SYS_FLAG_COMMIT,
    SYS_FLAG_TRANSACTION_MASK,
    Record,
)
from tests.clients.builders import UnavailableError
from tests.compat.apache import Apache, Line
from tests.process import wire
from tests.process.client import Client
from tests.serving import Server

pytestmark = [pytest.mark.foreign, pytest.mark.slow]

SEGMENT_BYTES = 256 << 10
ENV = {"RMQ_SEGMENT_BYTES": "256KiB", "RMQ_RESERVE_BYTES": "64KiB", "RMQ_POLL_MS_MIN": "0"}
TAGS = ("TagA", "标签", "order_created_event", "")
TOPIC, GROUP = "orders", "workers"
DONE_TOPIC, DONE_GROUP = "receipts", "archive"
PAID_TOPIC = "payments"
RETRY, DEAD = f"%RETRY%{GROUP}", f"%DLQ%{GROUP}"


@dataclass
class Written:
    """What we know of the store from our side of the wire: messages by id, and what became of them."""

    data: Path
    out: Path = field(default_factory=Path)
    sent: dict[str, v2.Message] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    end: int = 0
    records: list[Record] = field(default_factory=list)


def message(topic: str, number: int) -> v2.Message:
    """The `number`th message: 1 KiB, every eleventh compressed, every third with properties of the user's."""
    made = wire.message(topic, number.to_bytes(2, "big") * 512, f"01{number:032X}")
    if number % 11 == 0:
        made.body = zlib.compress(made.body)
        made.system_properties.body_encoding = v2.GZIP
    if tag := TAGS[number % len(TAGS)]:
        made.system_properties.tag = tag
    made.system_properties.keys.extend((f"key{number}", "shared"))
    if number % 3 == 0:
        made.user_properties["Gruß"] = f"wert-äöü-😀 {number}"
    return made


def send(client: Client, written: Written, topic: str, count: int) -> None:
    """In calls of ten messages."""
    for _ in range(0, count, 10):
        batch = [message(topic, len(written.sent) + i) for i in range(10)]
        answer = client.send(*batch)
        for made, entry in zip(batch, answer.entries, strict=True):
            assert entry.status.code == 20000, entry.status.message
            written.sent[made.system_properties.message_id] = made
            written.offsets[made.system_properties.message_id] = entry.offset


def consume(client: Client, written: Written) -> None:
    """Of 32 messages: two are dead-lettered, every second one is acked, the others stay leased."""
    received = client.receive(wire.receive(TOPIC, GROUP, invisible_ms=600_000)).messages
    assert len(received) == 32
    for number, got in enumerate(received):
        handle, id_ = got.system_properties.receipt_handle, got.system_properties.message_id
        if number < 2:
            request = wire.dead_letter(TOPIC, GROUP, handle)
            decode = v2.ForwardMessageToDeadLetterQueueResponse.FromString
            assert client.ask("ForwardMessageToDeadLetterQueue", request, decode).status.code == 20000
            written.dead.add(id_)
        elif number % 2:
            assert client.ack(TOPIC, GROUP, handle).status.code == 20000
            written.acked.add(id_)


def archive(client: Client) -> None:
    """The group that settles every message of its topic."""
    received = client.receive(wire.receive(DONE_TOPIC, DONE_GROUP))
    assert len(received.messages) == 20
    assert client.ack(DONE_TOPIC, DONE_GROUP, *received.handles).status.code == 20000


def transact(client: Client, written: Written) -> None:
    """Of two transactions one is committed, one is rolled back."""
    for commit in (True, False):
        made = message(PAID_TOPIC, len(written.sent))
        made.system_properties.message_type = v2.TRANSACTION
        (entry,) = client.send(made).entries
        request = wire.end(PAID_TOPIC, entry.transaction_id, commit=commit)
        assert v2.EndTransactionResponse.FromString(client.unary("EndTransaction", request)).status.code == 20000
        if commit:
            written.sent[made.system_properties.message_id] = made


def work(endpoint: str, written: Written, *, first: bool) -> None:
    """One run of the server from a client's side."""
    client = Client(endpoint)
    if first:
        send(client, written, DONE_TOPIC, 20)
        archive(client)
    send(client, written, TOPIC, 200)
    consume(client, written)
    transact(client, written)
    client.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A store of ours and its export."""
    home = tmp_path_factory.mktemp("store")
    made = Written(home / "data", home / "export")
    with Server(env=ENV, data=made.data) as server:
        work(server.endpoint, made, first=True)
        server.restart()
        work(server.endpoint, made, first=False)
        server.kill()
        server.restart()
        work(server.endpoint, made, first=False)
    made.end = export(made.data, made.out).end
    made.records = scan(made.out)
    paid = [record for record in made.records if record.topic == PAID_TOPIC]
    assert {record.sys_flag & SYS_FLAG_TRANSACTION_MASK for record in paid} == {SYS_FLAG_COMMIT}
    made.offsets |= {record.decode_properties()["UNIQ_KEY"]: record.queue_offset for record in paid}
    return made


def scan(store: Path) -> list[Record]:
    """Every record of a store's log."""
    log = CommitLog(RealDisk(store), segment_bytes=SEGMENT_BYTES, reserve_bytes=SEGMENT_BYTES)
    found = [record for record in log.scan(log.begin) if isinstance(record, Record)]
    log.close()
    return found


def messages_of(written: Written) -> dict[tuple[str, int, int], Record]:
    """By topic, queue and queue offset."""
    return {
        (record.topic, record.queue_id, record.queue_offset): record
        for record in written.records
        if record.topic not in (journal.TOPIC_TEXT, halves.TOPIC)
    }


def ends_of(written: Written) -> dict[tuple[str, int], int]:
    """The next offset of each queue that has messages."""
    ends: dict[tuple[str, int], int] = {}
    for topic, queue_id, offset in messages_of(written):
        ends[topic, queue_id] = max(ends.get((topic, queue_id), 0), offset + 1)
    return ends


def exported_offsets(written: Written) -> dict[str, dict[str, int]]:
    """What the export says of the groups' places."""
    config = json.loads((written.out / "config" / "consumerOffset.json").read_text())
    table: dict[str, dict[str, int]] = config["offsetTable"]
    return table


@dataclass
class Opened:
    """A running Apache on its copy of the export. `lines`: what it showed before anyone sent or consumed."""

    apache: Apache
    data: Path
    lines: list[Line]

    def of(self, kind: str) -> list[Line]:
        """Lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]


@pytest.fixture(scope="module", params=["4.9.7", "5.5.0"])
def opened(
    request: pytest.FixtureRequest, written: Written, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    """Each version in turn."""
    home = tmp_path_factory.mktemp("apache")
    shutil.copytree(written.out, home / "store")
    extra = (f"mappedFileSizeCommitLog = {SEGMENT_BYTES}", "diskMaxUsedSpaceRatio = 95")
    try:
        apache = Apache(request.param, home / "store", home, *extra)
    except UnavailableError as reason:
        pytest.skip(f"Apache {request.param}: {reason}")
    with apache:
        yield Opened(apache, home / "store", apache.ask("read", TOPIC, DONE_TOPIC, PAID_TOPIC, DEAD))


def test_the_store_holds_what_has_to_be_proven(written: Written) -> None:
    """Else the tests below say less than they seem to: rolls; journal at a segment's head, in between, at the end."""
    segments = sorted((written.out / "commitlog").iterdir())
    assert len(segments) >= 3
    assert {path.stat().st_size for path in segments} == {SEGMENT_BYTES}
    topics = [record.topic for record in written.records]
    assert topics[-1] == journal.TOPIC_TEXT
    heads = [r.topic for r in written.records if r.position % SEGMENT_BYTES == 0]
    assert len(heads) == len(segments)
    assert journal.TOPIC_TEXT in topics[10:-10]
    assert sum(1 for path in segments if _ends_with_blank(path.read_bytes(), written)) == len(segments) - 1
    for record in written.records:
        data = segments[record.position // SEGMENT_BYTES].read_bytes()
        assert b"__CRC32#\x01" in data[record.position % SEGMENT_BYTES :][: record.size][-20:]


def _ends_with_blank(data: bytes, written: Written) -> bool:
    """Whether a segment's last record is followed by the terminator that says how much is left."""
    ends = {(r.position + r.size) % SEGMENT_BYTES for r in written.records}
    return any(BLANK.unpack_from(data, at) == (SEGMENT_BYTES - at, MAGIC_BLANK) for at in ends if at <= len(data) - 8)


def test_every_queue_is_as_long_as_ours(written: Written, opened: Opened) -> None:
    """From its first message to its end, rebuilt by Apache from our log."""
    shown = {(line["topic"], line["queueId"]): line["end"] for line in opened.of("queue") if line["end"]}
    assert shown == {key: end for key, end in ends_of(written).items() if key[0] != RETRY}
    assert {line["first"] for line in opened.of("queue")} == {0}


def test_every_message_is_read_as_it_lies_in_our_log(written: Written, opened: Opened) -> None:
    """Topic, queue, offset, position, size, and the id that the position makes."""
    shown = {(m["topic"], m["queueId"], m["queueOffset"]): (m["position"], m["size"]) for m in opened.of("message")}
    assert shown == {key: (r.position, r.size) for key, r in messages_of(written).items() if key[0] != RETRY}
    for line in opened.of("message"):
        assert line["offsetId"] == f"7F00000100002A9F{line['position']:016X}"


def test_every_message_is_read_as_it_was_sent(written: Written, opened: Opened) -> None:
    """Body, id, tag, keys and properties, at the queue offset that the sender was told."""
    shown = {line["id"]: line for line in opened.of("message") if line["topic"] != DEAD}
    assert shown.keys() == written.sent.keys()
    for id_, sent in written.sent.items():
        line, system = shown[id_], sent.system_properties
        body = zlib.decompress(sent.body) if system.body_encoding == v2.GZIP else sent.body
        assert base64.b64decode(line["body"]) == body
        assert line["queueOffset"] == written.offsets[id_]
        assert line.get("tags", "") == system.tag
        assert line["keys"].split() == list(system.keys)
        assert {k: v for k, v in line["properties"].items() if k in sent.user_properties} == sent.user_properties


def test_dead_letters_are_read_with_their_origin(written: Written, opened: Opened) -> None:
    """Those that the client gave up, each with the topic and id that it came from."""
    dead = [line for line in opened.of("message") if line["topic"] == DEAD]
    assert {line["properties"]["DLQ_ORIGIN_MESSAGE_ID"] for line in dead} == written.dead
    assert {line["properties"]["DLQ_ORIGIN_TOPIC"] for line in dead} == {TOPIC}


def test_the_journal_is_no_topic(opened: Opened) -> None:
    """Apache makes neither a queue nor a route of it."""
    assert journal.TOPIC_TEXT not in {path.name for path in (opened.data / "consumequeue").iterdir()}
    assert journal.TOPIC_TEXT not in (opened.data / "config" / "topics.json").read_text()


def test_groups_go_on_where_they_were(written: Written, opened: Opened) -> None:
    """The settled topic's group has nothing left; the other's place lies behind no message that is not settled."""
    ends = ends_of(written)
    shown = {line["queueId"]: line["next"] for line in opened.apache.ask("offsets", DONE_GROUP, DONE_TOPIC)}
    assert shown == {queue_id: ends.get((DONE_TOPIC, queue_id), 0) for queue_id in shown}
    places = {line["queueId"]: line["next"] for line in opened.apache.ask("offsets", GROUP, TOPIC)}
    assert {str(q): n for q, n in places.items()} == exported_offsets(written)[f"{TOPIC}@{GROUP}"]
    settled = written.acked | written.dead
    for line in opened.of("message"):
        if line["topic"] == TOPIC and line["id"] not in settled:
            assert line["queueOffset"] >= places[line["queueId"]]


def test_old_messages_are_found_by_key(written: Written, opened: Opened) -> None:
    """Apache builds its key index from the log as well."""
    id_, sent = next((i, s) for i, s in written.sent.items() if s.topic.name == TOPIC)
    found = opened.apache.ask("find", TOPIC, sent.system_properties.keys[0])
    assert [line.get("id") for line in found] == [id_]


def test_a_push_consumer_gets_all_that_is_not_settled(written: Written, opened: Opened) -> None:
    """Nothing that the group still needs is missing; two messages that it sends back come again."""
    left = sum(
        end - exported_offsets(written)[f"{TOPIC}@{GROUP}"][str(queue_id)]
        for (topic, queue_id), end in ends_of(written).items()
        if topic == TOPIC
    )
    got = opened.apache.ask("push", GROUP, TOPIC, str(left), "2")
    wanted = {i for i, s in written.sent.items() if s.topic.name == TOPIC} - written.acked - written.dead
    assert wanted <= {line["id"] for line in got}
    assert sum(1 for line in got if line["attempts"] == 1) == 2


def test_apache_goes_on_right_behind_our_end(written: Written, opened: Opened) -> None:
    """The next message gets the queue offset that ours would have given. After a clean stop every byte up to our end
    is still ours, and what Apache wrote begins right there. (The last test: the broker is gone afterwards.)
    """
    sent = opened.apache.ask("send", DONE_TOPIC, "1", "one more")
    assert [line["queueOffset"] for line in sent] == [ends_of(written)[DONE_TOPIC, 1]]
    opened.apache.stop()
    ours = _log_bytes(written.out, lambda base: True)
    theirs = _log_bytes(opened.data, lambda base: base < len(ours))
    assert theirs[: written.end] == ours[: written.end]
    assert int.from_bytes(theirs[written.end + 4 : written.end + 8], "big") == MAGIC
    assert not (opened.data / "abort").exists()


def _log_bytes(store: Path, wanted: Callable[[int], bool]) -> bytes:
    return b"".join(p.read_bytes() for p in sorted((store / "commitlog").iterdir()) if wanted(int(p.name)))
