"""Runs the load generator on the client's core and reads its one line of JSON.

Adds what the machine did meanwhile: the servers' memory, steal, and what others used.
"""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench import machine
from bench.servers import Server
from bench.tools import BenchError

Sample = dict[str, float]
ERROR = "errors: "  # begins the key of a kind of error, whose value is how many there were
SLACK_S = 120.0  # beyond the times a command was given: connecting, draining, the last long polls


def run(program: Path, core: int, server: Server, command: str, within_s: float, /, **flags: object) -> Sample:
    """One command of the load generator. Raises BenchError if it fails or runs for longer than `within_s` and slack."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    pids = server.pids
    words = [
        *("taskset", "-c", str(core), str(program), command, f"--endpoint={server.endpoint}"),
        *(f"--pids={','.join(map(str, pids))}", *arguments),
    ]
    before, used_before_s = machine.Busy.now(), _used_s(pids)
    line = _output(words, within_s + SLACK_S)
    after = machine.Busy.now().since(before, _used_s(pids) - used_before_s)
    return {**parse(line, f"{command} on {server.name}"), **machine.memory_mib(server.pids), **after}


def _used_s(pids: list[int]) -> float:
    """CPU seconds of the servers, of ourselves and of the clients that have ended."""
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return machine.cpu_s(pids) + sum(one.ru_utime + one.ru_stime for one in ours)


def _output(words: list[str], within_s: float) -> str:
    """In a session of its own: Ctrl-C reaches us only, and we end it."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.communicate(timeout=within_s)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise BenchError(f"{words[4]} is still running after {within_s:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def parse(output: str, what: str) -> Sample:
    """The numbers of the line, nested ones as "send_call_ms.p50". Raises BenchError where it tells of a failure."""
    try:
        shown = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchError(f"{what}: not a line of JSON: {output.strip()[-200:]!r}") from None
    if failed := shown.get("failed"):
        raise BenchError(f"{what}: {failed}")
    return flatten(shown)


def flatten(shown: Mapping[str, object], prefix: str = "") -> Sample:
    """Numbers and truths only."""
    flat: Sample = {}
    for key, value in shown.items():
        if key == "error_samples" and isinstance(value, Mapping):
            flat |= {f"{ERROR}{text}": float(count) for text, count in value.items()}
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            flat[prefix + key] = float(value)
    return flat
