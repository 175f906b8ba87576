"""What the manifest of each kind of artefact says, and whether the files beside it are whole.

Each describer takes a folder and its manifest and gives JSON values by name. Of the data only headers and
sizes are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from realm import files
from realm.addresses import address_of
from realm.errors import ArtefactError

Facts = dict[str, Any]


def read_object(path: Path) -> Facts:
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise ArtefactError(f"{path} holds no object: the file is damaged; make it again")
    return value


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) and abs(value) < 1e6 else value


def _array_problems(file: Path, shape: tuple[int, ...]) -> list[str]:
    """What is wrong with a ``.npy`` file of which only the header is read; nothing when it is whole."""
    if not file.exists():
        return [f"{file.name} is missing"]
    try:
        with open(file, "rb") as stream:
            found, _, dtype = _read_header(stream)
            expected = stream.tell() + math.prod(found) * dtype.itemsize
    except (ValueError, EOFError):
        return [f"{file.name} has no readable header"]
    if found != shape:
        return [f"{file.name} holds {found}, expected {shape}"]
    if file.stat().st_size != expected:
        return [f"{file.name} holds {file.stat().st_size:,} bytes, expected {expected:,}"]
    return []


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return found


def size_text(size: float) -> str:
    """Bytes for people: "1.2 MB", powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


# ---------------------------------------------------------------- knowledge


def _snapshot(path: Path, manifest: Facts) -> Facts:
    from realm.knowledge.table.layout import open_array

    damage = []
    for name, array in manifest.get("arrays", {}).items():
        try:
            open_array(path, name, array)
        except ArtefactError as error:
            damage.append(str(error))
    base, version = str(manifest.get("knowledge_base")), manifest.get("knowledge_base_version")
    gone = address_of(base) is None and not Path(base).exists()
    return {
        "passages": manifest.get("rows"),
        "documents": manifest.get("documents"),
        "fingerprint": manifest.get("fingerprint"),
        "tokenizer": manifest.get("tokenizer_fingerprint"),
        "vocabulary": manifest.get("vocab_size"),
        "made_from": f"{base}, version {version}" + (" (no longer there)" if gone else ""),
        "splitter": manifest.get("splitter"),
        "damaged": damage,
    }


def _spans(path: Path, manifest: Facts) -> Facts:
    pipeline, rows, spans = manifest.get("pipeline"), int(manifest["rows"]), int(manifest["spans"])
    damage = [
        problem
        for name, shape in (("spans.npy", (spans, 2)), ("labels.npy", (spans,)), ("offsets.npy", (rows + 1,)))
        for problem in _array_problems(path / name, shape)
    ]
    return {
        "spans": spans,
        "passages": rows,
        "spans_per_passage": round(spans / rows, 2) if rows else None,
        "labels": manifest.get("labels"),
        "pipeline": " ".join(str(value) for value in pipeline.values()) if isinstance(pipeline, dict) else pipeline,
        "dates": manifest.get("dates"),
        "left_out": manifest.get("drop_labels"),
        "fingerprint": manifest.get("fingerprint"),
        "made_from": f"snapshot {manifest.get('snapshot')}",
        "damaged": damage,
    }


# ---------------------------------------------------------------- search


def _index(path: Path, manifest: Facts) -> Facts:
    rows, dim = int(manifest["rows"]), int(manifest["dim"])
    damage = []
    for shard in manifest["shards"]:
        first, last = int(shard["first"]), int(shard["last"])
        damage += _array_problems(path / shard["file"], (last - first, dim))
        if manifest["dtype"] == "int8":
            damage += _array_problems(path / shard["file"].replace("shard-", "scale-", 1), (last - first,))
    published = manifest.get("published")
    return {
        "passages": rows,
        "dim": dim,
        "dtype": manifest["dtype"],
        "shards": len(manifest["shards"]),
        "made_from": f"snapshot {manifest.get('snapshot')}, encoder {manifest.get('encoder')}",
        "step": manifest.get("step"),
        "max_tokens": manifest.get("max_tokens"),
        "published": datetime.fromtimestamp(published, UTC).isoformat(timespec="seconds") if published else None,
        "damaged": damage,
    }


def _compressed(path: Path, manifest: Facts) -> Facts:
    chosen, rows = manifest["chosen"], int(manifest["rows"])
    beside = manifest["vectors"] == ".."
    vectors = path.absolute().parent if beside else path / "vectors"
    damage = [] if (vectors / files.MANIFEST).exists() else [f"the vectors {vectors} are missing"]
    damage += [f"{name} is missing" for name in manifest["hashes"] if not (path / name).exists()]
    return {
        "passages": rows,
        "dim": manifest["dim"],
        "chosen": chosen.get("kind"),
        "recall": chosen.get("measured_recall"),
        "recall_wanted": chosen.get("recall"),
        "effort": chosen.get("effort"),
        "bytes_a_passage": chosen.get("bytes_a_row"),
        "microseconds_by_batch": chosen.get("microseconds"),
        "exact_microseconds": chosen.get("exact_microseconds"),
        "vectors": f"those of {vectors}" if beside else "its own",
        "made_from": ", ".join(f"{name} {manifest['facts'].get(name)}" for name in ("snapshot", "encoder")),
        "step": manifest["facts"].get("step"),
        "damaged": damage,
    }


def _postings(path: Path, manifest: Facts) -> Facts:
    settings, facts = manifest.get("settings") or {}, manifest.get("facts") or {}
    lacking = not manifest.get("empty") and not (path / "bm25s").is_dir()
    return {
        "passages": manifest.get("rows"),
        **{name: settings.get(name) for name in ("k1", "b", "stopwords")},
        "made_from": ", ".join(f"{name} {value}" for name, value in facts.items()) or None,
        "damaged": ["the folder bm25s is missing"] if lacking else [],
    }


# ---------------------------------------------------------------- models


def network(path: Path, own: tuple[str, ...] = ("head.safetensors", "realm.json")) -> Facts:
    """A folder that transformers opens, and the files of ours beside its own."""
    config = read_object(path / "config.json") if (path / "config.json").exists() else {}
    weights = sorted(path.glob("*.safetensors"))
    missing = [n for n in ("config.json", *own) if not (path / n).exists()]
    if not any(file.name.startswith("model") for file in weights):
        missing.append("model.safetensors")
    return {
        "architecture": ", ".join(config.get("architectures") or [str(config.get("model_type"))]),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "parameters": sum(_parameters(file) or 0 for file in weights) or None,
        "damaged": [*(f"{name} is missing" for name in missing), *_torn(weights)],
    }


def _model(path: Path, manifest: Facts) -> Facts:
    saved = read_object(path / "realm.json") if (path / "realm.json").exists() else {}
    facts = {"fingerprint": manifest.get("fingerprint"), **network(path), "settings": saved.get("settings")}
    return facts if saved.get("dim") is None else {"dim": saved["dim"], **facts}


def _checkpoint(path: Path, manifest: Facts) -> Facts:
    loop = read_object(path / "loop.json") if (path / "loop.json").exists() else {}
    damage = [f"{name} is missing" for name in ("loop.json", "optimizer.safetensors") if not (path / name).exists()]
    damage += _torn([path / "optimizer.safetensors"])
    parts = _networks(path, manifest.get("modules", []), damage)
    run = next((p for p in path.absolute().parents[:4] if (p / "run.json").exists()), None)
    facts: Facts = {"step": manifest.get("step"), "index_step": loop.get("index_step"), **parts}
    return {**facts, "run": str(run) if run else None, "damaged": damage}


def _trained_model(path: Path, manifest: Facts) -> Facts:
    damage = [] if (path / "config.json").exists() else ["config.json is missing"]
    # A question answerer whose retriever is BM25 has no encoder.
    wordy = manifest.get("format") == "realm question answerer" and "encoder" not in manifest
    parts = _networks(path, ("reader",) if wordy else ("encoder", "reader"), damage)
    if wordy:
        parts = {"retriever": "BM25", **parts}
    made = (manifest.get("made_from") or {}).items()
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in made if value is not None)
    return {**parts, "made_from": told or None, "damaged": damage}


def _networks(path: Path, names: Iterable[str], damage: list[str]) -> Facts:
    """Each network of a folder in a few words; what is wrong with them goes into `damage`."""
    facts: Facts = {}
    for name in names:
        if not (path / name / files.MANIFEST).exists():
            damage.append(f"{name} is missing")
            continue
        part = _model(path / name, read_object(path / name / files.MANIFEST))
        facts[name] = f"{part['fingerprint']}, {part['layers']} layers of {part['hidden_size']}"
        damage += [f"{name}: {problem}" for problem in part["damaged"]]
    return facts


def packed_model(path: Path) -> Facts | None:
    """What a file holds that is a packed model; None of any other file."""
    header = _header(path)
    if header is None or "realm" not in header[2]:
        return None
    about = json.loads(header[2]["realm"])
    tensors = [part for parts in about["tensors"].values() for part in parts.values()]
    left_out = sum(part["kind"] == "base" for part in tensors)
    problem = f"holds {path.stat().st_size:,} bytes, expected {header[1]:,}"
    return {
        "kind": about["format"],
        "tensors": f"{len(tensors) - left_out} here, {left_out} of {about['facts'].get('base')}",
        "damaged": [problem] if path.stat().st_size != header[1] else [],
    }


def _parameters(file: Path) -> int | None:
    header = _header(file)
    return None if header is None else sum(math.prod(t["shape"]) for t in header[0].values())


def _torn(weights: list[Path]) -> list[str]:
    """Safetensors files whose length is not what their header says."""
    problems = []
    for file in weights:
        if not file.exists():
            continue
        header = _header(file)
        if header is None:
            problems.append(f"{file.name} has no readable header")
        elif file.stat().st_size != header[1]:
            problems.append(f"{file.name} holds {file.stat().st_size:,} bytes, expected {header[1]:,}")
    return problems


def _header(file: Path) -> tuple[Facts, int, Facts] | None:
    """The tensors that a safetensors file lists, how long it ought to be, and its metadata; None when it can't be
    read."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= 100_000_000:
            return None
        try:
            tensors = json.loads(stream.read(length))
            metadata = tensors.pop("__metadata__", None) or {}
            return tensors, 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0), metadata
        except (ValueError, AttributeError, KeyError, TypeError):
            return None


DESCRIBERS: Mapping[str, Callable[[Path, Facts], Facts]] = {
    "realm snapshot": _snapshot,
    "realm spans": _spans,
    "realm vectors": _index,
    "realm compressed index": _compressed,
    "realm postings": _postings,
    "realm dense encoder": _model,
    "realm cloze reader": _model,
    "realm late reader": _model,
    "realm span reader": _model,
    "realm checkpoint": _checkpoint,
    "realm model": _trained_model,
    "realm question answerer": _trained_model,
}
"""By the format of the manifest. Written out here, so that showing a manifest loads no network library."""
