"""`describe` on every kind of artefact, made by the parts that make them; whole, damaged and unfinished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import story
from hypothesis import given
from hypothesis import strategies as st

from realm import files
from realm.answering import packing
from realm.config import override
from realm.errors import ArtefactError, KnowledgeBaseError
from realm.knowledge import build as snapshots
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text import spans
from realm.models import cloze, encoders, late, span
from realm.recipes import small
from realm.search import compressed, postings, shards
from realm.search.embed import EmbeddingStopped, embed
from realm.training import state
from realm.training.optim import BertAdam
from realm.training.probe import Probe
from realm.workflows.ingest import ingest_sources
from realm.workflows.parts import prepare_text
from realm.workflows.reporting import Silent
from realm.workflows.run import Run
from realm.workflows.showing.artefacts import DESCRIBERS, size_text
from realm.workflows.showing.show import describe


@dataclass
class Made:
    folder: Path
    snapshot: Snapshot
    encoder: encoders.DenseEncoder
    reader: cloze.ClozeReader
    run: Run

    def path(self, name: str) -> Path:
        return {
            "kb": self.folder / "kb",
            "snapshot": self.snapshot.path,
            "spans": next(self.snapshot.path.parent.glob("*.spans-pattern")),
            "run": self.run.path,
            "checkpoint": self.run.checkpoints / "step-000006",
            "index": self.run.index / "step-000006",
            "encoder": self.run.checkpoints / "step-000006" / "encoder",
            "reader": self.run.checkpoints / "step-000006" / "reader",
            "postings": self.folder / "bm25",
            "probe": self.run.probe,
            "report": self.run.evaluations / "realm",
            "model": self.folder / "model",
        }[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("artefacts")
    model = story.write_model(folder / "model")
    ingest_sources([str(story.write_documents(folder / "towns.jsonl"))], folder / "kb", tokenizer=str(model))
    config = override(small(), story.settings(model))
    text = prepare_text(KnowledgeBase.open(folder / "kb"), str(model), config.data, Silent())
    snapshot = text.snapshot
    encoder = encoders.DenseEncoder.from_pretrained(model, layers=1, dim=16)
    reader = cloze.ClozeReader.from_pretrained(model, layers=1)
    run = Run(folder / "run")
    parents = {"knowledge_base": str(folder / "kb"), "knowledge_base_version": snapshot.version}
    run.create_or_resume(config, {**parents, "snapshot": snapshot.fingerprint, "corpus": None})
    optimizer = BertAdam([{"params": list(encoder.parameters()), "role": "retriever"}], lr=0.1)
    (run.warm_start / "checkpoints").mkdir(parents=True)
    state.save_checkpoint(run.warm_start / "checkpoints", 3, {"encoder": encoder}, optimizer, facts={})
    modules = {"encoder": encoder, "reader": reader}
    state.save_checkpoint(run.checkpoints, 6, modules, optimizer, facts={"index_step": 6})
    facts = {"encoder": encoder.fingerprint(), "step": 6, "published": 1_700_000_000.0}
    embed(encoder, snapshot, run.index / "step-000006", max_tokens=64, facts=facts)
    Probe.build(snapshot, text.spans, rows=np.arange(12), size=5, seed=1).save(run.probe)
    report = {"format": "realm evaluation", "figures": {"recall@1": 0.25, "recall@5": 0.5}}
    for name in ("warm-start", "realm"):
        files.write_json(run.evaluations / name / "report.json", report)
    events = [{"stage": "realm", "kind": "train", "step": s, "num_steps": 6, "loss": 9.0 - s} for s in (1, 5, 6)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    bm25 = postings.Bm25.build([("Almby", "a town")], facts={"snapshot": snapshot.fingerprint})
    bm25.save(folder / "bm25")
    return Made(folder, snapshot, encoder, reader, run)


def test_every_format_that_is_written_can_be_shown() -> None:
    written = {snapshots.FORMAT, spans.FORMAT, shards.FORMAT, postings.FORMAT, state.FORMAT, packing.REALM_MODEL}
    written |= {encoders.KIND, span.KIND, packing.ANSWERER, *(reader.KIND for reader in late.READERS.values())}
    written.add(compressed.FORMAT)
    assert set(DESCRIBERS) == written


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kb", "realm knowledge base"),
        ("snapshot", "realm snapshot"),
        ("spans", "realm spans"),
        ("run", "realm run"),
        ("checkpoint", "realm checkpoint"),
        ("index", "realm vectors"),
        ("encoder", "realm dense encoder"),
        ("reader", "realm cloze reader"),
        ("postings", "realm postings"),
        ("probe", "realm probe"),
        ("report", "realm evaluation"),
        ("model", "transformers model"),
    ],
)
def test_each_kind_is_recognised_and_whole(made: Made, name: str, kind: str) -> None:
    facts = describe(made.path(name))
    assert list(facts)[:2] == ["kind", "path"]
    assert facts["kind"] == kind
    assert "damaged" not in facts
    assert "unfinished" not in facts
    path = made.path(name)
    every = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() and name != "report" else []
    if every:
        assert facts["bytes"] == sum(p.stat().st_size for p in every)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    for value in facts.values():
        assert len(json.dumps(value)) < 1000
    if name not in ("kb", "model", "probe", "report"):
        assert facts["written_by"].startswith("realm ")


def test_what_it_was_made_from(made: Made) -> None:
    snapshot, encoder = made.snapshot.fingerprint, made.encoder.fingerprint()
    assert describe(made.path("snapshot"))["fingerprint"] == snapshot
    assert describe(made.path("snapshot"))["made_from"] == f"{made.path('kb')}, version {made.snapshot.version}"
    assert describe(made.path("spans"))["made_from"] == f"snapshot {snapshot}"
    assert describe(made.path("index"))["made_from"] == f"snapshot {snapshot}, encoder {encoder}"
    assert describe(made.path("postings"))["made_from"] == f"snapshot {snapshot}"
    assert describe(made.path("probe"))["made_from"] == f"snapshot {snapshot}"
    assert describe(made.path("encoder"))["fingerprint"] == encoder
    assert describe(made.path("checkpoint"))["encoder"].startswith(encoder)
    assert describe(made.path("checkpoint"))["reader"].startswith(made.reader.fingerprint())
    assert describe(made.path("checkpoint"))["run"] == str(made.run.path)


def test_the_figures_of_each(made: Made) -> None:
    kb = describe(made.path("kb"))
    assert (kb["documents"], kb["passages"], kb["vectors_of_encoders"]) == (24, 24, "none yet")
    assert kb["columns"]["source"] == "string"
    assert kb["splitter"]["max_tokens"] == 288
    assert kb["snapshots"] == [made.snapshot.path.name]
    index = describe(made.path("index"))
    assert (index["passages"], index["dim"], index["step"], index["shards"]) == (24, 16, 6, 1)
    assert index["published"] == "2023-11-14T22:13:20+00:00"
    spans_found = describe(made.path("spans"))
    assert spans_found["spans_per_passage"] == round(spans_found["spans"] / 24, 2)
    encoder = describe(made.path("encoder"))
    assert encoder["parameters"] == sum(p.numel() for p in made.encoder.parameters())
    assert (encoder["dim"], encoder["layers"], encoder["hidden_size"]) == (16, 1, 32)
    assert describe(made.path("probe"))["sentences"] == 5
    assert describe(made.path("report"))["recall@5"] == 0.5


def test_a_run(made: Made) -> None:
    facts = describe(made.run.path)
    assert facts["stage"] == "finished: REALM step 6 of 6, evaluated"
    assert facts["newest"] == {"stage": "realm", "step": 6, "loss": 3.0}
    assert facts["recall_before"] == "@1 25.0%, @5 50.0%"
    assert facts["settings"]["realm.num_candidates"] == 4
    assert facts["seed"] == 0
    assert facts["command"]
    assert facts["made_from"] == f"{made.path('kb')}, version {made.snapshot.version}"
    assert facts["snapshot"] == made.snapshot.fingerprint
    assert describe(made.run.path / "run.json") == facts  # the file that names it means the folder


def test_the_stages_of_an_unfinished_run(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run.path, tmp_path / "run")

    def stage() -> str:
        facts = describe(run)
        assert facts["unfinished"] == f"`realm pretrain {run}` goes on from here"
        return str(facts["stage"])

    (run / "evaluations" / "realm" / "report.json").unlink()
    assert stage() == "REALM, step 6 of 6, not evaluated yet"
    (run / "checkpoints" / "step-000006").rename(run / "checkpoints" / "step-000004")
    assert stage() == "REALM, step 4 of 6"
    (run / "checkpoints" / "step-000004").rename(run / "checkpoints" / ".step-000004.stage-0a1b2c3d")
    assert stage() == "warm start, step 3 of 3"
    assert describe(run)["leftovers"] == ["checkpoints/.step-000004.stage-0a1b2c3d"]
    shutil.rmtree(run / "warm-start")
    assert stage() == "begun, no checkpoint yet"


def test_vectors_that_wait_for_an_encoder(made: Made, tmp_path: Path) -> None:
    path = shutil.copytree(made.path("kb"), tmp_path / "kb")
    kb = KnowledgeBase.open(path, split=lambda documents: [[] for _ in documents])
    kb.embed_missing(PassageEncoder("e1", lambda passages: np.ones((len(passages), 16), np.float32)))
    facts = describe(path)
    assert facts["vectors_of_encoders"] == {"e1": "16 numbers a passage, 24 passages"}
    assert "unfinished" not in facts
    ingest_sources([_one_more(tmp_path)], path, tokenizer=kb.splitter["tokenizer"])
    facts = describe(path)
    assert facts["passages"] == 25
    assert facts["vectors_of_encoders"] == {"e1": "16 numbers a passage, 24 passages"}
    assert facts["unfinished"] == ["1 passages have no vector of e1 yet"]


def _one_more(folder: Path) -> str:
    text = "Evby has no river. It was founded in 1901."
    return str(story.write_documents(folder / "more.jsonl", [{"id": "evby", "title": "Evby", "text": text}]))


def test_an_empty_knowledge_base(tmp_path: Path) -> None:
    KnowledgeBase.create(tmp_path / "kb")
    assert describe(tmp_path / "kb")["unfinished"] == ["no passages yet: ingest some documents"]


def test_an_interrupted_index(made: Made, tmp_path: Path) -> None:
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done > 2

    with pytest.raises(EmbeddingStopped):
        embed(
            made.encoder,
            made.snapshot,
            tmp_path / "index",
            max_tokens=64,
            rows_per_shard=10,
            batch_tokens=320,
            should_stop=stop,
            facts={"encoder": "x"},
        )
    work = next(tmp_path.glob(".index.partial-*"))
    facts = describe(work)
    shards_done = len(list(work.glob("shard-*")))
    assert facts["unfinished"] == f"{shards_done} of 3 shards: the same command goes on from here"
    assert facts["made_from"] == f"snapshot {made.snapshot.fingerprint}, encoder x"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        ("snapshot", "body_ids.npy", _cut),
        ("snapshot", "text.npy", _remove),
        ("spans", "labels.npy", _remove),
        ("spans", "offsets.npy", _cut),
        ("index", "shard-00000-000000000-000000024.npy", _cut),
        ("index", "shard-00000-000000000-000000024.npy", _remove),
        ("encoder", "model.safetensors", _cut),
        ("encoder", "head.safetensors", _remove),
        ("reader", "config.json", _remove),
        ("checkpoint", "optimizer.safetensors", _cut),
        ("checkpoint", "loop.json", _remove),
        ("checkpoint", "reader", _remove),
        ("postings", "bm25s", _remove),
        ("model", "model.safetensors", _cut),
    ],
)
def test_damage_is_named(made: Made, tmp_path: Path, name: str, file: str, damage: Callable[[Path], None]) -> None:
    copy = shutil.copytree(made.path(name), tmp_path / "copy")
    damage(copy / file)
    problems = describe(copy)["damaged"]
    assert len(problems) == 1
    assert file in problems[0]


def test_damage_inside_a_checkpoint_is_named(made: Made, tmp_path: Path) -> None:
    copy = shutil.copytree(made.path("checkpoint"), tmp_path / "copy")
    (copy / "encoder" / "model.safetensors").write_bytes(b"\x01")
    assert describe(copy)["damaged"] == ["encoder: model.safetensors has no readable header"]


@pytest.mark.parametrize(
    ("files_made", "words"),
    [
        ({}, "is empty"),
        ({"a.txt": "x", "b.txt": "x", "c.txt": "x", "d.txt": "x"}, "holds a.txt, b.txt, c.txt and 1 more"),
        ({"manifest.json": '{"format": "photo album"}'}, "holds photo album"),
        ({"manifest.json": "[]"}, "holds an unknown manifest"),
        ({"manifest.json": '{"format": "realm vec'}, "is damaged"),
        ({"manifest.json": '{"format": "realm vectors"}'}, "manifest of the realm vectors"),
        ({"run.json": '{"format": "marathon"}'}, "expected a realm run"),
        ({"config.json": '{"colour": "red"}'}, "holds config.json"),
    ],
)
def test_what_is_not_ours(tmp_path: Path, files_made: dict[str, str], words: str) -> None:
    for name, text in files_made.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ArtefactError) as caught:
        describe(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_single_files_that_are_not_ours(tmp_path: Path, made: Made) -> None:
    (tmp_path / "x.json").write_text('{"format": "shopping list"}')
    (tmp_path / "kb.json").write_text("{}")
    for path, error, words in (
        (tmp_path / "x.json", ArtefactError, "shopping list"),
        (made.folder / "towns.jsonl", ArtefactError, "another kind"),
        (tmp_path / "absent", ArtefactError, "nothing at"),
        (tmp_path, KnowledgeBaseError, "kb.json"),
    ):
        with pytest.raises(error, match=words):
            describe(path)


@given(st.integers(0, 10**15))
def test_sizes_for_people_are_right_to_a_few_percent(size: int) -> None:
    number, unit = size_text(size).replace(",", "").split()
    shown = float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert abs(shown - size) <= 0.051 * max(size, 1)
    assert len(size_text(size)) <= 10


def test_nothing_heavy_is_loaded_to_show_an_index(made: Made) -> None:
    script = (
        "import sys; from pathlib import Path; from realm.workflows.showing.show import describe; "
        "describe(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(made.path("index"))], check=False).returncode == 0
