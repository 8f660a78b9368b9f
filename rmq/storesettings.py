"""What the configuration means to the store."""

from rmq.config import Config
from rmq_store import record
from rmq_store.flush import Mode
from rmq_store.store import Settings

_MEMORY_SEGMENTS = 8


def store_settings(config: Config) -> Settings:
    """A store in memory is a ring of a few segments; nothing of the disk counts for it."""
    mode = Mode(config.flush)
    memory = mode is Mode.MEMORY
    host = record.host_bytes(config.advertise.rpartition(":")[0])
    return Settings(
        mode=mode,
        segment_bytes=max(config.memory_bytes_max // _MEMORY_SEGMENTS, 1 << 20) if memory else config.segment_bytes,
        reserve_bytes=config.reserve_bytes,
        free_min_bytes=0 if memory else config.disk_free_min_bytes,
        flush_interval_ms=config.flush_interval_ms,
        checkpoint_interval_ms=config.checkpoint_interval_ms,
        checkpoint_records=config.checkpoint_records,
        queue_files_open_max=config.queue_files_open_max,
        store_host=host if len(host) == 4 and any(host) else b"\x7f\x00\x00\x01",
        store_port=config.broker_port,
    )
