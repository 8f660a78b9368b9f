"""Campaign `h2_fuzz`: mutated HTTP/2 conversations, 10 million in all (tests/proxy/http2/fuzz.py)."""

from collections.abc import Mapping

from tests.proxy.http2.fuzz import play

ROUNDS = 200
OF = ("proxy/rmq_proxy/http2", "tests/proxy/http2")
CONVERSATIONS = 50_000


def run(seed: int) -> Mapping[str, int]:
    """CONVERSATIONS of them, from `seed` times as many on."""
    for number in range(seed * CONVERSATIONS, (seed + 1) * CONVERSATIONS):
        play(number)
    return {"conversations": CONVERSATIONS}
