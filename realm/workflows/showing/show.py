"""What an artefact is, what it was made from, and whether it is whole: one table of short values.

Reads manifests, headers and file sizes, never the data itself, so it answers at once whatever the size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from realm import files
from realm.addresses import address_of
from realm.config import PretrainConfig
from realm.errors import ArtefactError, RealmError
from realm.training.metrics import read_metrics
from realm.workflows.run import FINETUNING, Run
from realm.workflows.run import FORMAT as RUN
from realm.workflows.showing.artefacts import DESCRIBERS, Facts, network, packed_model, read_object, rounded, size_text
from realm.workflows.showing.finetuned import fine_tuning, tables

EXPECTED = (
    "a knowledge base, snapshot, spans, run, checkpoint, model, index, encoder, reader, BM25 postings, probe or "
    "evaluation of realm, or a model of transformers"
)
REPORTS = {"warm-start": "recall_before", "realm": "recall_after", "bm25": "recall_bm25"}
SHOWN_SETTINGS = (
    *("encoder.model", "encoder.layers", "encoder.dim", "encoder.pooling", "reader.interaction", "reader.layers"),
    *("data.masking", "data.exclude", "ict.batch_size", "realm.batch_size", "realm.num_candidates", "realm.marginal"),
    *("refresh.mode", "refresh.every_steps"),
)
"""What tells one run from another at a glance; config.json holds all."""
NAMED_FILES = {"kb.json", "run.json", files.MANIFEST}
"""Naming one of these means the folder it describes."""
_UNFINISHED = re.compile(r"^\..+\.(stage|stage-old|partial|parts)-")


def describe(path: Path) -> Facts:
    """What lies at `path`, as JSON values: name -> short value, `kind` and `path` first.

    `unfinished` and `damaged` are there only when something is. ArtefactError, in one line, when `path` is missing or
    is nothing that this library makes; KnowledgeBaseError when a knowledge base can't be opened.
    """
    path = Path(path)
    if address_of(path) is not None:
        return _knowledge_base(path)
    if not path.exists():
        raise ArtefactError(f"nothing at {path}: expected {EXPECTED}")
    if path.is_file() and path.name in NAMED_FILES:
        path = path.parent
    if path.is_file():
        return _file(path)
    if (path / "kb.json").exists():
        return _knowledge_base(path)
    if (path / "run.json").exists():
        return _run(path)
    if (path / files.MANIFEST).exists():
        manifest = files.read_json(path / files.MANIFEST)
        kind = str(manifest.get("format")) if isinstance(manifest, dict) else "an unknown manifest"
        if kind not in DESCRIBERS:
            raise ArtefactError(f"{path} holds {kind}: expected {EXPECTED}")
        try:
            return _facts(kind, path, DESCRIBERS[kind](path, manifest), manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(
                f"the manifest of the {kind} {path} is damaged ({type(error).__name__}: {error}): make it again"
            ) from error
    if (path / "report.json").exists():
        return _file(path / "report.json")
    if found := tables(path):
        return _facts(str(found.pop("kind")), path, found)
    if (path / "plan.json").exists():
        return _unfinished_index(path)
    if (path / "config.json").exists() and "model_type" in read_object(path / "config.json"):
        return _facts("transformers model", path, network(path, ()))
    raise ArtefactError(f"{path} {_content(path)}: expected {EXPECTED}")


def _facts(kind: str, path: Path, facts: Mapping[str, Any], manifest: Mapping[str, Any] | None = None) -> Facts:
    """Put what every artefact has around what is its own; leave out what is not known."""
    found: Facts = {"kind": kind, "path": str(path), **facts}
    if manifest and manifest.get("realm_version"):
        found["written_by"] = f"realm {manifest['realm_version']}, format version {manifest.get('format_version')}"
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    found |= {"size": size_text(size), "bytes": size}
    return {name: value for name, value in found.items() if value is not None and value != []}


# ---------------------------------------------------------------- knowledge


def _knowledge_base(path: Path) -> Facts:
    from realm.knowledge.base import KnowledgeBase

    kb = KnowledgeBase.open(path)
    passages = kb.num_passages()
    encoders, waiting = {}, []
    for name, dim in kb.encoders().items():
        missing = kb.waiting(name).passages
        encoders[name] = f"{dim} numbers a passage, {passages - missing:,} passages"
        if missing:
            waiting.append(f"{missing:,} passages have no vector of {name} yet")
    snapshots = kb.path / "snapshots"
    finished = sorted(p.name for p in snapshots.glob("v*") if _is(p, "realm snapshot"))
    facts = {
        "version": kb.version,
        "content_version": kb.content_version,
        "documents": len(kb),
        "passages": passages,
        "columns": kb.columns(),
        "splitter": kb.splitter,
        "vectors_of_encoders": encoders or "none yet",
        "snapshots": finished,
        "unfinished": [
            *(["no passages yet: ingest some documents"] if not passages else waiting),
            *sorted(f"snapshots/{p.name}" for p in snapshots.glob(".*") if _UNFINISHED.match(p.name)),
        ],
    }
    if address_of(path) is not None:
        return {"kind": "realm knowledge base", "path": kb.address, **facts}
    config = files.read_json(path / "kb.json")
    return _facts("realm knowledge base", path, facts, config)


# ---------------------------------------------------------------- runs


def _run(path: Path) -> Facts:
    if read_object(path / "run.json").get("format") == FINETUNING:
        return _facts(FINETUNING, path, fine_tuning(path))
    run = Run(path)
    facts, config = run.facts(), run.config()
    stage, finished = _stage(run, config)
    events = [e for e in read_metrics(path / "metrics.jsonl") if e.get("kind") in ("train", "refresh")]
    newest = next((e for e in reversed(events) if e["kind"] == "train"), None)
    refreshed: Facts = next((e for e in reversed(events) if e["kind"] == "refresh"), {})
    parents = facts["parents"]
    same = parents.get("corpus") is None
    found: Facts = {
        "stage": stage,
        "newest": _newest(newest, refreshed),
        **dict(_reports(run, config)),
        "settings": {name: attrgetter(name)(config) for name in SHOWN_SETTINGS},
        "seed": facts.get("seed"),
        "command": " ".join(facts.get("command") or []),
        "created": facts.get("created"),
        "made_from": f"{parents.get('knowledge_base')}, version {parents.get('knowledge_base_version')}",
        "snapshot": parents.get("snapshot"),
        "masked": None if same else f"{parents.get('corpus')}, snapshot {parents.get('corpus_snapshot')}",
        "checkpoints": [p.name for p in _steps(run.checkpoints)],
        "indexes": [p.name for p in _steps(run.index)],
        "git_commit": facts.get("git_commit"),
        "libraries": facts.get("libraries"),
        "unfinished": None if finished else f"`realm pretrain {path}` goes on from here",
        "leftovers": sorted(str(p.relative_to(path)) for p in path.rglob(".*") if _UNFINISHED.match(p.name)),
    }
    return _facts(RUN, path, found, facts)


def _stage(run: Run, config: PretrainConfig) -> tuple[str, bool]:
    """How far a run came, and whether that is the end."""
    last = config.realm.steps
    for folder, total, name in (
        (run.checkpoints, last, "REALM"),
        (run.warm_start / "checkpoints", config.ict.steps, "warm start"),
    ):
        saved = _steps(folder)
        if not saved:
            continue
        step = int(saved[-1].name.removeprefix("step-"))
        done = step >= total and (name == "REALM" or not last)
        judged = (run.evaluations / ("realm" if last else "warm-start") / "report.json").exists()
        if done and judged:
            return f"finished: {name} step {step:,} of {total:,}, evaluated", True
        return f"{name}, step {step:,} of {total:,}" + (", not evaluated yet" if done else ""), False
    return "begun, no checkpoint yet", False


def _reports(run: Run, config: PretrainConfig) -> Iterator[tuple[str, str]]:
    for name, label in REPORTS.items():
        place = run.evaluations / name / "report.json"
        if place.exists():
            figures = read_object(place).get("figures", {})
            recall = [f"@{k} {figures[f'recall@{k}']:.1%}" for k in config.probe.ks if f"recall@{k}" in figures]
            yield label, ", ".join(recall)


def _newest(event: Mapping[str, Any] | None, refreshed: Mapping[str, Any]) -> Facts | None:
    if event is None:
        return None
    names = ("loss", "accuracy", "retrieval_utility", "null_prior", "prior_entropy", "index_age_steps")
    figures = {name: rounded(event[name]) for name in names if event.get(name) is not None}
    if event["stage"] == "realm" and "recall@5" in refreshed:
        figures |= {"recall@5": rounded(refreshed["recall@5"])}
    return {"stage": event["stage"], "step": event["step"], **figures}


# ---------------------------------------------------------------- single files


def _unfinished_index(path: Path) -> Facts:
    plan = read_object(path / "plan.json")
    done = sum(1 for _ in path.glob("shard-*.npy"))
    rows, step = plan.get("rows"), plan.get("rows_per_shard")
    shards = math.ceil(rows / step) if isinstance(rows, int) and isinstance(step, int) and step else "?"
    facts = {
        "unfinished": f"{done} of {shards} shards: the same command goes on from here",
        "passages": rows,
        "dim": plan.get("dim"),
        "dtype": plan.get("dtype"),
        "made_from": f"snapshot {plan.get('snapshot')}, encoder {plan.get('encoder')}",
    }
    return _facts("realm vectors", path, facts)


def _file(path: Path) -> Facts:
    value: Any = None
    if path.suffix == ".safetensors":
        try:
            packed = packed_model(path)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ArtefactError(
                f"{path} is damaged: what it says of itself can't be read ({type(error).__name__}); fetch it again"
            ) from error
        if packed is not None:
            return _facts(packed.pop("kind"), path, packed)
    if path.suffix == ".json":
        value = files.read_json(path)
    kind = value.get("format") if isinstance(value, dict) else None
    if kind == "realm probe":
        items = value.get("items", [])
        facts = {
            "sentences": len(items),
            "masking": value.get("strategy"),
            "seed": value.get("seed"),
            "made_from": f"snapshot {value.get('snapshot')}",
            "first": f"{items[0]['sentence'][:80]} [{items[0]['answer']}]" if items else None,
        }
    elif kind == "realm evaluation":
        facts = {name: rounded(figure) for name, figure in value.get("figures", {}).items()}
        facts = {"name": path.absolute().parent.name, **facts}
    else:
        raise ArtefactError(f"{path} is {f'a {kind}' if kind else 'a file of another kind'}: expected {EXPECTED}")
    return _facts(str(kind), path, facts, value)


# ---------------------------------------------------------------- helpers


def _is(folder: Path, kind: str) -> bool:
    try:
        return (folder / files.MANIFEST).exists() and read_object(folder / files.MANIFEST).get("format") == kind
    except RealmError:
        return False


def _steps(folder: Path) -> list[Path]:
    """Finished folders named after a step, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / files.MANIFEST).exists()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def _content(path: Path) -> str:
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if not names:
        return "is empty"
    return f"holds {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
