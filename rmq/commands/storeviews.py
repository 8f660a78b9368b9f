"""What `rmq store` shows of a store: layout, recovered state, verdict, records; as JSON and as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rmq import output
from rmq.commands.views import backoff_document
from rmq.groups import policy
from rmq.message import KEYS, TAGS, UNIQ_KEY, MessageType
from rmq_store import journal
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.inspection import Inspection
from rmq_store.ledger import Ledger
from rmq_store.record import Record, host_text
from rmq_store.repair import Plan, Step, derived

TOPIC_COLUMNS = ("TOPIC", "TYPE", "QUEUES", "MESSAGES")
PLACE_COLUMNS = ("GROUP", "TOPIC", "QUEUE", "COMMITTED", "NEXT", "MAX", "OPEN")
FILE_COLUMNS = ("FILES", "COUNT", "LENGTH", "ON DISK")
PARTS = ("commitlog", "consumequeue", "index", "rmq", "config")
BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are


# -- inspect -----------------------------------------------------------------------------------------------------------


def inspected(found: Inspection) -> dict[str, Any]:
    """After a replay of all."""
    return {
        "data": str(found.root.absolute()),
        "format": found.format,
        "begin": found.begin,
        "end": found.end,
        "segment_bytes": found.log.segment_bytes if found.log.segments else 0,
        "files": [dict(zip(("name", "count", "bytes", "disk_bytes"), row, strict=True)) for row in _parts(found.root)],
        "topics": [_topic(found, name) for name in sorted(found.state.topics)],
        "groups": [_group(found, name) for name in _group_names(found)],
        "open_messages": found.state.leases.open_count,
        "damaged_ranges": len(found.damaged),
        "starts": found.state.start_number,
    }


def print_inspected(found: Inspection) -> None:
    """The same as text."""
    content = inspected(found)
    kept = output.size(found.end - found.begin)
    output.line(f"{content['data']}: format {content['format'] or 'unknown'}, start number {content['starts']}")
    output.line(f"log: bytes {found.begin} to {found.end} ({kept}), {len(found.log.segments)} segments")
    if found.damaged:
        output.line(f"DAMAGED: {len(found.damaged)} ranges; `rmq store check` says which")
    output.line()
    rows = [
        (one["name"], one["count"], output.size(one["bytes"]), output.size(one["disk_bytes"]))
        for one in content["files"]
    ]
    output.table(FILE_COLUMNS, rows)
    output.line()
    output.table(TOPIC_COLUMNS, [(t["name"], t["type"], len(t["queues"]), _messages(t)) for t in content["topics"]])
    output.line()
    output.table(PLACE_COLUMNS, [(g["name"], *place.values()) for g in content["groups"] for place in g["places"]])


def _parts(root: Path) -> Iterator[tuple[str, int, int, int]]:
    """Per folder: files, their length, and what they take: the log's files are sparse."""
    for name in PARTS:
        stats = [path.stat() for path in (root / name).rglob("*") if path.is_file()]
        if stats:
            yield name, len(stats), sum(s.st_size for s in stats), sum(s.st_blocks * BLOCK_BYTES for s in stats)


def _topic(found: Inspection, name: str) -> dict[str, Any]:
    topic = found.state.topics[name]
    queues = [{"id": q.queue_id, "min_offset": q.min_offset, "max_offset": q.max_offset} for q in topic.queues]
    return {"name": name, "type": MessageType(topic.type).name, "queues": queues}


def _messages(topic: dict[str, Any]) -> int:
    return sum(queue["max_offset"] - queue["min_offset"] for queue in topic["queues"])


def _group_names(found: Inspection) -> list[str]:
    """Those that were made, and those that only have a place."""
    return sorted({*found.state.groups, *(group for group, _ in found.state.leases.subscriptions)})


def _group(found: Inspection, name: str) -> dict[str, Any]:
    put = found.state.groups.get(name)
    mine = [s for (group, _), s in sorted(found.state.leases.subscriptions.items()) if group == name]
    return {
        "name": name,
        "attempts_max": put.attempts_max if put else 0,
        "retry_ms": list(put.steps_ms) if put else [],
        "backoff": backoff_document(policy(put)) if put and not put.steps_ms else None,
        "places": [_place(found, s.topic, s.ledgers[queue_id]) for s in mine for queue_id in sorted(s.ledgers)],
    }


def _place(found: Inspection, topic: str, ledger: Ledger) -> dict[str, Any]:
    queue = found.state.queue(topic, ledger.queue_id)
    return {
        "topic": topic,
        "queue_id": ledger.queue_id,
        "committed_offset": ledger.committed(),
        "next_offset": ledger.next,
        "max_offset": queue.max_offset if queue else 0,
        "open": len(ledger.open),
    }


# -- check -------------------------------------------------------------------------------------------------------------


class Checked:
    """What a scan of the whole log met. `damaged`: what cannot be read though it was there; `derived`: what is wrong in
    what is made from the log; `body_only`: records without a checksum of the whole, as Apache writes them.
    """

    def __init__(self) -> None:
        self.messages = self.journal_records = 0
        self.first_ms = self.last_ms = 0
        self.damaged: list[Gap] = []
        self.derived: list[Step] = []
        self.body_only = 0
        self.unfinished = False
        self.checkpoint_end: int | None = None

    def count(self, log: CommitLog, found: Record | Gap) -> None:
        """One step of the scan."""
        if isinstance(found, Gap):
            return
        if found.topic == journal.TOPIC_TEXT:
            self.journal_records += 1
        else:
            self.messages += 1
        self.body_only += not log.has_checksum(found)
        self.first_ms = self.first_ms or found.store_ms
        self.last_ms = found.store_ms

    def finish(self, found: Inspection) -> None:
        """The scan is over. What the checkpoint knew and the log lacks is damage: no crash leaves that."""
        self.damaged = list(found.damaged)
        self.checkpoint_end = found.checkpoint_end()
        if self.checkpoint_end is not None and self.checkpoint_end > found.end:
            self.damaged.append(Gap(found.end, self.checkpoint_end))
        else:
            self.unfinished = found.has_unfinished()
        self.derived = derived(found.root)

    def document(self, found: Inspection) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "data": str(found.root.absolute()),
            "ok": not self.damaged,
            "begin": found.begin,
            "end": found.end,
            "segments": len(found.log.segments),
            "records": self.messages + self.journal_records,
            "messages": self.messages,
            "journal_records": self.journal_records,
            "first_stored_ms": self.first_ms,
            "last_stored_ms": self.last_ms,
            "checkpoint_end": self.checkpoint_end,
            "unfinished": self.unfinished,
            "damaged": [{"start": gap.start, "end": gap.end} for gap in self.damaged],
            "derived": [msgspec.structs.asdict(step) for step in self.derived],
            "body_checksum_only": self.body_only,
        }

    def print(self, found: Inspection) -> None:
        """The report as text, the verdict last."""
        output.line(
            f"{found.root}: {self.messages} messages and {self.journal_records} records of the journal "
            f"in bytes {found.begin} to {found.end} ({output.size(found.end - found.begin)})"
        )
        if self.first_ms:
            output.line(f"stored from {output.moment(self.first_ms)} to {output.moment(self.last_ms)}")
        if self.unfinished:
            output.line(f"unfinished bytes behind {found.end}, as a crash leaves them: the next start cuts them off")
        for gap in self.damaged:
            output.line(f"damaged: bytes {gap.start} to {gap.end} ({gap.end - gap.start} bytes)")
        for step in self.derived:
            output.line(f"damaged: {step.path} bytes {step.start} to {step.end}: {step.why}")
        if self.body_only:
            output.line(
                f"{self.body_only} records came from Apache: a checksum of their body only, the rest is not known"
            )
        lost = sum(gap.end - gap.start for gap in self.damaged)
        output.line(
            f"DAMAGED: {lost} bytes in {len(self.damaged)} ranges; a server serves the rest, restore a copy for these"
            if self.damaged
            else "ok: the log is whole, and a server makes the rest anew"
            if self.derived
            else "ok"
        )


# -- repair ------------------------------------------------------------------------------------------------------------


def repaired(plan: Plan, *, done: bool) -> dict[str, Any]:
    """What was done, or would be, as JSON."""
    return {
        "data": str(plan.root.absolute()),
        "done": done,
        "steps": [msgspec.structs.asdict(step) for step in plan.steps],
        "bytes_given_up": plan.given_up,
        "lost": [msgspec.structs.asdict(lost) for lost in plan.lost],
        "body_checksum_only": plan.body_only,
        "kept": plan.kept,
    }


def print_plan(plan: Plan) -> None:
    """What is wrong, and what it costs."""
    for step in plan.steps:
        output.line(f"{step.action}: {step.path} bytes {step.start} to {step.end}: {step.why}")
    for lost in plan.lost:
        output.line(f"lost: {lost.topic} queue {lost.queue_id} offsets {lost.start} to {lost.end}")
    if plan.body_only:
        output.line(f"{plan.body_only} records came from Apache: a checksum of their body only, the rest is not known")
    if plan.given_up:
        output.line(f"{plan.given_up} bytes of the log are given up; leases and acks in them, too: delivered again")


def print_repaired(plan: Plan, *, done: bool) -> None:
    """The last line."""
    for path in plan.kept:
        output.line(f"kept: {path}")
    output.line("nothing to repair" if not plan.steps else "repaired" if done else "nothing was changed")


# -- dump --------------------------------------------------------------------------------------------------------------


def topic_of(found: Record | Gap) -> str:
    """Empty for damaged bytes."""
    return found.topic if isinstance(found, Record) else ""


def dumped(found: Record | Gap) -> dict[str, Any]:
    """One record as JSON: `kind` is message, journal or damaged."""
    if isinstance(found, Gap):
        return {"kind": "damaged", "position": found.start, "size": found.end - found.start}
    if found.topic == journal.TOPIC_TEXT:
        head = {"kind": "journal", "position": found.position, "size": found.size, "stored_ms": found.store_ms}
        return head | {"entries": list(_entries(found))}
    return {
        "kind": "message",
        "position": found.position,
        "size": found.size,
        "topic": found.topic,
        "queue_id": found.queue_id,
        "offset": found.queue_offset,
        "sys_flag": found.sys_flag,
        "born_ms": found.born_ms,
        "born_host": host_text(found.born_host),
        "stored_ms": found.store_ms,
        "reconsume_times": found.reconsume_times,
        "properties": found.decode_properties(),
        **output.body_fields(found.body),
    }


def _entries(found: Record) -> Iterator[dict[str, Any]]:
    """The journal's entries by their names in rmq_store/journal.py; one that a newer rmq wrote says so."""
    try:
        for change in journal.decode(found.body):
            yield {"entry": type(change).__name__, **msgspec.structs.asdict(change)}
    except journal.UnknownJournal as error:
        yield {"entry": "unknown", "why": str(error)}


def print_dumped(found: Record | Gap) -> None:
    """One record as text, each journal entry on a line below it."""
    if isinstance(found, Gap):
        output.line(f"{found.start} DAMAGED {found.end - found.start} bytes")
        return
    head = f"{found.position} {found.size} {output.moment(found.store_ms)}"
    if found.topic == journal.TOPIC_TEXT:
        output.line(f"{head} journal")
        for entry in _entries(found):
            fields = " ".join(f"{key}={value}" for key, value in entry.items() if key != "entry")
            output.line(f"    {entry['entry']} {fields}")
        return
    properties = found.decode_properties()
    labels = "".join(f" {key}={properties[key]}" for key in (UNIQ_KEY, TAGS, KEYS) if properties.get(key))
    output.line(f"{head} {found.topic} {found.queue_id}@{found.queue_offset}{labels} {output.body_shown(found.body)}")
