"""Where settings come from: flags over the environment over one file over the defaults.

Promises that a Config made by `load` keeps every limit, and that a wrong key or value is refused with one line that
names where it stands, what it should be and, for a key, the nearest right one. Reads no file but the one that --config
or RMQ_CONFIG names. What a setting is and may be: rmq/config.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import msgspec

from rmq.config import FIELDS, GROUP_FLAGS, Config, GroupFlags, GroupSetting, TopicSetting, allowed, number_text, read
from rmq.errors import ConfigError
from rmq.message import MessageType
from rmq.retry import BACKOFF_FIELDS, MULTIPLIER_MAX, RetryPolicy

ENV_PREFIX = "RMQ_"
ENV_FILE = "RMQ_CONFIG"
ENV_ENDPOINT = "RMQ_ENDPOINT"  # which server the other commands ask: no setting of a server
TOPIC_TYPES = ("NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE", "MIXED")
TOPIC_CHARS_MAX = 127
GROUP_CHARS_MAX = 120  # the limits and characters of names are RocketMQ 5.5's (facts: grpc.md 4.1)
RETRY_STEPS_MAX = 64
_SEE_ALL = "`rmq config show` lists them all"
_NAME = re.compile(r"[A-Za-z0-9_%|-]+", re.ASCII)

_ORDERED_PAIRS = (
    ("invisible_ms_min", "invisible_ms_max"),
    ("poll_ms_min", "poll_ms_max"),
    ("message_bytes_max", "request_bytes_max"),
    ("topic_queues", "queues_per_topic_max"),
)


class Setting(msgspec.Struct, frozen=True):
    """One value that somebody gave. `origin` is where, as an error would name it; `value` is already checked."""

    origin: str
    key: str
    value: object


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The settings of one server. `path`: --config, or None; `flags`: by key, None or () for a flag that was not given.

    Raises ConfigError.
    """
    return build(settings(path, environ, flags))


def settings(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> list[Setting]:
    """All that was given, weakest first: file, environment, flags. Raises ConfigError for the first wrong one."""
    path = path or environ.get(ENV_FILE) or None
    return [*(_from_file(path) if path else ()), *_from_environment(environ), *_from_flags(flags)]


def build(given: list[Setting]) -> Config:
    """Lays `given` over the defaults, the later over the earlier; topics and groups add up by name.

    Raises ConfigError where two settings contradict each other.
    """
    values: dict[str, object] = {}
    for setting in given:
        if isinstance(setting.value, dict):
            values[setting.key] = {**cast("dict[str, object]", values.get(setting.key, {})), **setting.value}
        else:
            values[setting.key] = setting.value
    config = _filled(msgspec.convert(values, Config))
    _check_pairs(config)
    return config


def manual() -> str:
    """The text of config.yaml: beside this file in an installed wheel, at the top of a checkout."""
    here = Path(__file__).resolve()
    packed = here.with_name("config.yaml")
    return (packed if packed.exists() else here.parents[1] / "config.yaml").read_text(encoding="utf-8")


def parse(origin: str, key: str, raw: object) -> object:
    """The value of `key` that `raw` means. Raises ConfigError that begins with `origin`."""
    if key not in FIELDS:
        raise ConfigError(f"{origin}: there is no setting {key!r}; {_nearest(key, FIELDS)}{_SEE_ALL}")
    if key in _TABLES:
        return _parse_table(origin, key, raw)
    value = read(key, raw)
    if value is None:
        raise ConfigError(f"{origin}: {key} is {_shown(raw)}, must be {allowed(key)}")
    return value


class _Table(msgspec.Struct, frozen=True):
    """A setting that is a table of named things: in the file a mapping, on the command line NAME[:FIELD[:FIELD]]."""

    noun: str
    name_chars_max: int
    fields: tuple[str, ...]  # the first of them, in this order, may follow the name on the command line
    short_fields: int


_TABLES = {
    "topics": _Table("topic", TOPIC_CHARS_MAX, ("type", "queues"), 2),
    "groups": _Table("group", GROUP_CHARS_MAX, ("attempts_max", "retry_ms", "backoff", *GROUP_FLAGS), 1),
}


def _parse_table(origin: str, key: str, raw: object) -> dict[str, TopicSetting | GroupSetting]:
    table = _TABLES[key]
    rows = _rows_from_text(origin, table, raw) if isinstance(raw, str) else raw
    if not isinstance(rows, dict):
        raise ConfigError(f"{origin}: {key} is {_shown(raw)}, must be a mapping of names")
    return {str(name): _parse_row(f"{origin}: {key}", table, name, row) for name, row in rows.items()}


def _rows_from_text(origin: str, table: _Table, text: str) -> dict[object, object]:
    """`a:FIFO:4,b` -> {"a": {"type": "FIFO", "queues": "4"}, "b": {}}."""
    rows: dict[object, object] = {}
    for item in text.split(","):
        name, *values = item.strip().split(":")
        if len(values) > table.short_fields:
            form = "".join(f"[:{field.upper()}" for field in table.fields[: table.short_fields])
            raise ConfigError(f"{origin}: {item!r} has too many parts, write NAME{form}{']' * table.short_fields}")
        rows[name] = dict(zip(table.fields, values, strict=False))
    return rows


def _parse_row(origin: str, table: _Table, name: object, row: object) -> TopicSetting | GroupSetting:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > table.name_chars_max:
        rule = f"1 to {table.name_chars_max} letters, digits, _ - % or |"
        raise ConfigError(f"{origin}: {_shown(name)} is no {table.noun} name, must be {rule}")
    fields = {} if row is None else row
    if not isinstance(fields, dict):
        raise ConfigError(f"{origin}: {name} is {_shown(row)}, must be a mapping of {' and '.join(table.fields)}")
    for field in fields:
        if field not in table.fields:
            raise ConfigError(f"{origin}: {name} has no {field!r}, only {' and '.join(table.fields)}")
    return _topic(f"{origin}: {name}", fields) if table.noun == "topic" else _group(f"{origin}: {name}", fields)


def _topic(origin: str, fields: Mapping[str, object]) -> TopicSetting:
    """`queues` 0: as many as topic_queues says, filled in when that is known."""
    kind = str(fields.get("type", "NORMAL")).upper()
    if kind not in TOPIC_TYPES:
        raise ConfigError(f"{origin}: type is {_shown(fields['type'])}, must be {' or '.join(TOPIC_TYPES)}")
    queues = fields.get("queues")
    return TopicSetting(MessageType[kind], 0 if queues is None else _bounded(origin, "queues", queues, "topic_queues"))


def _group(origin: str, fields: Mapping[str, object]) -> GroupSetting:
    """`attempts_max` 0: as the setting of that name says, filled in when that is known."""
    attempts = fields.get("attempts_max")
    steps = fields.get("retry_ms", [])
    if not isinstance(steps, list) or len(steps) > RETRY_STEPS_MAX:
        raise ConfigError(f"{origin}: retry_ms is {_shown(steps)}, must be a list of at most {RETRY_STEPS_MAX} numbers")
    backoff = fields.get("backoff")
    if backoff is not None and steps:
        raise ConfigError(f"{origin}: retry_ms and backoff exclude each other; leave one of them out")
    return GroupSetting(
        0 if attempts is None else _bounded(origin, "attempts_max", attempts, "attempts_max"),
        tuple(_bounded(origin, "retry_ms", step, "invisible_ms_max") for step in steps),
        None if backoff is None else _backoff(origin, backoff),
        _flags(origin, fields),
    )


def _flags(origin: str, fields: Mapping[str, object]) -> GroupFlags:
    flags: dict[str, bool | None] = {}
    for name in GROUP_FLAGS:
        value = fields.get(name)
        if not isinstance(value, bool | None):
            raise ConfigError(f"{origin}: {name} is {_shown(value)}, must be true or false")
        flags[name] = value
    return GroupFlags(**flags)


def _backoff(origin: str, raw: object) -> RetryPolicy:
    usual = RetryPolicy(())
    fields = raw if isinstance(raw, dict) else {None: raw}
    if not fields.keys() <= set(BACKOFF_FIELDS):
        raise ConfigError(f"{origin}: backoff is {_shown(raw)}, must be a mapping of {' and '.join(BACKOFF_FIELDS)}")
    initial_ms, max_ms = (
        _bounded(origin, field, fields.get(field, getattr(usual, field)), "invisible_ms_max")
        for field in ("initial_ms", "max_ms")
    )
    if initial_ms > max_ms:
        raise ConfigError(f"{origin}: initial_ms ({initial_ms}) must not be above max_ms ({max_ms})")
    multiplier = fields.get("multiplier", usual.multiplier)
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 1 <= multiplier <= MULTIPLIER_MAX:
        raise ConfigError(f"{origin}: multiplier is {_shown(multiplier)}, must be 1 to {MULTIPLIER_MAX}")
    return RetryPolicy((), initial_ms, max_ms, float(multiplier))


def _bounded(origin: str, field: str, raw: object, like: str) -> int:
    """A number within the limits of the setting `like`."""
    value = read(like, raw)
    if not isinstance(value, int):
        raise ConfigError(f"{origin}: {field} is {_shown(raw)}, must be {allowed(like)}")
    return value


def _from_file(path: str) -> Iterator[Setting]:
    for key, raw in _yaml_mapping(path).items():
        yield Setting(path, str(key), parse(path, str(key), raw))


def _yaml_mapping(path: str) -> dict[object, object]:
    from rmq.yamlfile import YamlError, parse_yaml  # PyYAML costs 15 ms, and most servers have no file

    try:
        tree = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except YamlError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: is {_shown(tree)}, must be a mapping of settings")
    return tree


def _from_environment(environ: Mapping[str, str]) -> Iterator[Setting]:
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in (ENV_FILE, ENV_ENDPOINT):
            yield _from_variable(name, environ[name])


def _from_variable(name: str, text: str) -> Setting:
    key = name.removeprefix(ENV_PREFIX).lower()
    if name != name.upper() or key not in FIELDS:
        near = _nearest(name.upper(), [ENV_FILE, *(ENV_PREFIX + field.upper() for field in FIELDS)])
        raise ConfigError(f"environment: {name} is no setting; {near}{_SEE_ALL}")
    return Setting(name, key, parse(f"environment: {name}", key, text))


def _from_flags(flags: Mapping[str, object]) -> Iterator[Setting]:
    for key, raw in flags.items():
        flag = f"--{_TABLES[key].noun if key in _TABLES else key.replace('_', '-')}"
        for item in raw if isinstance(raw, tuple) else (raw,):
            if item is not None:
                yield Setting(flag, key, parse(flag, key, item))


def _filled(config: Config) -> Config:
    """Topics and groups get what they left open."""
    topics = {n: TopicSetting(t.type, t.queues or config.topic_queues) for n, t in config.topics.items()}
    groups = {
        name: msgspec.structs.replace(group, attempts_max=group.attempts_max or config.attempts_max)
        for name, group in config.groups.items()
    }
    return msgspec.structs.replace(config, topics=topics, groups=groups)


def _check_pairs(config: Config) -> None:
    for lesser, greater in _ORDERED_PAIRS:
        if getattr(config, lesser) > getattr(config, greater):
            low, high = number_text(lesser, getattr(config, lesser)), number_text(greater, getattr(config, greater))
            raise ConfigError(f"{lesser} ({low}) must not be above {greater} ({high}); change one of them")
    for name, topic in config.topics.items():
        if topic.queues > config.queues_per_topic_max:
            limit = config.queues_per_topic_max
            raise ConfigError(f"topics: {name} has {topic.queues} queues, queues_per_topic_max is {limit}")


def _nearest(word: str, words: Iterable[str]) -> str:
    import difflib  # costs 10 ms, and is wanted for a mistake only

    near = difflib.get_close_matches(word, list(words), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _shown(raw: object) -> str:
    text = "empty" if raw is None or raw == "" else repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}..."
