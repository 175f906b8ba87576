"""Killed at random moments, and what sees it when something is lost: `python tests/crash.py` does 200 rounds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import crash_check
import crash_work as cw
import numpy as np
import pytest
import tiny
from crash_work import Places
from toy_realm import networks
from toy_service import CONFIG

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.workflows.store import create_or_open, open_knowledge_base

pytestmark = pytest.mark.slow

BEFORE: cw.State = {"a0": 5, "a1": 6, "b0": None}


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked beside threads")
def test_a_service_that_is_killed_loses_nothing(repository: Path) -> None:
    command = [sys.executable, str(repository / "tests" / "crash.py"), "--rounds", "1", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rounds in" in done.stdout and "none lost" in done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Realm, Path]:
    bert = tiny.tiny_bert(tmp_path_factory.mktemp("bert"))
    return Realm(*networks(bert), CONFIG), bert


@pytest.fixture(scope="module")
def stored(model: tuple[Realm, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    kb = create_or_open(folder / "kb", passages="sentences", max_tokens=40, tokenizer=str(model[1]))
    documents = [cw.edition(name, number) for name, number in BEFORE.items() if number is not None]
    version = kb.add(documents, encoder=model[0].passage_encoder).version
    kb.embed_missing(cw.other_encoder(1))
    entries = [{"lane": "a", "kind": "add", "groups": [{"a0": 5, "a1": 6}]}, {"lane": "a", "done": version}]
    entries += [{"lane": "b", "kind": "add", "groups": [{"b0": 9, "b1": 9}]}]
    (folder / "log").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def wrong_of(model: Realm, encode: Callable[..., np.ndarray]) -> PassageEncoder:
    return PassageEncoder(model.passage_encoder.fingerprint, encode)


def lost(kb: KnowledgeBase, model: Realm) -> None:
    kb.delete("a0")


def half(kb: KnowledgeBase, model: Realm) -> None:
    kb.add([cw.edition("b0", 9)], encoder=model.passage_encoder)


def mixed(kb: KnowledgeBase, model: Realm) -> None:
    kb.update(replace(cw.edition("a0", 5), title="edition 4"), encoder=model.passage_encoder)


def without(kb: KnowledgeBase, model: Realm) -> None:
    kb.add([cw.edition("b0", 9), cw.edition("b1", 9)])


def strange(kb: KnowledgeBase, model: Realm) -> None:
    dim = kb.encoders()[model.passage_encoder.fingerprint]
    kb.add([cw.edition("b0", 9), cw.edition("b1", 9)], encoder=wrong_of(model, lambda p: np.ones((len(p), dim))))


def foreign(kb: KnowledgeBase, model: Realm) -> None:
    kb.embed_missing(PassageEncoder("nobody", cw.other_encode))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lost, ["a0: edition None, acknowledged was 5"]),
        (half, ["b: add half there", "b0"]),
        (mixed, ["a0 is half there"]),
        (without, ["have no vector"]),
        (strange, ["not their texts'"]),
        (foreign, ["encoders that nobody has"]),
    ],
)
def test_what_is_lost_or_half_is_seen(
    model: tuple[Realm, Path], stored: Path, tmp_path: Path,
    harm: Callable[[KnowledgeBase, Realm], None], words: list[str],
) -> None:  # fmt: skip
    places = Places(shutil.copytree(stored / "kb", tmp_path / "kb"), tmp_path / "documents", stored / "log")
    harm(open_knowledge_base(places.kb), model[0])
    problems = crash_check.look(model[0], places, {}, 2)["problems"]
    assert problems and all(word in "\n".join(problems) for word in words), problems


def test_an_error_of_the_process_counts_and_nothing_else_does(
    model: tuple[Realm, Path], stored: Path, tmp_path: Path
) -> None:
    places = Places(shutil.copytree(stored / "kb", tmp_path / "kb"), tmp_path / "documents", tmp_path / "log")
    places.log.write_text((stored / "log").read_text() + '{"lane": "error", "error": "it broke"}\n{"lane": "a", "ki')
    found = crash_check.look(model[0], places, {}, 1)
    assert found["problems"] == ["the process failed: it broke"]
    assert found["state"] == BEFORE | {"b1": None}
    assert found["under_way"] == {"b": "add"} and found["came"] == {}
