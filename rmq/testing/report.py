"""What a failing test's report shows of its server: every topic's last messages, and what nobody acknowledged.

Promises a bounded text, and that it never raises: a server that is gone is a line of the text.
"""

from collections.abc import Iterator

from rmq.testing.seen import Group, Lease, Message, Topic, Views

TEXT_CHARS_MAX = 8000
TOPICS_SHOWN = 20
MESSAGES_SHOWN = 10
LEASES_SHOWN = 20
BODY_CHARS_SHOWN = 120


def report(server: Views) -> str:
    """All of it, at most TEXT_CHARS_MAX characters."""
    try:
        text = "\n".join(_lines(server))
    except Exception as error:  # whatever it is, the test's own failure matters more
        text = f"the server cannot be asked: {error}"
    if len(text) <= TEXT_CHARS_MAX:
        return text
    return f"{text[:TEXT_CHARS_MAX]}\n... {len(text) - TEXT_CHARS_MAX} characters more"


def _lines(server: Views) -> Iterator[str]:
    topics = server.topics()
    if not topics:
        yield "no topics"
    for topic in list(topics.values())[:TOPICS_SHOWN]:
        yield from _topic(topic, server.messages(topic.name))
    if len(topics) > TOPICS_SHOWN:
        yield f"... {len(topics) - TOPICS_SHOWN} topics more"
    for group in server.groups().values():
        yield from _group(group, server.leases(group.name) if group.unacked else [])


def _topic(topic: Topic, messages: list[Message]) -> Iterator[str]:
    yield f"topic {topic.name} ({topic.type or 'no type yet'}): {len(messages)} messages"
    if len(messages) > MESSAGES_SHOWN:
        yield f"  ... {len(messages) - MESSAGES_SHOWN} older ones"
    for message in messages[-MESSAGES_SHOWN:]:
        yield f"  {message.message_id} {_labels(message)}{shown(message.body)}"


def _labels(message: Message) -> str:
    labels = {"tag": message.tag, "keys": ",".join(message.keys), "group": message.message_group, **message.properties}
    return "".join(f"{name}={value} " for name, value in labels.items() if value)


def _group(group: Group, leases: list[Lease]) -> Iterator[str]:
    yield f"group {group.name}: {group.unacked} un-acked, {group.new} never delivered"
    for lease in leases[:LEASES_SHOWN]:
        holder = f" held for {lease.client_id}" if lease.client_id else ""
        state = f"leased{holder}" if lease.due_ms else "to be delivered again"
        yield f"  {lease.topic} {lease.message_id} attempt {lease.attempt}, {state}"
    if len(leases) > LEASES_SHOWN:
        yield f"  ... {len(leases) - LEASES_SHOWN} more"


def shown(body: bytes) -> str:
    """The begin of a body as one line: text as a literal, anything else as bytes."""
    try:
        text = repr(body.decode())
    except UnicodeDecodeError:
        text = repr(body)
    return text if len(text) <= BODY_CHARS_SHOWN else f"{text[:BODY_CHARS_SHOWN]}... ({len(body)} bytes)"
