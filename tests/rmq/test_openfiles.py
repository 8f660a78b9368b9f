"""How many files a server may have open: raised where it may be, told where it may not."""

import logging
from collections.abc import Callable

import pytest

from rmq import openfiles
from rmq.config import Config

resource = pytest.importorskip("resource")
CONFIG = Config(connections_max=1000, queue_files_open_max=100)
NEEDED = 1100 + openfiles.BESIDE

Limits = tuple[int, int]


def refuse(which: int, limits: Limits) -> None:
    """As a system that has a further limit."""
    raise ValueError("not allowed to raise maximum limit")


@pytest.fixture
def allowing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Limits], list[Limits]]:
    """Under these limits, what they are set to."""

    def allow(limits: Limits) -> list[Limits]:
        taken: list[Limits] = []
        monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda which, limits: taken.append(limits))
        openfiles.allow(CONFIG)
        return taken

    return allow


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ((NEEDED, NEEDED), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
        ((256, NEEDED), [(NEEDED, NEEDED)]),
        ((256, resource.RLIM_INFINITY), [(NEEDED, resource.RLIM_INFINITY)]),
    ],
)
def test_the_limit_is_raised_without_a_word(
    allowing: Callable[[Limits], list[Limits]],
    limits: Limits,
    taken: list[Limits],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As far as the settings want, where it was not enough."""
    with caplog.at_level(logging.WARNING):
        assert allowing(limits) == taken
    assert not caplog.messages


def test_a_hard_limit_that_is_too_low_is_told(
    allowing: Callable[[Limits], list[Limits]], caplog: pytest.LogCaptureFixture
) -> None:
    """With what to do; all that may be had is taken."""
    with caplog.at_level(logging.WARNING):
        assert allowing((256, 300)) == [(300, 300)]
    (said,) = caplog.messages
    assert f"may open 300 files; connections_max (1000), queue_files_open_max (100) and the rest want {NEEDED}" in said


def test_a_system_that_refuses_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The limit stays what it was, and the server starts."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with caplog.at_level(logging.WARNING):
        openfiles.allow(CONFIG)
    assert "may open 256 files" in caplog.text
