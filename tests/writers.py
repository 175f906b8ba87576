"""Processes that write to a knowledge base, a folder or an address: so many documents, or until they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from realm.types import Document

TESTS = Path(__file__).parent

WRITER = """
import sys
import dots
from realm.knowledge.base import KnowledgeBase
from realm.types import Document
kb = KnowledgeBase.open(sys.argv[1], split=dots.split)
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    kb.add([Document(f"{sys.argv[2]}{i}", sys.argv[2], f"one {i}. two {i}.")])
    kb.update(Document("shared", "", f"by {sys.argv[2]} {i}. and {sys.argv[2]} {i}."))
"""

EDITOR = """
import sys
import numpy as np
import dots
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from writers import edition
kb = KnowledgeBase.open(sys.argv[1], split=dots.split)
encoder = PassageEncoder("e", lambda passages: np.array([[len(p.text), 1.0] for p in passages]))
number = int(sys.argv[2])
while True:
    number += 1
    kb.upsert([edition(name, number) for name in "abc"], encoder=encoder)
    print(number, flush=True)
    if number % 5 == 0:
        kb.compact()
"""


def edition(name: str, number: int) -> Document:
    """A document whose every passage tells which edition it is of; the count of passages varies with it."""
    return Document(name, f"edition {number}", " ".join(f"{name} {number} part {i}." for i in range(1 + number % 4)))


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process, with pipes to its input and output."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
