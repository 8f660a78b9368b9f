"""What may be given to rmq.testing.server and broker, and what their server then runs with."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from rmq.config import Config, GroupFlags, GroupSetting, TopicSetting
from rmq.configsource import load
from rmq.errors import ConfigError
from rmq.message import MessageType
from rmq.testing.options import config_of, file_of

FIFO_4 = TopicSetting(MessageType.FIFO, 4)


def test_a_server_for_tests_is_in_memory_on_a_free_port_with_a_clock_to_move() -> None:
    """It takes no TLS, unless asked to; all else is as `rmq serve` has it."""
    config = config_of({})
    assert (config.flush, config.port, config.manual_clock) == ("memory", 0, True)
    given = {"flush": "memory", "port": 0, "manual_clock": True, "tls_mode": "disabled"}
    assert config == load(None, {}, given)
    assert config_of({"tls_mode": "permissive"}).tls_mode == "permissive"


@pytest.mark.parametrize(
    "topics",
    [{"a": {"type": "FIFO", "queues": 4}}, {"a": {"type": "fifo", "queues": "4"}}, {"a": "FIFO:4"}, "a:FIFO:4", ["a"]],
)
def test_topics_have_a_long_form_and_short_ones(topics: object) -> None:
    """Mappings, text as on the command line, names alone."""
    wanted = TopicSetting(MessageType.NORMAL, 8) if topics == ["a"] else FIFO_4
    assert config_of({"topics": topics}).topics == {"a": wanted}


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ({"g": {"attempts_max": 3, "retry_ms": (10, 20)}}, GroupSetting(3, (10, 20))),
        ({"g": {"orderly": True}}, GroupSetting(17, flags=GroupFlags(orderly=True))),
        ({"g": {"lite_exclusive": True}}, GroupSetting(17, flags=GroupFlags(lite_exclusive=True))),
        ({"g": 3}, GroupSetting(3)),
        ({"g": None}, GroupSetting(17)),
        ("g:3", GroupSetting(3)),
        (("g",), GroupSetting(17)),
    ],
)
def test_groups_have_a_long_form_and_short_ones(groups: object, wanted: GroupSetting) -> None:
    """A number alone is attempts_max."""
    assert config_of({"groups": groups}).groups == {"g": wanted}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"flsh": "fast"}, "there is no option 'flsh'; did you mean flush?"),
        ({"timeout": 3}, "there is no option 'timeout'; did you mean timeout_s?"),
        ({"qqqqq": 1}, "there is no option 'qqqqq'; `rmq config show` lists all settings"),
        ({"flush": "disk"}, "flush is 'disk', must be durable or fast or memory"),
        ({"topics": {"a": "FIFA"}}, "type is 'FIFA', must be NORMAL or FIFO"),
        ({"topics": {"a": 3.5}}, "a is 3.5, must be a mapping of type and queues"),
        ({"topics": 7}, "topics is 7, must be a mapping of names"),
        ({"groups": {"g": {"attempts": 1}}}, "g has no 'attempts', only attempts_max and retry_ms and backoff"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_right(options: Mapping[str, object], text: str) -> None:
    """And nothing has been started."""
    with pytest.raises(ConfigError, match=r"^rmq\.testing: ") as caught:
        config_of(options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_settings_gives_topics_and_limits_but_not_the_real_server_s_place(tmp_path: Path) -> None:
    """A test must not meet the data or the port that the file was written for; arguments win over the file."""
    file = tmp_path / "rmq.yaml"
    file.write_text(
        "port: 8081\nhost: 0.0.0.0\nflush: durable\ndata: /srv/rmq\ntopic_queues: 2\npolls_max: 9\ntopics: {a: {}}\n"
    )
    config = config_of({"polls_max": 10, "topics": {"b": None}}, file)
    assert (config.port, config.host, config.flush, config.data) == (0, "", "memory", Config().data)
    assert (config.topic_queues, config.polls_max) == (2, 10)
    assert set(config.topics) == {"a", "b"}


def test_paths_may_be_paths(tmp_path: Path) -> None:
    """As pytest hands them out."""
    assert config_of({"data": tmp_path}).data == str(tmp_path)


def test_the_file_for_the_server_s_process_means_the_same(tmp_path: Path) -> None:
    """Whatever was given, in whatever form."""
    config = config_of(
        {
            "flush": "fast",
            "data": tmp_path,
            "message_bytes_max": "2 MiB",
            "topics": {"a": "FIFO:4", "b": None},
            "groups": {"g": {"retry_ms": [5]}, "h": 2, "i": {"backoff": {"initial_ms": 7, "multiplier": 3}}},
            "profile": "strict",
        }
    )
    file = tmp_path / "settings.json"
    file.write_text(file_of(config))
    assert load(str(file), {}, {}) == config
    assert json.loads(file.read_text())["topics"]["a"] == {"type": "FIFO", "queues": 4}
