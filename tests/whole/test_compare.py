"""`realm compare` on the made-up world: two systems are trained, judged alike, and resumed after an interruption."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import qa_world
from story import error, realm, result

from realm.config import override
from realm.knowledge.base import KnowledgeBase
from realm.recipes.finetuning import small
from realm.search.postings import Bm25
from realm.workflows.comparing.compare import compare_systems, taught_too
from realm.workflows.comparing.legs import open_tests
from realm.workflows.ingest import ingest_sources

SETTINGS = (
    *("encoder.layers=0", "encoder.pooling=weighted-mean", "encoder.frequency_a=1000", "encoder.dim=none"),
    *("encoder.normalize=l2", "encoder.temperature=0.1", "reader.layers=1", "reader.span_size=16"),
    *("reader.max_width=3", "reader.max_tokens=64", "reader.dropout=0.1", "questions.max_query_tokens=16"),
    *("questions.max_passage_tokens=40", "qa.steps=4", "qa.batch_size=4", "qa.num_passages=2", "qa.num_early=6"),
    *("dev.size=8", "dev.num_passages=2", "optim.warmup=2", "loop.checkpoint_every=2", "loop.log_every=1"),
    *("loop.keep_checkpoints=9", "loop.threads=1", "loop.device=cpu", "loop.tensorboard=false"),
)


class World(NamedTuple):
    folder: Path
    model: Path

    def flags(self, out: str, systems: str = "closed-book,bm25,orqa", **options: Any) -> list[Any]:
        """Arguments of the command."""
        given = {
            **{"kb": self.folder / "kb", "train": self.folder / "train.jsonl", "dev": self.folder / "dev.jsonl"},
            **{"test": f"paintings={self.folder / 'test.jsonl'}", "systems": systems, "start": f"orqa={self.model}"},
            **{"out": self.folder / out, "depth": "20", **options},
        }
        return ["compare", *(part for name, value in given.items() if value for part in (f"--{name}", value))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = qa_world.write_model(folder / "bert", masked_head=False, hidden=16)
    ingest_sources([str(qa_world.write_documents(folder / "documents.jsonl"))], folder / "kb", tokenizer=str(model))
    asked = qa_world.questions()
    qa_world.write_questions(folder / "train.jsonl", asked[:60])
    qa_world.write_questions(folder / "dev.jsonl", asked[60:80])
    rows = [
        {"id": q.id, "question": q.text, "answers": list(q.answers), "gold_ids": list(q.gold), "in_kb": n % 3 > 0}
        for n, q in enumerate(asked[80:110])
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return World(folder, model)


@pytest.fixture(scope="module")
def whole(world: World) -> dict[str, Any]:
    """Never interrupted."""
    found: dict[str, Any] = result(*world.flags("whole"), *SETTINGS)
    return found


def weights(leg: Path) -> dict[str, bytes]:
    files = sorted((leg / "checkpoints" / "step-000004").rglob("*.safetensors"))
    assert files
    return {str(file.relative_to(leg)): file.read_bytes() for file in files}


def timeless(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in found["figures"] if row["figure"] != "latency_p50_ms"]


def figure(found: dict[str, Any], system: str, name: str, part: str = "all") -> float:
    (row,) = [r for r in found["figures"] if (r["system"], r["figure"], r["part"]) == (system, name, part)]
    return float(row["mean"])


def test_every_system_is_judged_on_the_same_questions(world: World, whole: dict[str, Any]) -> None:
    assert {name: about["seeds"] for name, about in whole["systems"].items()} == {
        "closed-book": [0],
        "bm25": [0],
        "orqa": [0],
    }
    assert whole["sets"] == {"paintings": {"questions": 30, "in_kb": 20}}
    assert whole["taught_too"] == {"paintings": 0}
    for system in ("bm25", "orqa"):
        leg = world.folder / "whole" / f"{system}-s0"
        assert result("show", leg)["kind"] == "realm fine-tuning run"
        shown = result("show", leg / "model")
        assert not shown.get("damaged") and ("encoder" in shown) == (system == "orqa")
        lines = (leg / "evaluations/paintings/predictions.jsonl").read_text().splitlines()
        predictions = [json.loads(line) for line in lines]
        for part, asked in (("all", predictions), ("in_kb", [p for n, p in enumerate(predictions) if n % 3])):
            right = [one["exact_match"] for one in asked]
            assert figure(whole, system, "exact_match", part) == pytest.approx(sum(right) / len(right))
    # What words alone find is the engine's, whatever the reader makes of it.
    kb = KnowledgeBase.open(world.folder / "kb")
    passages = list(kb.passages())
    engine = Bm25.build((passage.title, passage.text) for passage in passages)
    asked = qa_world.questions()[80:110]
    rows = engine([question.text for question in asked], 5).rows.tolist()
    held = [
        any(question.answers[0].lower() in passages[row].text.lower().split() for row in found if row >= 0)
        for question, found in zip(asked, rows, strict=True)
    ]
    assert figure(whole, "bm25", "recall_string@5") == pytest.approx(sum(held) / len(held))
    assert not any(row["system"] == "closed-book" and "recall" in row["figure"] for row in whole["figures"])
    events = (world.folder / "whole" / "bm25-s0" / "metrics.jsonl").read_text()
    assert '"reader_loss"' in events and '"early_loss"' not in events


def test_the_table_is_text_csv_and_a_plot(world: World, whole: dict[str, Any]) -> None:
    out = world.folder / "whole"
    text = (out / "comparison.txt").read_text()
    assert "paintings, questions the knowledge base can answer (20)" in text and "BM25 + reader" in text
    with (out / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(whole["figures"])
    assert [float(row["mean"]) for row in rows] == [row["mean"] for row in whole["figures"]]
    with (out / "differences.csv").open() as stream:
        differences = [r for r in csv.DictReader(stream) if (r["part"], r["figure"]) == ("all", "recall_string@5")]
    (gain,) = differences
    assert (gain["system"], gain["minus"]) == ("orqa", "bm25")
    wanted = figure(whole, "orqa", "recall_string@5") - figure(whole, "bm25", "recall_string@5")
    assert float(gain["difference"]) == pytest.approx(wanted)
    assert ElementTree.parse(out / "comparison.svg").getroot().tag.endswith("svg")
    assert json.loads((out / "comparison.json").read_text())["figures"] == whole["figures"]
    shown = result("show", out)
    assert shown["kind"] == "realm comparison" and "BM25 + reader (seeds 0)" in shown["rows"]


def test_an_interrupted_comparison_goes_on_bit_for_bit(world: World, whole: dict[str, Any]) -> None:
    out, asked = world.folder / "again", 0

    def stop() -> bool:  # in the middle of the first training
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(KeyboardInterrupt):
        compare_systems(
            world.folder / "kb",
            world.folder / "train.jsonl",
            {"paintings": world.folder / "test.jsonl"},
            ["closed-book", "bm25", "orqa"],
            out,
            override(small(), SETTINGS),
            starts={"orqa": str(world.model)},
            dev=world.folder / "dev.jsonl",
            should_stop=stop,
        )
    assert (out / "comparison.txt").read_text().count("closed book") == 2, "what was done is told"
    assert not (out / "bm25-s0" / "checkpoints" / "step-000004").exists() and not (out / "orqa-s0").exists()
    found = result(*world.flags("again"), *SETTINGS)
    assert timeless(found) == timeless(whole)
    assert found["differences"] == whole["differences"]
    for system in ("bm25", "orqa"):
        assert weights(out / f"{system}-s0") == weights(world.folder / "whole" / f"{system}-s0"), system


def test_what_is_done_is_left_as_it_is_and_another_seed_joins(world: World, whole: dict[str, Any]) -> None:
    out = world.folder / "whole"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("report.json")}
    done = realm(*world.flags("whole", "closed-book,bm25", seeds="0,1"), *SETTINGS)
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (out / "closed-book-s1").exists() and (out / "bm25-s1" / "model").exists()
    rows = json.loads((out / "comparison.json").read_text())["figures"]
    by_seed = {row["system"]: row["by_seed"] for row in rows if (row["figure"], row["part"]) == ("f1", "all")}
    assert {name: len(values) for name, values in by_seed.items()} == {"closed-book": 1, "bm25": 2}
    assert weights(out / "bm25-s1") != weights(out / "bm25-s0")
    # Reports of other answers are made again: here a model that was trained on.
    stale = out / "bm25-s1" / "evaluations" / "paintings" / "report.json"
    report = json.loads(stale.read_text())
    stale.write_text(json.dumps({**report, "made_from": "another"}))
    realm(*world.flags("whole", "closed-book,bm25", seeds="0,1"), *SETTINGS)
    assert json.loads(stale.read_text())["made_from"] == report["made_from"]
    settings = out / "bm25-s1" / "model" / "config.json"
    settings.write_text(settings.read_text().replace('"aggregate": "marginal"', '"aggregate": "best-span"'))
    realm(*world.flags("whole", "closed-book,bm25", seeds="0,1"), *SETTINGS)
    assert json.loads(stale.read_text())["made_from"] != report["made_from"]


def test_a_run_from_elsewhere_is_judged_as_it_is(world: World, whole: dict[str, Any]) -> None:
    leg = world.folder / "whole" / "bm25-s0"
    before = {path: path.stat().st_mtime_ns for path in leg.rglob("*")}
    found = result(*world.flags("taken", "closed-book", run=f"words={leg}", seeds="0,1"), *SETTINGS, "qa.num_early=7")
    assert {path: path.stat().st_mtime_ns for path in leg.rglob("*")} == before
    assert found["systems"]["words"] == {"title": "words", "seeds": [0]}
    assert figure(found, "words", "f1") == figure(whole, "bm25", "f1")
    found = result(*world.flags("taken", "orqa", run=f"words={leg}"), *SETTINGS, "qa.num_early=7")
    assert found["settings_that_differ"]["qa.num_early"] == {"orqa": 7, "words": 6}
    assert set(found["settings_that_differ"]) == {"qa.num_early", "qa.retriever"}
    other = world.folder / "other-kb"
    documents = qa_world.write_documents(world.folder / "more.jsonl").read_text().splitlines()[:40]
    (world.folder / "more.jsonl").write_text("\n".join(documents) + "\n")
    ingest_sources([str(world.folder / "more.jsonl")], other, tokenizer=str(world.model))
    done = realm(*world.flags("taken2", "closed-book", run=f"words={leg}", kb=other), *SETTINGS)
    assert done.code == 1 and "compare what stands on one knowledge base" in done.err.splitlines()[-1]
    done = realm(*world.flags("taken", "closed-book", run=f"words={world.folder}"), *SETTINGS)
    assert done.code == 1 and "run.json" in done.err.splitlines()[-1]


def test_wrong_usage(world: World, whole: dict[str, Any]) -> None:
    done = realm(*world.flags("whole", "bm25"), *SETTINGS, "qa.steps=5")
    assert done.code == 1 and "was begun with qa.steps=4: found qa.steps=5" in done.err.splitlines()[-1]
    for options, said in (
        ({"systems": "bm25,dpr"}, "found system 'dpr': expected one of closed-book, bm25"),
        ({"systems": "bm25,bm25"}, "each once"),
        ({"start": "", "systems": "realm"}, "found no --start realm=..."),
        ({"start": "", "systems": "bm25"}, "found no --start bm25=... and none of orqa"),
        ({"start": "orqa"}, "expected NAME=VALUE"),
        ({"seeds": "0,x"}, "expected whole numbers"),
        ({"test": f"a/b={world.folder / 'test.jsonl'}"}, "expected a name of letters"),
    ):
        code, line = error(*world.flags("other", **options), *SETTINGS)
        assert code == 2 and said in line, line
    assert not (world.folder / "other").exists()


def test_questions_that_are_learnt_from_are_counted_among_those_judged(tmp_path: Path) -> None:
    asked = qa_world.questions()
    train = qa_world.write_questions(tmp_path / "train.jsonl", asked[:10])
    test = qa_world.write_questions(tmp_path / "test.jsonl", asked[6:16])
    assert taught_too(train, open_tests({"mine": test}, 0)) == {"mine": 4}
