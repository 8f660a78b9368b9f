"""Options of a server for tests -> Config -> the file of settings that its process reads.

Promises that an option that does not exist or does not fit is refused before anything starts, with one line that names
the nearest right one. What a setting is: rmq/config.py.
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from rmq.config import FIELDS, Config, GroupSetting
from rmq.configsource import Setting, build, parse, settings
from rmq.errors import ConfigError
from rmq.retry import BACKOFF_FIELDS

ORIGIN = "rmq.testing"
DEFAULTS: Mapping[str, object] = {
    "flush": "memory",
    "port": 0,
    "manual_clock": True,
    "tls_mode": "disabled",  # a certificate of its own would cost each session a fifth of its start
}
NOT_FROM_A_FILE = ("advertise", "data", "flush", "host", "manual_clock", "port", "ready_file")
"""A test must not meet the port or the data of the server that the file was written for."""

_OTHERS = ("config", "endpoint", "timeout_s")
_FIELDS_OF = {"topics": ("type", "queues"), "groups": ("attempts_max", "retry_ms", "backoff")}


def config_of(options: Mapping[str, object], path: str | Path | None = None) -> Config:
    """The defaults for tests, over them the file at `path`, over that `options`. Raises ConfigError."""
    given = [Setting(ORIGIN, key, value) for key, value in DEFAULTS.items()]
    if path is not None:
        given += [setting for setting in settings(str(path), {}, {}) if setting.key not in NOT_FROM_A_FILE]
    for key, raw in options.items():
        if key not in FIELDS:
            raise ConfigError(_unknown(key))
        given.append(Setting(ORIGIN, key, parse(ORIGIN, key, _plain(key, raw))))
    return build(given)


def _unknown(key: str) -> str:
    near = get_close_matches(key, [*FIELDS, *_OTHERS], n=1)
    hint = f"did you mean {near[0]}?" if near else "`rmq config show` lists all settings"
    return f"{ORIGIN}: there is no option {key!r}; {hint}"


def _plain(key: str, raw: object) -> object:
    """As a file would hold it: a path is text, and a table's rows are mappings, whatever short form they have."""
    if key not in _FIELDS_OF or isinstance(raw, str):
        return str(raw) if isinstance(raw, Path) else raw
    if isinstance(raw, Mapping):
        return {name: _row(key, row) for name, row in raw.items()}
    return dict.fromkeys(raw) if isinstance(raw, Iterable) else raw


def _row(key: str, row: object) -> object:
    """`"FIFO:4"` and `3` stand for the fields in their order."""
    match row:
        case str():
            return dict(zip(_FIELDS_OF[key], row.split(":"), strict=False))
        case int():
            return {_FIELDS_OF[key][0]: row}
        case Mapping():
            return {field: list(value) if isinstance(value, tuple) else value for field, value in row.items()}
        case _:
            return row


def file_of(config: Config) -> str:
    """The text of a file of settings that means `config`; JSON, which YAML includes."""
    usual = Config()
    plain: dict[str, object] = {
        key: getattr(config, key)
        for key in FIELDS
        if key not in _FIELDS_OF and getattr(config, key) != getattr(usual, key)
    }
    plain["topics"] = {name: {"type": t.type.name, "queues": t.queues} for name, t in config.topics.items()}
    plain["groups"] = {name: _group(group) for name, group in config.groups.items()}
    return json.dumps(plain, indent=1)


def _group(group: GroupSetting) -> dict[str, object]:
    pauses: dict[str, object] = {"retry_ms": list(group.retry_ms)}
    if group.backoff is not None:
        pauses = {"backoff": {field: getattr(group.backoff, field) for field in BACKOFF_FIELDS}}
    return {"attempts_max": group.attempts_max, **pauses, **group.flags.said()}
