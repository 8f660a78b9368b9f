"""What clients write into the trace topic, as events: Apache's own records, older forms, garbage."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq.trace import Event, decode, events

GOLDEN: dict[str, dict[str, str]] = json.loads((Path(__file__).parents[1] / "golden" / "trace.json").read_text())
T = 1_700_000_000_000
EXPECTED = {
    "Pub": Event("sent", "ID1", T, "billing", "orders", "SUCCESS", 12, client="c"),
    "SubBefore": Event("delivered", "ID1", T, "billing", attempt=3, request="REQ1", client="c"),
    "SubAfter": Event("consumed", "ID1", T, "billing", "", "EXCEPTION", 12, request="REQ1", client="c"),
    "EndTransaction": Event("transaction", "ID1", T, "billing", "orders", "COMMIT_MESSAGE (checked)", client="c"),
    "Recall": Event("recalled", "ID1", T, "billing", "orders", "SUCCESS", client="c"),
}
RECORDS = [
    pytest.param(text, EXPECTED[kind], id=f"{kind} of {version}")
    for version, texts in GOLDEN.items()
    for kind, text in texts.items()
]


def record(*fields: object) -> str:
    """As a client joins them."""
    return "\x01".join(map(str, fields)) + "\x02"


@pytest.mark.parametrize(("text", "expected"), RECORDS)
def test_apaches_records(text: str, expected: Event) -> None:
    """What the official clients' own encoder made (tests/golden/record_trace.py)."""
    assert list(decode(text, "c")) == [expected]


def test_a_body_holds_many_records_and_those_of_one_message_are_told_by_time() -> None:
    """Whoever wrote them, and in whatever order they came."""
    first = record("Pub", T, "R", "p", "orders", "ID1", "", "", "h", 5, 3, 0, "", "true")
    other = record("Pub", T, "R", "p", "orders", "ID2", "", "", "h", 5, 3, 0, "", "true")
    last = record("SubAfter", "REQ", "ID1", 7, "true", "", 0, T + 20, "billing")
    before = record("SubBefore", T + 10, "R", "billing", "REQ", "ID1", 0, "")
    told = events([("consumer", last + before), ("producer", other + first)], "ID1")
    assert [(one.what, one.client, one.attempt) for one in told] == [
        ("sent", "producer", 0),
        ("delivered", "consumer", 1),
        ("consumed", "consumer", 1),
    ]


def test_what_old_clients_leave_out_comes_from_the_record_before() -> None:
    """A SubAfter without time and group: its SubBefore has them; a Pub without offset id still tells its success."""
    text = (
        record("Pub", T, "R", "p", "orders", "ID1", "null", "null", "h", 5, 3, 0, "false")
        + record("SubBefore", T + 10, "R", "billing", "REQ", "ID1", 1, "null")
        + record("SubAfter", "REQ", "ID1", 7, "true", "null")
    )
    sent, _, consumed = events([("c", text)], "ID1")
    assert (sent.status, sent.cost_ms) == ("FAILED", 3)
    assert (consumed.time_ms, consumed.group, consumed.status, consumed.attempt) == (T + 17, "billing", "SUCCESS", 2)


def test_a_consumption_whose_delivery_nobody_told_keeps_what_it_says_itself() -> None:
    """No time, no group, no attempt is made up; a code that there is not counts as a failure."""
    text = record("SubAfter", "REQ", "ID1", 7, "false", "", 99)
    assert events([("c", text)], "ID1") == [
        Event("consumed", "ID1", status="FAILED", cost_ms=7, request="REQ", client="c")
    ]


def test_null_is_javas_word_for_nothing() -> None:
    """A group or a topic that was not there is empty."""
    [event] = decode(record("Recall", T, "null", "null", "null", "ID1", "false"), "")
    assert (event.group, event.topic, event.status) == ("", "", "FAILED")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x02\x02",
        record("Other", T),
        record("Pub"),
        record("Pub", T, "R", "p", "orders", "ID1", "", "", "h", 5, "soon", 0, "", "true"),
        record("SubBefore", "now", "R", "g", "REQ", "ID1", 0, ""),
        "Pub\x01",
    ],
)
def test_what_is_no_record_is_left_out(text: str) -> None:
    """Cut off, of another kind, or with words where numbers belong; the records beside it are told."""
    good = record("Recall", T, "R", "g", "orders", "ID1", "true")
    assert [one.what for one in decode(text + good if text.endswith("\x02") else f"{text}\x02{good}", "")] == [
        "recalled"
    ]


@given(st.text(st.sampled_from("\x01\x02Pub SubAfter0123456789-true"), max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    """Whatever a client sends: what is told is one of the five."""
    assert {event.what for event in decode(text, "c")} <= {one.what for one in EXPECTED.values()}
