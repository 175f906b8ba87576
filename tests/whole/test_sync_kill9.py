"""A run that keeps a folder in step is killed at any moment: the next one goes on, and nothing is lost or half."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dots
import pytest

from realm.knowledge.base import KnowledgeBase
from realm.knowledge.formats.sources import read_documents
from realm.knowledge.syncing import sync
from realm.types import Document

pytestmark = pytest.mark.slow

TESTS = Path(dots.__file__).parent

SYNC = """
import sys
import dots
from realm.knowledge.table import writing
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.syncing import sync
writing.BATCH_DOCUMENTS = 1
kb = KnowledgeBase.open(sys.argv[1], split=dots.split)
print("ready", flush=True)
sys.stdin.readline()
sync(kb, sys.argv[2])
"""


def change(folder: Path, round_: int, draw: random.Random) -> None:
    """Some files come, some go, most change."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in draw.sample(range(16), 12):
        edition = round_ if draw.random() < 0.7 else 0
        (folder / f"{number}.txt").write_text(f"edition {edition} of {number}. and more of {edition}.")


@pytest.mark.timeout(300)
def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    folder, draw = tmp_path / "docs", random.Random(0)
    kb = KnowledgeBase.create(tmp_path / "kb", split=dots.split)
    mine = Document("mine", "", "by hand.")
    kb.add([mine])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    for round_ in range(1, 4):
        change(folder, round_, draw)
        arguments = [sys.executable, "-W", "error", "-c", SYNC, str(kb.path), str(folder)]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(draw.uniform(0.02, 0.3))  # a dozen commits take about as long
        process.send_signal(signal.SIGKILL)
        process.communicate()

        texts = {document.id: document.text for document in kb.documents()}
        for name, text in texts.items():  # whole, of this round or of one before
            number, edition = name.removesuffix(".txt"), text.split(" ")[1] if name != "mine" else ""
            assert name == "mine" or text == f"edition {edition} of {number}. and more of {edition}."
        sync(kb, folder)
        expected = {document.id: document for document in read_documents(folder)} | {"mine": mine}
        assert {document.id: document for document in kb.documents()} == expected
        assert sync(kb, folder).files_read == 0
