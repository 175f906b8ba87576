"""Long pre-training on the vital corpus with a deep retriever, on one GPU.

    python benchmarks/gpu/01_vital.py pack KB PACKED        # CPU machine: snapshot, spans, model folder
    python benchmarks/gpu/01_vital.py run PACKED OUT        # GPU machine, about nine minutes
    python benchmarks/gpu/01_vital.py run PACKED OUT --try  # anywhere: a few steps, to see that it runs

Writes OUT/result.json (both ends of the comparison and the rates), OUT/metrics.jsonl and OUT/config.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from realm.config import PretrainConfig, override
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.spans import SpanTable
from realm.recipes import build
from realm.training.metrics import read_metrics
from realm.workflows import parts
from realm.workflows.comparison import bm25_report, compare, save_report
from realm.workflows.parts import Text
from realm.workflows.pretrain import pretrain_texts
from realm.workflows.reporting import Silent
from realm.workflows.run import Run
from realm.workflows.workbench import Workbench


def config(model: str, tiny: bool) -> PretrainConfig:
    """Six layers, trained whole; 128 word pieces; 16 candidates; refresh beside the training."""
    settings = [
        f"model={model}", "encoder.layers=none", "encoder.freeze_word_embeddings=false", "reader.layers=none",
        "reader.freeze_layers=0", "reader.freeze_word_embeddings=false", "data.max_passage_tokens=128",
        "ict.steps=400", "ict.batch_size=512", "ict.learning_rate=5e-5", "realm.steps=1500", "realm.batch_size=64",
        "realm.num_candidates=16", "realm.learning_rate=2e-5", "realm.reader_learning_rate=5e-5",
        "refresh.every_steps=100", "loop.checkpoint_every=500", "loop.threads=none",
    ]  # fmt: skip
    if tiny:
        settings += [
            "ict.steps=2", "ict.batch_size=8", "realm.steps=4", "realm.batch_size=2", "probe.size=40",
            "refresh.every_steps=2", "realm.num_candidates=4", "encoder.layers=1", "reader.layers=1",
        ]  # fmt: skip
    return override(build("small"), settings)


def pack(kb: Path, packed: Path) -> None:
    """Lay out what the GPU machine can't make."""
    from realm.knowledge.catalog import resolve_model
    from realm.workflows.store import open_knowledge_base

    model = resolve_model("all-MiniLM-L6-v2")
    settings = config(model, tiny=False)
    text = parts.prepare_text(open_knowledge_base(kb), model, settings.data, Silent())
    shutil.copytree(text.snapshot.path, packed / "snapshot")
    shutil.copytree(text.spans.path, packed / "spans")
    shutil.copytree(model, packed / "model")


def run(packed: Path, out: Path, tiny: bool) -> None:
    """The job."""
    settings = config(str(packed / "model"), tiny)
    snapshot = Snapshot.open(packed / "snapshot")
    text = Text(snapshot, SpanTable.open(packed / "spans", snapshot))
    folder = Run(out / "run")
    folder.create_or_resume(settings, {"knowledge_base": str(packed), "knowledge_base_version": snapshot.version,
                                       "snapshot": snapshot.fingerprint, "corpus": None})  # fmt: skip
    if not folder.has_report("bm25"):
        try:
            bench = Workbench(folder, settings, text, text, None, Silent(), None)  # type: ignore[arg-type]
            save_report(folder, "bm25", bm25_report(bench.probe, text, text, settings))
        except ImportError:  # no BM25 library here: the row is left out
            save_report(folder, "bm25", {"figures": {}, "found": {}})
    started = time.time()
    pretrain_texts(folder, settings, text, text, Silent())
    train = [e for e in read_metrics(folder.path / "metrics.jsonl") if e["kind"] == "train" and e["stage"] == "realm"]
    result = {"seconds": time.time() - started, "step_seconds": [e["seconds"] for e in train], **compare(folder)}
    (out / "result.json").write_text(json.dumps(result, indent=1))
    for name in ("metrics.jsonl", "config.json"):
        shutil.copy(folder.path / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "run"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--try", dest="tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pack(args.source, args.out) if args.what == "pack" else run(args.source, args.out, args.tiny)


if __name__ == "__main__":
    sys.exit(main())
