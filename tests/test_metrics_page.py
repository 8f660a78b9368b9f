"""docs/metrics.md and a server's own answer say the same, and Prometheus' own parser reads it."""

import asyncio
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from rmq.metrics import Exposition
from rmq.testing import broker, server

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
ROW = re.compile(r"\| `(\w+)` \| (counter|gauge|histogram) \| ([\w, ]*?) ?\| .*\|")
BASE = 'cluster="DefaultCluster",node_type="broker",node_id="broker-a"'


async def families() -> dict[str, tuple[str, list[str]]]:
    """Type and labels of all that a server writes, by name."""
    async with broker() as one:
        node = one._node
        assert node is not None
        page = Exposition({})
        for _ in node.scrape._ask(page):
            pass
    return {name: (family.kind, list(family.labels)) for name, family in page.families.items()}


def documented() -> dict[str, tuple[str, list[str]]]:
    """The rows of the page's tables."""
    return {name: (kind, labels.split(", ") if labels else []) for name, kind, labels in ROW.findall(PAGE.read_text())}


def test_the_page_lists_what_a_server_writes() -> None:
    """Every metric, with its type and labels, and no other."""
    written, told = asyncio.run(families()), documented()
    assert told == written


def test_every_row_of_the_page_is_read_here() -> None:
    """A row that the pattern above misses would not be compared."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(documented()) > 40


def test_the_answer_of_a_running_server_is_read_by_prometheus() -> None:
    """Every sample belongs to a family with help and type; what was sent is counted under RocketMQ's labels."""
    parser: Any = pytest.importorskip("prometheus_client.parser")
    with server() as one:
        one.send("orders", b"one book")
        with urlopen(f"http://{one.endpoint}/metrics", timeout=10) as answer:
            assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            text = answer.read().decode()
    found = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert {f"{name}_total" if found[name].type == "counter" else name for name in found} == set(documented())
    assert all(family.documentation for family in found.values())
    assert f'rocketmq_messages_in_total{{{BASE},topic="orders",message_type="normal",is_system="false"}} 1\n' in text
    (sample,) = [s for s in found["rocketmq_message_size"].samples if s.labels.get("le") == "+Inf"]
    assert (sample.value, sample.labels["topic"], sample.labels["node_type"]) == (1, "orders", "broker")


def test_a_server_on_grpcs_own_stack_has_no_page() -> None:
    """As the page says: nothing but gRPC answers there."""
    with server(transport="grpcio") as one, pytest.raises((OSError, HTTPException)):
        urlopen(f"http://{one.endpoint}/metrics", timeout=10)
