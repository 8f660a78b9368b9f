"""What metrics' sources write, without a server: as the text of an answer, or sample by sample."""

from collections.abc import Iterator

from rmq.metrics import Exposition, Source


def told(*sources: Source) -> str:
    """The whole text, without base labels."""
    page = Exposition({})
    for source in sources:
        for _ in source(page):
            pass
    return page.encode().decode()


def samples(text: str) -> dict[str, float]:
    """Value by name with its labels, as they are written."""
    return dict(_samples(text))


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)
