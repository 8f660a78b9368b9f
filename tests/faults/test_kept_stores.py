"""A store of each version of the format, as it was made, is opened by this version."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from rmq_store import storeformat
from rmq_store.repair import survey
from tests.faults import rot
from tests.fixtures.make_store import FOLDER
from tests.store.support import Rig

KEPT = sorted(FOLDER.glob("store-v*.tar.gz"))


def test_the_present_version_is_kept() -> None:
    """Whoever changes the format makes one more."""
    assert f"store-v{storeformat.VERSION}.tar.gz" in {path.name for path in KEPT}
    assert all(path.stat().st_size < 100 << 10 for path in KEPT)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_a_kept_store_is_opened_with_all_it_holds(tmp_path: Path, path: Path, checkpoint: bool) -> None:
    """Messages, keys, tags, and who still has to get what; by its checkpoint and by its log."""
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    wanted = json.loads(path.with_name(path.name.replace(".tar.gz", ".json")).read_text())
    assert survey(tmp_path).steps == []
    if not checkpoint:
        shutil.rmtree(tmp_path / "rmq" / "checkpoint")
    rig = Rig(tmp_path)
    found = dict(rot._messages(rig.store))
    assert [
        [*place, hashlib.sha256(message.body).hexdigest(), message.properties.decode(), message.tags_code]
        for place, message in sorted(found.items())
    ] == wanted["messages"]
    assert sorted(map(list, rot._unsettled(rig.store.state, found))) == wanted["unsettled"]
    assert rig.store.damage.total == 0
    assert (rig.store.report.records == 0) == checkpoint
    rig.close()
