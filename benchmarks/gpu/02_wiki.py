"""REALM over about 204,000 passages with a six-layer encoder and batches of 256, in legs of ten minutes on one GPU.

    python benchmarks/gpu/02_wiki.py pack PACKED SOURCE...          # CPU machine: ingest, snapshot, spans, model
    python benchmarks/gpu/02_wiki.py run PACKED OUT1 --leg 1        # GPU machine: warm start, first steps
    python benchmarks/gpu/02_wiki.py run PACKED OUT2 --leg 2 --after OUT1
    python benchmarks/gpu/02_wiki.py --try WORK SOURCE...           # anywhere: all of it, small, two legs

SOURCE: files that `realm ingest` reads; documents in another language than English are left out. Further arguments
of `run` are settings (realm.steps=8000 …), the same in every leg. The schedule spans all legs: its length is
realm.steps, and a leg goes as far as its minutes let it. legs.py says what travels between two legs, and why.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
from common import Deadline, say

SETTINGS = (
    # ---- six layers, trained but for the word embeddings (frozen: half of the weights need not travel)
    "encoder.layers=none", "encoder.pooling=mean", "encoder.dim=none", "encoder.normalize=l2", "encoder.init=random",
    "encoder.temperature=0.05", "encoder.learn_temperature=true", "encoder.backbone_dropout=0.1",
    "encoder.freeze_word_embeddings=true",
    # ---- a reader that costs little a candidate and travels in 4 MB
    "reader.layers=1", "reader.interaction=late", "reader.freeze_word_embeddings=true",
    "data.max_passage_tokens=288", "data.max_span_documents=none",
    "ict.steps=300", "ict.batch_size=1024", "ict.chunk_tokens=131072", "ict.learning_rate=3e-5",
    "realm.steps=4000", "realm.batch_size=256", "realm.num_candidates=17", "realm.learning_rate=2e-5",
    "realm.reader_learning_rate=2e-4", "realm.head_learning_rate=1e-3", "refresh.every_steps=200",
    "loop.threads=none", "loop.checkpoint_every=1000000", "loop.keep_checkpoints=1", "loop.tensorboard=false",
    "data.held_out_fraction=0.05", "probe.size=2000",
)  # fmt: skip
TINY = (
    "encoder.layers=1", "ict.steps=2", "ict.batch_size=8", "realm.steps=8", "realm.batch_size=4", "probe.size=24",
    "realm.num_candidates=5", "refresh.every_steps=2", "loop.log_every=1", "loop.threads=1",
    "data.held_out_fraction=0.2", "data.max_passage_tokens=64", "data.min_span_documents=1",
)  # fmt: skip
TOTAL_BYTES = 64_000_000
"""What a leg may take along: text, model or weights, and the checkout itself."""
CHECKOUT_BYTES = 1_800_000
LEG_BYTES = 19_600_000
"""Results of a leg with these settings: 13 million numbers in bf16 that shrink to 0.73, moments, settings."""


def pack(args: argparse.Namespace) -> None:
    """Sources to files, and whether they fit."""
    base = common.timed("ingest", lambda: common.ingest(args.sources, args.kb or args.packed / "kb", args.limit))
    text = common.timed("snapshot and spans", lambda: common.text_of(base, args.pipeline))
    facts = common.timed("pack", lambda: common.pack(text, args.packed / "pack", args.preset))
    first = facts["all_bytes"] + CHECKOUT_BYTES
    later = first - facts["layers_bytes"] + LEG_BYTES  # results of the leg before instead of the model's layers
    say(f"{facts['passages']:,} passages, {facts['pieces']:,} pieces, {facts['spans']:,} spans")
    say(f"text {facts['text_bytes'] / 1e6:.1f} MB")
    say(f"with the checkout: leg 1 {first / 1e6:.1f} MB, later ones {later / 1e6:.1f} MB")
    if max(first, later) > TOTAL_BYTES:
        a_passage = facts["text_bytes"] / facts["passages"]
        fits = int((TOTAL_BYTES - max(first, later)) / a_passage + facts["passages"])
        say(f"over {TOTAL_BYTES / 1e6:.0f} MB: about {fits:,} passages would fit")
    common.write_json(args.packed / "pack" / "pack.json", facts)


def run(args: argparse.Namespace) -> None:
    """One leg."""
    deadline = Deadline(args.minutes)
    if args.bare:
        common.without_optional()
    import legs

    from realm.training.metrics import read_metrics
    from realm.workflows.pretraining.comparison import compare
    from realm.workflows.pretraining.pretrain import pretrain_texts
    from realm.workflows.reporting import Silent
    from realm.workflows.run import Run

    work = args.work or args.out / "work"
    text, model = common.timed("unpack", lambda: common.unpack(args.packed, work))
    settings = common.configured("small", SETTINGS, [*(TINY if args.tiny else ()), f"model={model}", *args.settings])
    folder = work / "run"
    if args.leg > 1:
        common.timed("take up", lambda: legs.take_up(args.after, model, folder))
    run = Run(folder)
    snapshot = text.snapshot
    run.create_or_resume(settings, {"knowledge_base": str(args.packed), "knowledge_base_version": snapshot.version,
                                    "snapshot": snapshot.fingerprint, "corpus": None})  # fmt: skip
    common.leave_out_bm25(run)
    stop = common.Countdown(deadline, args.stop_after)
    finished = True
    try:
        pretrain_texts(run, settings, text, text, Silent(), stop)
    except KeyboardInterrupt:
        finished = False
    events = read_metrics(run.path / "metrics.jsonl")
    facts = common.timed("leave", lambda: legs.leave(run, model, args.out))
    train = [e for e in events if e["kind"] == "train" and e["stage"] == "realm"]
    curve = [(e["index_step"], e["recall@5"]) for e in events if e["kind"] == "refresh" and "recall@5" in e]
    result = {"leg": args.leg, "finished": finished, "of_steps": settings.realm.steps, "passages": len(snapshot),
              "step_seconds": [round(e["seconds"], 4) for e in train], "recall@5": curve,
              "figures": compare(run)["figures"], "machine": common.machine(), **facts}  # fmt: skip
    legs.finish(args.out, result, 60 * args.minutes - deadline.left)
    if args.work is None and not args.tiny:
        shutil.rmtree(work)  # what comes back is OUT, and its limits are tight
    say(f"leg {args.leg}: {facts['stage']} step {facts['step']}, {json.dumps(facts['files'])}")


def attempt(args: argparse.Namespace) -> None:
    """Pack a little, run two legs on a machine without the optional libraries, compare both sides of the seam."""
    started = Deadline(3)
    shutil.rmtree(args.work, ignore_errors=True)
    small = {"kb": None, "limit": 150, "pipeline": "pattern", "preset": 0}
    pack(argparse.Namespace(packed=args.work, sources=args.sources, **small))
    script = [sys.executable, str(Path(__file__).resolve()), "run", str(args.work / "pack")]
    one, two = args.work / "leg-1", args.work / "leg-2"
    shared = ["--tiny", "--bare", *args.settings]
    subprocess.run([*script, str(one), "--leg", "1", "--stop-after", "6", *shared], check=True)
    seam = compare_seam(one, args.work / "seam")
    say(f"the seam: {json.dumps(seam)}")
    for path in (args.work / "pack" / "model").glob("layers-*"):  # a later leg does without
        path.unlink()
    subprocess.run([*script, str(two), "--leg", "2", "--after", str(one), *shared], check=True)
    first, second = (json.loads((out / "leg.json").read_text()) for out in (one, two))
    lines = [json.loads(line) for line in (two / "work/run/metrics.jsonl").read_text().splitlines()]
    train = [e for e in lines if e["kind"] == "train" and e["stage"] == "realm"]
    expected = common.multiplier(first["step"], first["of_steps"])
    began = next(e for e in train if e["step"] == first["step"] + 1)
    checks = {
        "leg 1 was stopped in the middle": not first["finished"] and 0 < first["step"] < first["of_steps"],
        "every step was done once": [e["step"] for e in train] == list(range(1, first["of_steps"] + 1)),
        "the schedule went on": abs(began["learning_rate_multiplier"] - expected) < 1e-9,
        "leg 2 ended the run": second["finished"] and second["step"] == second["of_steps"],
        "both ends were judged": {"warm-start", "realm"} <= set(second["figures"]),
        **seam["checks"],
    }
    for name, good in checks.items():
        say(f"{'ok  ' if good else 'FAIL'} {name}")
    say(f"{180 - started.left:.0f} s")
    if not all(checks.values()):
        raise SystemExit(1)


def compare_seam(leg: Path, folder: Path) -> dict[str, Any]:
    """What leg 1 had in memory when it ended against what leg 2 begins with."""
    import legs
    import torch
    from safetensors.torch import load_file

    from realm.files import read_json

    before = legs.stage_of(legs.Run(leg / "work" / "run"))[1]
    after = legs.stage_of(legs.take_up(leg, leg / "work" / "model", folder))[1]
    worst, count, scale = 0.0, 0, 0.0
    for place in ("encoder", "reader"):
        for path in sorted((before / place).rglob("*.safetensors")):
            there = load_file(after / path.relative_to(before))
            for name, old in load_file(path).items():
                worst = max(worst, float(((there[name] - old).abs() / old.abs().clamp(min=1e-30)).max()))
                count += old.numel()
    old, new = (load_file(each / "optimizer.safetensors") for each in (before, after))
    for name, value in old.items():
        if name.endswith("exp_avg_sq") and value.ndim == 2:
            scale = max(scale, float((new[name].mean(1) - value.mean(1)).abs().max() / value.mean(1).max()))
    facts = [read_json(each / "loop.json") for each in (before, after)]
    checks = {
        "weights are equal to bf16": count > 1_000_000 and worst <= 2**-8,
        "second moments keep their rows": scale < 1e-3,
        "the random state is the same": torch.equal(old["random_state"], new["random_state"]),
        "the step is the same": facts[0]["step"] == facts[1]["step"],
    }
    return {"numbers": count, "largest_relative_difference": worst, "moments_difference": scale, "checks": checks}


def main() -> None:
    if "--try" in sys.argv[1:]:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--try", dest="work", type=Path, required=True, metavar="WORK")
        parser.add_argument("sources", nargs="+", type=Path)
        parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
        return attempt(parser.parse_args())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("packed", type=Path)
    packing.add_argument("sources", nargs="*", type=Path)
    packing.add_argument("--kb", type=Path, help="a knowledge base to keep, or one that holds the sources already")
    packing.add_argument("--pipeline", default="en_core_web_sm", help="spaCy pipeline, or 'pattern', 30 times faster")
    packing.set_defaults(preset=6)
    packing.add_argument("--limit", type=int, help="documents of each source")
    leg = verbs.add_parser("run")
    leg.add_argument("packed", type=Path)
    leg.add_argument("out", type=Path)
    leg.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    leg.add_argument("--leg", type=int, default=1)
    leg.add_argument("--after", type=Path, help="results of the leg before")
    leg.add_argument("--minutes", type=float, default=8.5, help="of training and preparing; writing comes on top")
    leg.add_argument("--work", type=Path, help="scratch folder, kept; OUT/work, which is removed, by default")
    leg.add_argument("--stop-after", type=int, help="steps of this leg, warm start counted")
    leg.add_argument("--bare", action="store_true", help="as if no optional library were installed")
    leg.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.verb == "run" and args.leg > 1 and args.after is None:
        parser.error("--leg 2 and later need --after: the results of the leg before")
    pack(args) if args.verb == "pack" else run(args)


if __name__ == "__main__":
    main()
