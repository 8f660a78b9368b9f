"""How many files this process may have open, and how many the settings want: connections, queues, the rest."""

import contextlib
import logging

from rmq.config import Config

log = logging.getLogger("rmq.openfiles")
BESIDE = 512  # listening sockets, segments, the checkpoint, libraries


def wanted(config: Config) -> int:
    """Open files at the limits of the configuration."""
    return config.queue_files_open_max + config.connections_max + BESIDE


def allow(config: Config) -> None:
    """Raises our own limit as far as the system lets us; warns where connections would be refused before their limit.

    Where the limit is met all the same, the system refuses the connection, and those that are there go on.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted(config)
    if _covers(soft, needed):
        return
    allowed = needed if _covers(hard, needed) else hard
    with contextlib.suppress(ValueError, OSError):  # some systems have a further limit that they do not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if _covers(soft, needed):
        return
    log.warning(
        "this process may open %d files; connections_max (%d), queue_files_open_max (%d) and the rest want %d: "
        "raise the hard limit (ulimit -Hn), or lower one of the two",
        soft,
        config.connections_max,
        config.queue_files_open_max,
        needed,
    )


def _covers(limit: int, needed: int) -> bool:
    import resource

    return limit == resource.RLIM_INFINITY or limit >= needed
