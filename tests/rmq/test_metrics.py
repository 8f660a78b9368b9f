"""Prometheus' text format: what is written, and how what is odd is escaped."""

import pytest

from rmq.metrics import Exposition, Histogram, flag


def test_a_family_has_its_help_its_type_and_its_samples() -> None:
    """In the order in which they were made."""
    page = Exposition({})
    family = page.family("rmq_things_total", "counter", "Things.", "colour", "kind")
    family.add(3, "red", "a")
    family.add(2.5, "blue", "b")
    page.value("rmq_size", "gauge", "How large.", 7)
    assert page.encode() == (
        b"# HELP rmq_things_total Things.\n# TYPE rmq_things_total counter\n"
        b'rmq_things_total{colour="red",kind="a"} 3\nrmq_things_total{colour="blue",kind="b"} 2.5\n'
        b"# HELP rmq_size How large.\n# TYPE rmq_size gauge\nrmq_size 7\n"
    )


def test_a_histogram_counts_upwards() -> None:
    """Each range has all below it counted in, the last one all; sum and count follow."""
    values = Histogram((0.5, 2))
    for value in (0.5, 1, 1, 99):
        values.add(value)
    page = Exposition({})
    page.family("rmq_took", "histogram", "Took.", "what").add_histogram(values, "it")
    page.family("rmq_bare", "histogram", "Bare.").add_histogram(values)
    lines = page.encode().decode().splitlines()
    assert lines[2:7] == [
        'rmq_took_bucket{what="it",le="0.5"} 1',
        'rmq_took_bucket{what="it",le="2"} 3',
        'rmq_took_bucket{what="it",le="+Inf"} 4',
        'rmq_took_sum{what="it"} 101.5',
        'rmq_took_count{what="it"} 4',
    ]
    assert lines[9:] == [
        'rmq_bare_bucket{le="0.5"} 1',
        'rmq_bare_bucket{le="2"} 3',
        'rmq_bare_bucket{le="+Inf"} 4',
        "rmq_bare_sum 101.5",
        "rmq_bare_count 4",
    ]


def test_labels_and_help_are_escaped() -> None:
    """Backslash, quote and line feed in a label; backslash and line feed in the help."""
    page = Exposition({})
    page.family("rmq_x", "gauge", 'a\\b\n"c"', "label").add(1, 'a\\b\n"c" ü')
    assert page.encode().decode() == (
        '# HELP rmq_x a\\\\b\\n"c"\n# TYPE rmq_x gauge\nrmq_x{label="a\\\\b\\n\\"c\\" ü"} 1\n'
    )


def test_names_of_rip_46_carry_the_base_labels() -> None:
    """They come first, and only where the name is RocketMQ's own."""
    page = Exposition({"cluster": "c", "node_id": 'n"'})
    page.value("rocketmq_topic_number", "gauge", "Topics.", 1)
    page.value("rmq_clients", "gauge", "Clients.", 2)
    page.family("rocketmq_lag", "gauge", "Lag.", "topic").add(3, "t")
    lines = [line for line in page.encode().decode().splitlines() if line[0] != "#"]
    assert lines == [
        'rocketmq_topic_number{cluster="c",node_id="n\\""} 1',
        "rmq_clients 2",
        'rocketmq_lag{cluster="c",node_id="n\\"",topic="t"} 3',
    ]


def test_a_large_family_loses_nothing() -> None:
    """It is encoded in pieces."""
    page = Exposition({})
    family = page.family("rmq_x", "gauge", "X.", "n")
    for number in range(2345):
        family.add(number, str(number))
    lines = page.encode().decode().splitlines()
    assert lines[2:] == [f'rmq_x{{n="{number}"}} {number}' for number in range(2345)]


def test_a_sample_must_have_all_labels_of_its_family() -> None:
    """One too few or too many is a mistake of ours, and not written."""
    family = Exposition({}).family("rmq_x", "gauge", "X.", "a", "b")
    for values in (("1",), ("1", "2", "3")):
        with pytest.raises(ValueError, match="zip"):
            family.add(1, *values)


def test_truth_values_are_words() -> None:
    """As RIP-46 has them."""
    assert (flag(True), flag(False)) == ("true", "false")
