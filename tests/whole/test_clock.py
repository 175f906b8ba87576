"""The machine's clock is set back while documents are edited. The store's order is that of its versions, not of times.

Every library of the process lives by the other clock, the store's in Rust among them: see `clock.c`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dots
import pytest

pytestmark = pytest.mark.slow

TESTS = Path(dots.__file__).parent
DAY = 86_400

EDITS = """
import json, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import dots
import numpy as np
from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.syncing import sync
from realm.types import Document

folder, clock = Path(sys.argv[1]), Path(sys.argv[2])
encoder = PassageEncoder("e", lambda passages: np.array([[len(p.text), 1.0] for p in passages]))
told = {"edits": []}

def edit(days, text, work):
    clock.write_text(str(int(days * 86400)))
    began = datetime.now(UTC)
    counts = work(Document("d", "", text))
    seen = KnowledgeBase.open(folder / "kb").get("d")
    told["edits"].append([counts.version, text, seen.text, kb.get("d").text, began.isoformat()])

clock.write_text(str(-2 * 86400))
kb = KnowledgeBase.create(folder / "kb", split=dots.split)
edit(-2, "one. and more.", lambda d: kb.add([d], encoder=encoder))
edit(0, "two. and more.", lambda d: kb.update(d, encoder=encoder))
edit(-1, "three. and more.", lambda d: kb.update(d, encoder=encoder))
told["back"] = datetime.now(UTC).isoformat()
def as_of(time):
    return kb.at(time).get("d").text
told["as of now, a day back"] = as_of(datetime.now(UTC))
told["as of the second edit"] = as_of(kb.history("d")[1].time)
try:
    kb.at(datetime.now(UTC) + timedelta(days=2))
except UsageError as error:
    told["in the future"] = str(error)
kb.add([Document("later", "", "not embedded.")])
waits = kb.waiting("e")
told["waiting"] = [waits.passages, (datetime.now(UTC) - waits.since).total_seconds() < 60]
(folder / "documents").mkdir()
(folder / "documents" / "a.txt").write_text("first.")
told["synced"] = [sync(kb, folder / "documents").added]
(folder / "documents" / "a.txt").write_text("other.")
clock.write_text(str(-3 * 86400))
told["synced"] += [sync(kb, folder / "documents").updated, sync(kb, folder / "documents").files_read]
kb.embed_missing(encoder)
edit(-3, "four. and more.", lambda d: kb.update(d, encoder=encoder))
edit(0.01, "five. and more.", lambda d: kb.update(d, encoder=encoder))
told["as of now"] = as_of(datetime.now(UTC))
kb.compact()
told["text"] = kb.get("d").text
told["found"] = sorted({m.passage.document_id for m in kb.search_vectors(np.array([1.0, 0.0]), k=50)})
told["texts"] = [kb.at(change.version).get("d").text for change in kb.history("d")]
told["revisions"] = [change.revision for change in kb.history("d")]
told["times"] = [change.time.isoformat() for change in kb.history("d")]
told["versions"] = [[version.version, version.time.isoformat()] for version in kb.versions()]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that shifts the time of day."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for a clock of our own")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(TESTS / "clock.c"), "-ldl"], check=True
    )
    return library


def run(clock: Path, folder: Path, script: str) -> dict[str, Any]:
    """What a script prints that lives by the clock in `folder`/clock."""
    environment = os.environ | {
        "LD_PRELOAD": str(clock),
        "CLOCK_SHIFT_FILE": str(folder / "clock"),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, "-W", "error", "-c", script, str(folder), str(folder / "clock")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.timeout(300)
def test_a_clock_set_back_changes_no_order_and_loses_nothing(clock: Path, tmp_path: Path) -> None:
    told = run(clock, tmp_path, EDITS)
    texts = [f"{word}. and more." for word in ("one", "two", "three", "four", "five")]
    versions, written, *seen, began = zip(*told["edits"], strict=True)
    assert list(versions) == sorted(set(versions)) and list(written) == texts
    assert seen == [written, written], "each edit is seen at once, by who holds the store open and by who opens it"
    assert told["times"] != sorted(told["times"]), "the clock was set back"
    assert [time[:10] for time in told["times"]] == [time[:10] for time in began]
    commits = [time for _, time in told["versions"]]
    assert commits != sorted(commits), "for the store, too"
    assert told["revisions"] == [1, 2, 3, 4, 5] and told["texts"] == texts
    assert [version for version, _ in told["versions"]] == sorted({version for version, _ in told["versions"]})

    # As of a time: no version that holds an edit with a later time on it.
    assert told["as of now, a day back"] == texts[0], "what was known when the clock showed this for the first time"
    assert told["as of the second edit"] in texts[1:3]
    assert "a time that has been" in told["in the future"]
    assert told["as of now"] == texts[4], "when it has caught up, now is now"

    assert told["waiting"] == [1, True] and told["synced"] == [1, 1, 0]
    assert told["text"] == texts[4] and told["found"] == ["a.txt", "d", "later"]
