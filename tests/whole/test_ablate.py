"""`realm ablate` on the towns of the story: rows stand on the parts they name, and what is done is left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import story
from story import error, realm, result

from realm.errors import UsageError
from realm.recipes.ablation import build_ablation
from realm.recipes.variants import vary
from realm.workflows.comparing.ablate import ROWS
from realm.workflows.finetuning import retriever

SETTINGS = (
    *("reader.span_size=16", "reader.max_width=3", "reader.max_tokens=100", "questions.max_query_tokens=16"),
    *("qa.steps=2", "qa.batch_size=4", "qa.num_passages=2", "qa.num_early=6", "dev.size=4", "dev.num_passages=2"),
    *("optim.warmup=1", "loop.device=cpu", "reader.freeze_word_embeddings=false"),
)


class World(NamedTuple):
    folder: Path
    model: Path

    def arguments(self, out: str, *, rows: str = "realm,realm-encoder,baseline") -> list[Any]:
        kb, train, dev, test = (self.folder / name for name in ("kb", "train.jsonl", "dev.jsonl", "test.jsonl"))
        flags = ["ablate", "--kb", kb, "--train", train, "--dev", dev, "--test", f"towns={test}", "--rows", rows]
        return [*flags, "--out", self.folder / out, *story.settings(self.model, probe__size="4"), *SETTINGS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = story.write_model(folder / "bert")
    documents = story.write_documents(folder / "documents.jsonl")
    assert realm("ingest", documents, "--kb", folder / "kb", "--tokenizer", model, "--max-tokens", "100").code == 0
    rows = [
        {"id": f"q{i}", "question": f"which river runs by {town}", "answers": [story.RIVERS[i % len(story.RIVERS)]]}
        for i, town in enumerate(story.TOWNS)
    ]
    for name, part in (("train", rows[:12]), ("dev", rows[12:16]), ("test", rows[16:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)) + "\n")
    return World(folder, model)


def test_rows_stand_on_the_parts_they_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_words(*_: Any) -> Any:
        raise AssertionError("the paper's retriever has vectors alone, before fine-tuning and after it")

    monkeypatch.setattr(retriever.parts, "open_postings", no_words)
    found = result(*world.arguments("out"))
    assert json.loads((world.folder / "out" / "ablation.json").read_text())["finetuning"]["qa"]["retriever"] == "dense"
    out = world.folder / "out"
    assert [name for name in found["rows"]] == ["realm", "realm-encoder", "baseline"]
    pretrained, last = out / "pretrain-realm-s0", "checkpoints/step-000006"
    assert [path.name for path in out.glob("pretrain-*")] == [pretrained.name]
    parents = {name: json.loads((out / f"{name}-s0/run.json").read_text())["parents"] for name in found["rows"]}
    readers = {name: json.loads((out / f"{name}-s0/config.json").read_text())["reader"] for name in found["rows"]}
    assert parents["realm"]["model"] == str(pretrained) and parents["realm"]["start"] == "realm"
    for name in ("realm-encoder", "baseline"):
        assert parents[name]["model"] == str(pretrained / "warm-start") and parents[name]["start"] == "ict"
    for name in ("realm", "realm-encoder"):
        assert readers[name]["model"] == str(pretrained / last / "reader")
    assert readers["baseline"]["model"] == str(world.model)
    assert {reader["layers"] for reader in readers.values()} == {1}

    figures = {(row["row"], row["figure"]): row for row in found["figures"]}
    assert figures["baseline", "exact_match"]["published"] == pytest.approx(0.313)
    recalls = {name: figures[name, "recall_string@5"]["by_seed"] for name in found["rows"]}
    assert recalls["realm-encoder"] == recalls["baseline"], "one retriever, not yet fine-tuned"
    assert {row["row"] for row in found["differences"]} == {"realm-encoder", "baseline"}
    text = (out / "ablation.txt").read_text()
    assert "baseline retriever + REALM encoder" in text and "38.2" in text and "13.9" in text
    assert (out / "ablation.svg").read_text().count("<circle") == 3 * 2 * 3

    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in ("report.json", "loop.json")}
    again = result(*world.arguments("out"))
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_settings_go_to_the_half_that_has_them() -> None:
    given = ["realm.steps=7", "qa.steps=9", "reader.layers=2", "loop.threads=1", "finetune:loop.log_every=3"]
    pretraining, finetuning = build_ablation([*given, "pretrain:refresh.every_steps=5"], steps=8)
    assert (pretraining.realm.steps, finetuning.qa.steps) == (7, 9)
    assert pretraining.reader.layers == finetuning.reader.layers == 2
    assert pretraining.loop.threads == finetuning.loop.threads == 1
    assert finetuning.loop.log_every == 3 != pretraining.loop.log_every
    assert build_ablation(["qa.steps=9"], steps=8)[0].realm.steps == 8
    assert vary(pretraining, "rare-refresh").refresh.every_steps == 150 and finetuning.refresh.every_steps != 5
    assert {vary(pretraining, name).data.masking for name in ("realm", "random-token", "random-span")} == {
        *("salient", "random-token", "random-span")
    }
    with pytest.raises(UsageError, match="expected joint"):
        build_ablation(["reader.interaction=late"])
    with pytest.raises(UsageError, match="found the variant"):
        vary(pretraining, "fresh")
    with pytest.raises(UsageError, match=r"no\.such"):
        build_ablation(["no.such=1"])


def test_the_published_table() -> None:
    exact_match, recall = zip(*((row.exact_match, row.recall) for row in ROWS.values()), strict=True)
    assert exact_match == (38.2, 37.4, 35.3, 31.3, 32.3, 35.3, 28.7)
    assert recall == (38.5, 38.5, 13.9, 13.9, 24.2, 26.1, 15.1)


def test_wrong_usage(world: World) -> None:
    assert "expected dense" in error(*world.arguments("other"), "finetune:qa.retriever=bm25")[1]
    code, line = error(*world.arguments("other", rows="realm,orqa"))
    assert code == 2 and "found rows realm, orqa" in line
    assert not (world.folder / "other").exists()
