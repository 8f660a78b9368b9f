"""Every setting: its type, its default, and what it may be.

Owns the struct `Config`. config.yaml explains each setting (it is the manual); a test holds both equal: keys, order,
defaults, limits. Where values come from: rmq/configsource.py. What a setting does is not known here.
"""

import re
from typing import Annotated, Literal, cast, get_args, get_type_hints

import msgspec
from msgspec import Meta, inspect

from rmq.message import MessageType
from rmq.retry import RetryPolicy

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
HOUR_MS = 3_600_000
WEEK_MS = 168 * HOUR_MS

_SIZE = re.compile(r"([0-9]{1,18}) ?(B|KiB|MiB|GiB|TiB)", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_UNITS = {"TiB": TIB, "GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,127}", re.ASCII)


class TopicSetting(msgspec.Struct, frozen=True):
    """A topic to make at start."""

    type: MessageType
    queues: int


class GroupFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What a group does or does not; None: as the store has it, or not.

    `orderly`: in order per queue. `lite_exclusive`: the last client that subscribes a lite topic has it alone (RocketMQ
    5.5: lite.sub.model). `lite_reset_on_takeover`, `lite_reset_on_unsubscribe`: the group's place in the lite topic
    then goes back to its oldest message (lite.sub.reset.offset.exclusive and .unsubscribe).
    """

    orderly: bool | None = None
    lite_exclusive: bool | None = None
    lite_reset_on_takeover: bool | None = None
    lite_reset_on_unsubscribe: bool | None = None

    def said(self) -> dict[str, bool]:
        """Those that are not None."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


GROUP_FLAGS = GroupFlags.__struct_fields__
AS_IS = GroupFlags()


class GroupSetting(msgspec.Struct, frozen=True):
    """A consumer group to make at start. `attempts_max` counts deliveries, the first included.

    `retry_ms`: how long after delivery 1, 2, ... the next may come, the last one repeating; empty: RocketMQ's steps.
    `backoff`: an exponential policy instead.
    """

    attempts_max: int
    retry_ms: tuple[int, ...] = ()
    backoff: RetryPolicy | None = None
    flags: GroupFlags = AS_IS

    @property
    def retry(self) -> RetryPolicy:
        """What these say."""
        return self.backoff or (RetryPolicy(self.retry_ms) if self.retry_ms else RetryPolicy())


class Config(msgspec.Struct, frozen=True):
    """All settings; config.yaml says what each is for. Sizes are bytes; names end in their unit."""

    data: str = "./rmq-data"
    host: str = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8081
    advertise: str = ""
    admin_remote: bool = False
    profile: Literal["dev", "strict"] = "dev"
    transport: Literal["native", "grpcio"] = "native"
    flush: Literal["durable", "fast", "memory"] = "durable"
    flush_interval_ms: Annotated[int, Meta(ge=1, le=60_000)] = 200
    cluster_name: str = "DefaultCluster"
    broker_name: str = "broker-a"
    broker_port: Annotated[int, Meta(ge=1, le=65535)] = 10911
    segment_bytes: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = GIB
    reserve_bytes: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = 64 * MIB
    retention_hours: Annotated[int, Meta(ge=1, le=87_600)] = 72
    log_bytes_max: Annotated[int, Meta(ge=0, le=1024 * TIB)] = 0
    disk_free_min_bytes: Annotated[int, Meta(ge=0, le=TIB)] = 256 * MIB
    memory_bytes_max: Annotated[int, Meta(ge=MIB, le=64 * GIB)] = 256 * MIB
    checkpoint_interval_ms: Annotated[int, Meta(ge=10, le=HOUR_MS)] = 1000
    checkpoint_records: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    queue_files_open_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 1024
    topic_queues: Annotated[int, Meta(ge=1, le=4096)] = 8
    queues_per_topic_max: Annotated[int, Meta(ge=1, le=4096)] = 1024
    topics_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000
    groups_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000
    message_bytes_max: Annotated[int, Meta(ge=1, le=128 * MIB)] = 4 * MIB
    request_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = 130 * MIB
    user_properties_max: Annotated[int, Meta(ge=0, le=4096)] = 128
    properties_bytes_max: Annotated[int, Meta(ge=0, le=30_000)] = 16_384
    invisible_ms_min: Annotated[int, Meta(ge=1, le=WEEK_MS)] = 10_000
    invisible_ms_max: Annotated[int, Meta(ge=1, le=WEEK_MS)] = 12 * HOUR_MS
    auto_renew_ms: Annotated[int, Meta(ge=1000, le=WEEK_MS)] = 60_000
    renew_total_ms_max: Annotated[int, Meta(ge=1000, le=WEEK_MS)] = 3 * HOUR_MS
    poll_ms_min: Annotated[int, Meta(ge=0, le=600_000)] = 5000
    poll_ms_max: Annotated[int, Meta(ge=1, le=600_000)] = 20_000
    polls_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    polls_per_group_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 1024
    receive_batch_max: Annotated[int, Meta(ge=1, le=1024)] = 32
    receive_bytes_max: Annotated[int, Meta(ge=1, le=GIB)] = 16 * MIB
    attempts_max: Annotated[int, Meta(ge=1, le=1000)] = 17
    sql_chars_max: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    sql_depth_max: Annotated[int, Meta(ge=2, le=300)] = 100
    sql_kept_chars_max: Annotated[int, Meta(ge=0, le=100_000_000)] = 262_144
    lower_priority_nth: Annotated[int, Meta(ge=2, le=1_000_000)] = 100
    delay_ms_max: Annotated[int, Meta(ge=1, le=3660 * 24 * HOUR_MS)] = 40 * 24 * HOUR_MS
    timers_max: Annotated[int, Meta(ge=0, le=100_000_000)] = 1_000_000
    transactions_max: Annotated[int, Meta(ge=0, le=100_000_000)] = 200_000
    transaction_check_ms: Annotated[int, Meta(ge=100, le=24 * HOUR_MS)] = 6000
    transaction_backoff_ms_max: Annotated[int, Meta(ge=100, le=24 * HOUR_MS)] = 60_000
    transaction_checks_max: Annotated[int, Meta(ge=0, le=1000)] = 15
    lite_topics_max: Annotated[int, Meta(ge=0, le=10_000_000)] = 100_000
    lite_subscriptions_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    lite_ttl_ms: Annotated[int, Meta(ge=0, le=3660 * 24 * HOUR_MS)] = 72 * HOUR_MS
    leases_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    parked_max: Annotated[int, Meta(ge=0, le=10_000_000)] = 1_000_000
    client_silent_ms: Annotated[int, Meta(ge=1000, le=24 * HOUR_MS)] = 120_000
    client_sends_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    topic_sends_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    client_receives_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    topic_receives_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    tls_mode: Literal["disabled", "permissive", "enforcing"] = "permissive"
    tls_cert: str = ""
    tls_key: str = ""
    tls_clients: Literal["off", "optional", "required"] = "off"
    tls_client_ca: str = ""
    proxy_sources: str = ""
    metrics_for_all: bool = False
    metrics_series_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    connections_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 16_384
    connections_per_address_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    handshakes_max: Annotated[int, Meta(ge=1, le=100_000)] = 200
    first_byte_ms: Annotated[int, Meta(ge=100, le=HOUR_MS)] = 10_000
    connection_idle_ms: Annotated[int, Meta(ge=0, le=24 * HOUR_MS)] = 120_000
    connection_age_ms: Annotated[int, Meta(ge=0, le=WEEK_MS)] = 0
    streams_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    headers_bytes_max: Annotated[int, Meta(ge=8 * KIB, le=MIB)] = 16 * KIB
    requests_held_bytes_max: Annotated[int, Meta(ge=MIB, le=64 * GIB)] = 512 * MIB
    answers_held_bytes_max: Annotated[int, Meta(ge=MIB, le=64 * GIB)] = 256 * MIB
    answers_held_total_bytes_max: Annotated[int, Meta(ge=MIB, le=1024 * GIB)] = GIB
    stall_ms: Annotated[int, Meta(ge=1000, le=24 * HOUR_MS)] = 60_000
    stop_grace_ms: Annotated[int, Meta(ge=0, le=60_000)] = 800
    reconnect_on_stop: bool = False
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    manual_clock: bool = False
    ready_file: str = ""
    topics: dict[str, TopicSetting] = {}
    groups: dict[str, GroupSetting] = {}


_HINTS = get_type_hints(Config)
FIELDS = {f.name: f.type for f in cast(inspect.StructType, inspect.type_info(Config)).fields}
_TEXT_RULES = {
    "data": "the path of a directory",
    "host": "one IP address, or empty for both loopbacks",
    "advertise": "HOST:PORT (an IPv6 host in brackets), or empty",
    "cluster_name": "1 to 127 letters, digits, _ or -",
    "broker_name": "1 to 127 letters, digits, _ or -",
    "ready_file": "the path of a file, or empty",
    "tls_cert": "the path of a PEM file, or empty",
    "tls_key": "the path of a PEM file, or empty",
    "tls_client_ca": "the path of a PEM file, or empty",
    "proxy_sources": "addresses or networks with commas between, or empty",
}


def parse_endpoint(text: str) -> tuple[str, int]:
    """Splits HOST:PORT, an IPv6 host in brackets (returned without). Raises ValueError."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets")
    if not host or not colon or not _WHOLE.fullmatch(port_text) or not 1 <= int(port_text) <= 65535:
        raise ValueError("not HOST:PORT")
    return host, int(port_text)


def choices(key: str) -> tuple[str, ...]:
    """The values of a setting that has a few words for values; empty for any other."""
    match FIELDS[key]:
        case inspect.LiteralType():
            return get_args(_HINTS[key])  # in the order they are written in, which msgspec does not keep
        case inspect.BoolType():
            return ("true", "false")
        case _:
            return ()


def allowed(key: str) -> str:
    """What `key` may be, in words: "0 to 65535", "dev or strict"; config.yaml uses the same words."""
    match FIELDS[key]:
        case inspect.IntType(ge=low, le=high):
            return f"{number_text(key, low or 0)} to {number_text(key, high or 0)}"
        case inspect.LiteralType() | inspect.BoolType():
            return " or ".join(choices(key))
        case _:
            return _TEXT_RULES.get(key, "text")


def read(key: str, raw: object) -> str | int | bool | None:
    """The value that `raw` means for `key`, None where it means none.

    Text is taken for numbers and truth values, and "64 MiB" for a size.
    """
    match FIELDS[key]:
        case inspect.IntType(ge=low, le=high):
            number = _whole(raw, size="bytes" in key.split("_"))
            return number if number is not None and (low or 0) <= number <= (high or 0) else None
        case inspect.BoolType():
            return raw if isinstance(raw, bool) else {"true": True, "false": False}.get(str(raw))
        case inspect.LiteralType():
            return raw if isinstance(raw, str) and raw in choices(key) else None
        case _:
            return raw if isinstance(raw, str) and _text_is_right(key, raw) else None


def _whole(raw: object, *, size: bool) -> int | None:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str):
        return None
    if _WHOLE.fullmatch(raw):
        return int(raw)
    sized = _SIZE.fullmatch(raw) if size else None
    return int(sized[1]) * _UNITS[sized[2]] if sized else None


def _text_is_right(key: str, text: str) -> bool:
    if "\0" in text:
        return False
    match key:
        case "data":
            return text != ""
        case "host":
            return text == "" or _is_address(text)
        case "advertise":
            return text == "" or _is_endpoint(text)
        case "proxy_sources":
            return all(map(_is_network, text.split(","))) if text else True
        case "cluster_name" | "broker_name":
            return _PLAIN_NAME.fullmatch(text) is not None
        case _:
            return True


def _is_address(text: str) -> bool:
    import ipaddress  # costs 5 ms, and most servers name no host

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_network(text.strip())
    except ValueError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    try:
        parse_endpoint(text)
    except ValueError:
        return False
    return True


def number_text(key: str, number: int) -> str:
    """`number` as a person writes it: sizes in the largest unit that fits exactly."""
    if "bytes" not in key.split("_"):
        return str(number)
    unit = next((u for u, step in _UNITS.items() if number >= step and number % step == 0), "")
    return f"{number // _UNITS[unit]} {unit}" if unit and unit != "B" else str(number)
