"""The seven ablations of pre-training at a fixed short budget, several a leg, on one GPU.

    python benchmarks/gpu/03_ablations.py pack PACKED SOURCE...        # CPU machine; or --kb KB for one that is there
    python benchmarks/gpu/03_ablations.py run PACKED OUT               # GPU machine, as many as nine minutes hold
    python benchmarks/gpu/03_ablations.py run PACKED OUT2 --after OUT  # the next leg: what is missing
    python benchmarks/gpu/03_ablations.py --try WORK SOURCE...         # anywhere: all of it, small, two legs

Writes OUT/ablations.json after every run: one entry an ablation and seed. All are judged on one probe, by the
baseline's rule of what may not be retrieved, whatever they trained with. Runs of a seed share one warm start.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from common import Deadline, say

SETTINGS = (
    "encoder.layers=none", "encoder.pooling=mean", "encoder.dim=none", "encoder.normalize=l2", "encoder.init=random",
    "encoder.temperature=0.05", "encoder.learn_temperature=true", "encoder.backbone_dropout=0.1",
    "encoder.freeze_word_embeddings=true",
    # the paper's kind of reader: a late one can't do without copying
    "reader.layers=2", "reader.interaction=joint", "reader.freeze_word_embeddings=true",
    "data.max_passage_tokens=128", "data.max_span_documents=none",
    "ict.steps=100", "ict.batch_size=512", "ict.chunk_tokens=65536", "ict.learning_rate=3e-5",
    "realm.steps=400", "realm.batch_size=64", "realm.num_candidates=8", "realm.learning_rate=2e-5",
    "realm.reader_learning_rate=1e-4", "realm.head_learning_rate=1e-3", "refresh.every_steps=10", "refresh.mode=sync",
    "loop.threads=none", "loop.checkpoint_every=1000000", "loop.keep_checkpoints=1", "loop.tensorboard=false",
    "probe.size=3000",
)  # fmt: skip
TINY = (
    "encoder.layers=1", "reader.layers=1", "ict.steps=1", "ict.batch_size=8", "realm.steps=2", "realm.batch_size=2",
    "realm.num_candidates=3", "refresh.every_steps=1", "probe.size=16", "loop.threads=1", "data.max_passage_tokens=32",
    "data.min_span_documents=1",
)  # fmt: skip
RARER = 30
"""Times: Guu et al. 2020, section 4.5, "30x stale MIPS"."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "random-token": ("data.masking=random-token",),
    "random-span": ("data.masking=random-span",),
    "no-null": ("realm.null_passage=false", "encoder.null_bias=none"),
    "no-ict": ("ict.steps=0",),
    "no-exclusion": ("data.exclude=none", "data.exclude_duplicates=false"),
    "no-copy": ("reader.copy_head=false",),
    "rare-refresh": (),  # 30 times the baseline's interval, whatever that is
}
"""The baseline and what each ablation changes about it."""


def settings_of(name: str, seed: int, model: Path, extra: list[str]) -> Any:
    """The configuration of an ablation; settings of the command line concern the baseline, too."""
    shared = [*SETTINGS, *extra, f"model={model}", f"loop.seed={seed}"]
    base = common.configured("small", shared)
    own = list(ABLATIONS[name])
    if name == "rare-refresh":
        own = [f"refresh.every_steps={RARER * base.refresh.every_steps}"]
    return common.configured("small", shared, own)


def pack(args: argparse.Namespace) -> None:
    base = common.ingest(args.sources, args.kb or args.packed / "kb", args.limit)
    facts = common.pack(common.text_of(base, args.pipeline), args.packed / "pack", args.preset)
    common.write_json(args.packed / "pack" / "pack.json", facts)
    say(f"{facts['passages']:,} passages: {facts['all_bytes'] / 1e6:.1f} MB")


def run(args: argparse.Namespace) -> None:
    """A leg: whatever is missing and still fits."""
    deadline = Deadline(args.minutes)
    if args.bare:
        common.without_optional()
    extra = [*(TINY if args.tiny else ()), *args.settings]
    found: list[dict[str, Any]] = []
    if args.after is not None:
        found = json.loads((args.after / "ablations.json").read_text())["runs"]
    names = args.only.split(",") if args.only else list(ABLATIONS)
    wanted = [(name, seed) for seed in range(args.seeds) for name in names]
    left = [each for each in wanted if each not in {(entry["ablation"], entry["seed"]) for entry in found}]
    took = 0.0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text, model = common.timed("unpack", lambda: common.unpack(args.packed, work))
        for number, (name, seed) in enumerate(left):
            if number == args.most or (number and deadline.left < 1.15 * took):
                break
            started = time.perf_counter()
            entry = one(name, seed, settings_of(name, seed, model, extra), settings_of("baseline", seed, model, extra),
                        text, work)  # fmt: skip
            took = max(took, time.perf_counter() - started)
            found.append({**entry, "seconds": round(time.perf_counter() - started, 1)})
            facts = {"passages": len(text.snapshot), "settings": [*SETTINGS, *extra], "machine": common.machine()}
            result = {"runs": found, "missing": left[number + 1 :], **facts}
            common.write_json(args.out / "ablations.json", result)
            say(f"{name}, seed {seed}: {json.dumps(entry['figures'])}, {took:.0f} s at most so far")
    say(f"{len(found)} of {len(wanted)} done")


def one(name: str, seed: int, config: Any, baseline: Any, text: Any, work: Path) -> dict[str, Any]:
    """Train one ablation and judge it by the baseline's rules."""
    from realm.models.encoders import DenseEncoder
    from realm.search.exact import ExactIndex
    from realm.training.metrics import read_metrics
    from realm.training.probe import Probe
    from realm.training.state import latest_checkpoint, read_facts
    from realm.workflows.parts import choose_device
    from realm.workflows.pretraining.comparison import compare, evaluate_index
    from realm.workflows.pretraining.pretrain import pretrain_texts
    from realm.workflows.reporting import Silent
    from realm.workflows.run import Run

    snapshot = text.snapshot
    run = Run(work / f"{name}-{seed}")
    run.create_or_resume(config, {"knowledge_base": "packed", "knowledge_base_version": snapshot.version,
                                  "snapshot": snapshot.fingerprint, "corpus": None})  # fmt: skip
    common.leave_out_bm25(run)
    shared = work / f"warm-{seed}"
    if config.ict == baseline.ict and shared.exists():  # the same steps over the same text: not done again
        shutil.copytree(shared, run.warm_start)
    pretrain_texts(run, config, text, text, Silent())
    if config.ict == baseline.ict and not shared.exists():
        shutil.copytree(run.warm_start, shared)
    last = latest_checkpoint(run.checkpoints)
    assert last is not None
    step = int(read_facts(last)["step"])
    device = choose_device(config.loop.device)
    encoder = DenseEncoder.from_pretrained(last / "encoder").to(device).eval()
    index = ExactIndex.open(run.index / f"step-{step:06d}", device=device)
    judged = evaluate_index(encoder, index, Probe.load(run.probe), text, text, baseline)
    events = read_metrics(run.path / "metrics.jsonl")
    train = [e for e in events if e["kind"] == "train" and e["stage"] == "realm"]
    own = compare(run)["figures"]["realm"]
    shutil.rmtree(run.path)
    return {
        "ablation": name,
        "seed": seed,
        "steps": step,
        "figures": judged["figures"],
        "found@5": judged["found"]["5"],
        "own_rules": own,
        "loss": [round(e["loss"], 4) for e in train],
        "recall@5": [(e["index_step"], e["recall@5"]) for e in events if e["kind"] == "refresh" and "recall@5" in e],
        "step_seconds": round(sum(e["seconds"] for e in train) / max(1, len(train)), 4),
    }


def attempt(args: argparse.Namespace) -> None:
    """Two legs, the second of which does what the first left, without the optional libraries."""
    started = Deadline(3)
    shutil.rmtree(args.work, ignore_errors=True)
    pack(argparse.Namespace(packed=args.work, sources=args.sources, kb=None, limit=80, pipeline="pattern", preset=0))
    one, two = args.work / "leg-1", args.work / "leg-2"
    script = [sys.executable, str(Path(__file__).resolve()), "run", str(args.work / "pack")]
    shared = ["--tiny", "--bare", "--seeds", "1", *args.settings]
    subprocess.run([*script, str(one), "--most", "3", *shared], check=True)
    subprocess.run([*script, str(two), "--after", str(one), *shared], check=True)
    first, second = (json.loads((out / "ablations.json").read_text()) for out in (one, two))
    checks = {
        "leg 1 stopped after three": len(first["runs"]) == 3 and len(first["missing"]) == len(ABLATIONS) - 3,
        "leg 2 kept them": second["runs"][:3] == first["runs"],
        "all are done once": [each["ablation"] for each in second["runs"]] == list(ABLATIONS),
        "all have figures": all(0 <= each["figures"]["recall@5"] <= 1 for each in second["runs"]),
    }
    for name, good in checks.items():
        say(f"{'ok  ' if good else 'FAIL'} {name}")
    say(f"{(two / 'ablations.json').stat().st_size / 1e3:.0f} kB; {180 - started.left:.0f} s")
    if not all(checks.values()):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if "--try" in sys.argv[1:]:
        parser.add_argument("--try", dest="work", type=Path, required=True, metavar="WORK")
        parser.add_argument("sources", nargs="+", type=Path)
        parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
        return attempt(parser.parse_args())
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("packed", type=Path)
    packing.add_argument("sources", nargs="*", type=Path)
    packing.add_argument("--kb", type=Path, help="a knowledge base to keep, or one that holds the sources already")
    packing.add_argument("--pipeline", default="en_core_web_sm", help="spaCy pipeline, or 'pattern'")
    packing.add_argument("--limit", type=int, help="documents of each source")
    packing.set_defaults(preset=6)
    leg = verbs.add_parser("run")
    leg.add_argument("packed", type=Path)
    leg.add_argument("out", type=Path)
    leg.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    leg.add_argument("--after", type=Path, help="results of the leg before")
    leg.add_argument("--seeds", type=int, default=3)
    leg.add_argument("--only", help="names, separated by commas")
    leg.add_argument("--minutes", type=float, default=9.0)
    leg.add_argument("--most", type=int, help="runs of this leg")
    leg.add_argument("--bare", action="store_true", help="as if no optional library were installed")
    leg.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    pack(args) if args.verb == "pack" else run(args)


if __name__ == "__main__":
    main()
