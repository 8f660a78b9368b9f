"""Settings: where they come from, which wins, and what is said of a wrong one."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from rmq import configsource
from rmq.config import (
    FIELDS,
    GROUP_FLAGS,
    Config,
    GroupFlags,
    GroupSetting,
    TopicSetting,
    allowed,
    choices,
    parse_endpoint,
)
from rmq.configsource import build, load, manual, settings
from rmq.errors import ConfigError
from rmq.message import MessageType
from rmq.retry import RetryPolicy


def refusal(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> str:
    """The one line that `load` refuses with."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ, flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(folder: Path, text: str) -> str:
    """A file with this text."""
    path = folder / "my.yaml"
    path.write_text(text)
    return str(path)


def comment_of(key: str) -> str:
    """The comment lines right above `key` in the manual."""
    lines = manual().splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    start = end
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start:end])


def test_manual_and_code_have_the_same_keys_in_the_same_order() -> None:
    """config.yaml explains every setting there is and no other."""
    assert list(yaml.safe_load(manual())) == list(FIELDS)


def test_manual_and_code_have_the_same_defaults(tmp_path: Path) -> None:
    """config.yaml, given as it is, changes nothing."""
    assert load(written(tmp_path, manual()), {}, {}) == Config()


@pytest.mark.parametrize("key", [key for key in FIELDS if key not in ("topics", "groups")])
def test_manual_states_what_each_setting_may_be_and_why(key: str) -> None:
    """The limits in the text are those that are enforced, and there is more than the limits."""
    comment = comment_of(key).splitlines()
    assert comment[-1] == f"# Allowed: {allowed(key)}"
    assert len(comment) > 1 or key in ("invisible_ms_max", "poll_ms_max"), "no word of explanation"


@pytest.mark.parametrize("key", [key for key in FIELDS if key not in ("topics", "groups")])
def test_every_default_is_itself_allowed(key: str) -> None:
    """A default written into a file is taken."""
    default = getattr(Config(), key)
    assert getattr(build(settings(None, {}, {key: default})), key) == default


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each source hides the weaker ones, setting by setting."""
    path = written(tmp_path, "port: 1001\nflush: fast\nbroker_name: from-file\n")
    environ = {"RMQ_PORT": "1002", "RMQ_FLUSH": "memory", "RMQ_CONFIG": path, "HOME": "/"}
    config = load(None, environ, {"port": "1003", "host": None, "topics": ()})
    assert (config.port, config.flush, config.broker_name, config.retention_hours) == (1003, "memory", "from-file", 72)


def test_config_flag_wins_over_rmq_config(tmp_path: Path) -> None:
    """Only one file is read."""
    assert load(written(tmp_path, "port: 7"), {"RMQ_CONFIG": str(tmp_path / "missing")}, {}).port == 7


def test_empty_file_is_no_settings(tmp_path: Path) -> None:
    """A file of comments only is fine."""
    assert load(written(tmp_path, "# nothing yet\n"), {}, {}) == Config()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("65536", 65536), ("64 KiB", 65536), ("64KiB", 65536), ("1 GiB", 1 << 30), ("131072 B", 131072)],
)
def test_sizes_may_be_written_with_a_unit(text: str, size_bytes: int) -> None:
    """Binary units only, with or without a blank."""
    assert load(None, {"RMQ_SEGMENT_BYTES": text}, {}).segment_bytes == size_bytes


@pytest.mark.parametrize(
    ("key", "raw", "said"),
    [
        ("port", "-1", "port is '-1', must be 0 to 65535"),
        ("port", "65536", "must be 0 to 65535"),
        ("port", "9" * 400, "must be 0 to 65535"),
        ("port", "http", "must be 0 to 65535"),
        ("port", "1 KiB", "must be 0 to 65535"),
        ("port", "\u0661", "must be 0 to 65535"),
        ("port", True, "port is True"),
        ("port", 1.5, "port is 1.5"),
        ("port", None, "port is empty"),
        ("segment_bytes", "64 MB", "must be 64 KiB to 1 GiB"),
        ("segment_bytes", "2 GiB", "must be 64 KiB to 1 GiB"),
        ("segment_bytes", "-64 KiB", "must be 64 KiB to 1 GiB"),
        ("flush", "sync", "flush is 'sync', must be durable or fast or memory"),
        ("profile", "DEV", "must be dev or strict"),
        ("manual_clock", "yes", "must be true or false"),
        ("manual_clock", 1, "must be true or false"),
        ("host", "localhost", "must be one IP address, or empty for both loopbacks"),
        ("host", "127.0.0.1,::1", "must be one IP address"),
        ("data", "", "data is empty"),
        ("data", "a\0b", "must be the path of a directory"),
        ("advertise", "broker.example", "must be HOST:PORT"),
        ("advertise", "::1:80", "must be HOST:PORT"),
        ("advertise", "host:0", "must be HOST:PORT"),
        ("advertise", "host:99999", "must be HOST:PORT"),
        ("broker_name", "broker a", "must be 1 to 127 letters, digits, _ or -"),
        ("broker_name", "b" * 128, "must be 1 to 127"),
        ("cluster_name", "x\ny", r"cluster_name is 'x\ny'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(tmp_path: Path, key: str, raw: object, said: str) -> None:
    """From a file (named), and, where it is text, from a variable (named)."""
    path = written(tmp_path, yaml.safe_dump({key: raw}))
    text = refusal(path, {}, {})
    assert text.startswith(f"{path}: {key} is ")
    assert said in text
    if isinstance(raw, str):
        name = f"RMQ_{key.upper()}"
        assert refusal(None, {name: raw}, {}).startswith(f"environment: {name}: {key} is ")
        assert refusal(None, {}, {key: raw}).startswith(f"--{key.replace('_', '-')}: {key} is ")


def test_an_unknown_key_is_refused_with_the_nearest_right_one(tmp_path: Path) -> None:
    """In a file as in the environment."""
    path = written(tmp_path, "segments_byte: 1\n")
    assert refusal(path, {}, {}).startswith(f"{path}: there is no setting 'segments_byte'; did you mean segment_bytes?")
    assert "RMQ_PROT is no setting; did you mean RMQ_PORT?" in refusal(None, {"RMQ_PROT": "1"}, {})
    assert "RMQ_port is no setting; did you mean RMQ_PORT?" in refusal(None, {"RMQ_port": "1"}, {})
    assert "did you mean" not in refusal(None, {"RMQ_QQQQQQQQ": "1"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: 1\nport: 2\n", "is not YAML: 'port' is given twice"),
        ("port: [\n", "is not YAML"),
        ("- port\n", "must be a mapping of settings"),
        ("just words\n", "must be a mapping of settings"),
        ("data: 2026-99-99\n", "is not YAML: month must be in 1..12"),
        ("data: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("? [a, b]\n: 1\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """One line, with the file's name; nothing in a file is ever executed."""
    path = written(tmp_path, text)
    message = refusal(path, {}, {})
    assert message.startswith(f"{path}: ")
    assert said in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, or not text."""
    assert "cannot be read: No such file" in refusal(str(tmp_path / "none.yaml"), {}, {})
    assert "cannot be read: Is a directory" in refusal(str(tmp_path), {}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal(str(tmp_path / "binary"), {}, {})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"poll_ms_min": 30_000}, "poll_ms_min (30000) must not be above poll_ms_max (20000)"),
        ({"invisible_ms_max": 10}, "invisible_ms_min (10000) must not be above invisible_ms_max (10)"),
        ({"request_bytes_max": "1 MiB"}, "message_bytes_max (4 MiB) must not be above request_bytes_max (1 MiB)"),
        ({"queues_per_topic_max": 4}, "topic_queues (8) must not be above queues_per_topic_max (4)"),
        ({"topics": ("a:FIFO:2000",)}, "a has 2000 queues, queues_per_topic_max is 1024"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags: dict[str, object], said: str) -> None:
    """Both are named, with their values."""
    assert said in refusal(None, {}, flags)


def test_topics_and_groups_of_all_sources_add_up_by_name(tmp_path: Path) -> None:
    """The stronger source wins for a name that both have; what is left open comes from the defaults in force."""
    path = written(
        tmp_path,
        """
        topic_queues: 3
        topics: {orders: {type: delay, queues: 4}, audit: }
        groups: {billing: {attempts_max: 3, retry_ms: [1000, 5000]}, mail: {},
          slow: {backoff: {initial_ms: 1000, multiplier: 3}}, usual: {backoff: {}},
          ledger: {orderly: true}, loose: {orderly: false},
          desks: {lite_exclusive: true, lite_reset_on_unsubscribe: false}}
        """.replace("\n        ", "\n"),
    )
    config = load(path, {"RMQ_TOPICS": "orders:FIFO,ns%a|b:MIXED:1"}, {"topics": ("x", "y"), "groups": ("g:2",)})
    assert config.topics == {
        "orders": TopicSetting(MessageType.FIFO, 3),
        "audit": TopicSetting(MessageType.NORMAL, 3),
        "ns%a|b": TopicSetting(MessageType.MIXED, 1),
        "x": TopicSetting(MessageType.NORMAL, 3),
        "y": TopicSetting(MessageType.NORMAL, 3),
    }
    assert config.groups == {
        "billing": GroupSetting(3, (1000, 5000)),
        "mail": GroupSetting(17),
        "slow": GroupSetting(17, (), RetryPolicy((), 1000, 7_200_000, 3.0)),
        "usual": GroupSetting(17, (), RetryPolicy(())),
        "ledger": GroupSetting(17, flags=GroupFlags(orderly=True)),
        "loose": GroupSetting(17, flags=GroupFlags(orderly=False)),
        "desks": GroupSetting(17, flags=GroupFlags(lite_exclusive=True, lite_reset_on_unsubscribe=False)),
        "g": GroupSetting(2),
    }


@pytest.mark.parametrize("key", ["topics", "groups"])
def test_every_field_of_a_topic_and_a_group_is_in_the_manual(key: str) -> None:
    """config.yaml says what each means, in the comment above."""
    comment = manual().split(f"\n{key}:")[0].split("\n\n")[-1]
    fields = configsource._TABLES[key].fields
    if key == "topics":
        assert set(fields) == set(TopicSetting.__struct_fields__)
    else:
        assert set(fields) == {*GroupSetting.__struct_fields__, *GROUP_FLAGS} - {"flags"}
    assert [field for field in fields if f"{field}:" not in comment and f"{field}, instead" not in comment] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topics: 5", "topics is 5, must be a mapping of names"),
        ("topics: [a]", "must be a mapping of names"),
        ("topics: {a b: {}}", "'a b' is no topic name, must be 1 to 127 letters, digits, _ - % or |"),
        ("topics: {1: {}}", "1 is no topic name"),
        (f"topics: {{{'t' * 128}: {{}}}}", "is no topic name"),
        (f"groups: {{{'g' * 121}: {{}}}}", "is no group name, must be 1 to 120"),
        ("topics: {a: FIFO}", "a is 'FIFO', must be a mapping of type and queues"),
        ("topics: {a: {typ: FIFO}}", "a has no 'typ', only type and queues"),
        (
            "topics: {a: {type: RETRY}}",
            "type is 'RETRY', must be NORMAL or FIFO or DELAY or TRANSACTION or PRIORITY or LITE or MIXED",
        ),
        ("topics: {a: {queues: 0}}", "queues is 0, must be 1 to 4096"),
        ("groups: {a: {attempts_max: 0}}", "attempts_max is 0, must be 1 to 1000"),
        ("groups: {a: {retry_ms: 1000}}", "retry_ms is 1000, must be a list of at most 64 numbers"),
        ("groups: {a: {retry_ms: [0]}}", "retry_ms is 0, must be 1 to 604800000"),
        (f"groups: {{a: {{retry_ms: {[1] * 65}}}}}", "must be a list of at most 64 numbers"),
        ("groups: {a: {backoff: 5}}", "backoff is 5, must be a mapping of initial_ms and max_ms and multiplier"),
        ("groups: {a: {backoff: {first: 5}}}", "must be a mapping of initial_ms and max_ms and multiplier"),
        ("groups: {a: {backoff: {initial_ms: 0}}}", "initial_ms is 0, must be 1 to 604800000"),
        ("groups: {a: {backoff: {initial_ms: 9, max_ms: 8}}}", "initial_ms (9) must not be above max_ms (8)"),
        ("groups: {a: {backoff: {multiplier: 0.5}}}", "multiplier is 0.5, must be 1 to 100"),
        ("groups: {a: {backoff: {multiplier: two}}}", "multiplier is 'two', must be 1 to 100"),
        ("groups: {a: {orderly: 1}}", "a: orderly is 1, must be true or false"),
        ("groups: {a: {lite_exclusive: 1}}", "a: lite_exclusive is 1, must be true or false"),
        ("groups: {a: {retry_ms: [1], backoff: {}}}", "retry_ms and backoff exclude each other"),
    ],
)
def test_a_wrong_topic_or_group_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """The name and what is wrong with it."""
    assert said in refusal(written(tmp_path, text), {}, {})


def test_too_many_parts_in_a_flag_are_refused_with_the_form() -> None:
    """The form is that of the help text."""
    assert "write NAME[:TYPE[:QUEUES]]" in refusal(None, {}, {"topics": ("a:FIFO:1:x",)})
    assert "write NAME[:ATTEMPTS_MAX]" in refusal(None, {}, {"groups": ("a:1:x",)})
    assert refusal(None, {}, {"topics": ("a:",)}).startswith("--topic: topics: a: type is empty")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("host:1", ("host", 1)), ("[::1]:8081", ("::1", 8081)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)
def test_endpoints_are_split(text: str, endpoint: tuple[str, int]) -> None:
    """Brackets belong to the notation, not to the host."""
    assert parse_endpoint(text) == endpoint


def test_a_config_cannot_be_changed() -> None:
    """Everybody holds the same one."""
    for key in FIELDS:
        with pytest.raises(AttributeError):
            setattr(Config(), key, 1)


def test_choices_are_the_words_of_a_setting_that_has_some() -> None:
    """In the order of the manual; a number or a text has none."""
    assert choices("flush") == ("durable", "fast", "memory")
    assert choices("manual_clock") == ("true", "false")
    assert choices("port") == choices("data") == ()


def test_a_long_value_is_shortened_in_the_refusal() -> None:
    """One line stays one line that can be read."""
    assert len(refusal(None, {}, {"broker_name": "x" * 5000})) < 200


def test_every_setting_has_limits_or_words() -> None:
    """No number is unbounded."""
    for key, kind in FIELDS.items():
        if isinstance(kind, msgspec.inspect.IntType):
            assert kind.ge is not None, key
            assert kind.le is not None, key
