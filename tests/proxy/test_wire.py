"""Protobuf that is written by hand reads as what it stands for."""

import pytest

from rmq.message import SendResult
from rmq_proto import v2
from rmq_proxy.produce import encode
from rmq_proxy.wire import varint

NUMBERS = [0, 1, 127, 128, 300, 16_383, 16_384, 2**32, 2**63 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_varint(number: int) -> None:
    """As the protobuf package reads a queue offset."""
    entry = v2.SendResultEntry.FromString(b"\x20" + varint(number))
    assert entry.offset == number


@pytest.mark.parametrize("offset", NUMBERS)
@pytest.mark.parametrize("message_id", ["01A", "ü" * 200])
@pytest.mark.parametrize("recall_handle", ["", "r" * 300])
def test_an_answer_to_a_send(message_id: str, offset: int, recall_handle: str) -> None:
    """The very bytes that the message classes would make of it."""
    expected = v2.SendMessageResponse()
    expected.status.code, expected.status.message = v2.OK, "OK"
    for place in range(2):
        entry = expected.entries.add(message_id=message_id, transaction_id=message_id, offset=offset * place)
        entry.status.code, entry.status.message = v2.OK, "OK"
        entry.recall_handle = recall_handle
    results = [SendResult(0, offset * place, recall_handle) for place in range(2)]
    assert encode([message_id] * 2, results) == expected.SerializeToString(deterministic=True)
