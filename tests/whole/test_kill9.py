"""Several processes and sudden death: what was committed stays, what was not is absent, nothing is in between."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import dots
import numpy as np
import pytest
from writers import EDITOR, WRITER, edition, start

from realm.errors import KnowledgeBaseError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.types import Document

pytestmark = pytest.mark.slow


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    kb.add([Document("shared", "", "first.")])
    count = 4
    writers = [start(WRITER, str(kb.path), name, str(count)) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    names = {document.id for document in kb.documents()}
    assert names == {"shared"} | {f"{side}{i}" for side in ("left", "right") for i in range(count)}
    revisions = kb.history("shared")
    assert [revision.revision for revision in revisions] == list(range(1, 2 * count + 2))
    seen = [kb.at(revision.version).get("shared") for revision in revisions]
    for side in ("left", "right"):
        theirs = [document.text for document in seen if document is not None and f"by {side}" in document.text]
        assert theirs == [f"by {side} {i}. and {side} {i}." for i in range(count)]


def test_kill_9_at_any_moment_leaves_whole_documents(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    number = 0
    kb.add([edition(name, number) for name in "abc"])
    chance = random.Random(0)
    for _ in range(3):
        editor = start(EDITOR, str(kb.path), str(number))
        assert editor.stdout is not None and editor.stdin is not None
        acknowledged = int(editor.stdout.readline())
        time.sleep(chance.uniform(0.0, 0.3))
        editor.send_signal(signal.SIGKILL)
        rest = editor.stdout.read().split()
        editor.wait()
        editor.stdout.close()
        editor.stdin.close()
        acknowledged = max([acknowledged, *map(int, rest)])

        kb = KnowledgeBase.open(kb.path, split=dots.split)
        documents = list(kb.documents())
        number = int(documents[0].title.removeprefix("edition "))
        assert number in (acknowledged, acknowledged + 1)
        assert documents == [edition(name, number) for name in "abc"]
        assert list(kb.passages()) == [p for found in dots.split(documents) for p in found]
        found = kb.search_vectors(np.array([1.0, 0.0]), k=100)
        assert {(m.passage, m.score) for m in found} == {(p, float(len(p.text))) for p in kb.passages()}
        assert len(kb.search_text(f"{number}", k=100)) == kb.num_passages()
    assert [r.revision for r in kb.history("a")] == list(range(1, number + 2))
    kb.update(edition("a", number + 1), encoder=PassageEncoder("e", lambda p: np.ones((len(p), 2))))
    assert kb.get("a") == edition("a", number + 1)


def test_a_writer_that_waits_too_long_says_for_whom(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    hold = """
import sys
from pathlib import Path
from realm.knowledge.table.store import Store
with Store(Path(sys.argv[1])).writing(5.0):
    print("held", flush=True)
    sys.stdin.readline()
"""
    holder = start(hold, str(kb.path))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    impatient = KnowledgeBase.open(kb.path, split=dots.split, lock_timeout=0.2)
    with pytest.raises(KnowledgeBaseError, match=f"written by process {holder.pid} since .*waited 0.2 s"):
        impatient.add([Document("a", "", "x.")])
    assert len(impatient) == 0, "readers don't wait"
    holder.communicate("go\n", timeout=30)
    assert impatient.add([Document("a", "", "x.")]).added == 1
