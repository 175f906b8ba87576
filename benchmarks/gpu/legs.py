"""A run in legs: what one leg leaves behind so that the next, on another machine, goes on from it.

A leg's results are at most eight files below 16 MiB:

    weights-N.xz     every trained matrix of encoder and reader in bf16 (upper and lower bytes apart, compressed)
    vectors.xz       biases, norms and single numbers, which are few, in float32
    optimizer.xz     second moments as row and column means (Shazeer & Stern 2018), step counts, random state
    run.tar.xz       settings, metrics, probe, reports, tokenizers
    leg.json         what happened, written last

Left behind: word embeddings that are frozen (the pack has them), the index and its encoder (a leg begins by embedding
with the encoder as it is, so it begins with a fresh index), and the first moments. They forget within ten steps, and
that they begin at zero makes updates begin small, which is the warm-up that a cold start would need. The second
moments remember a thousand steps and keep their scale: of an H x I matrix H + I numbers travel instead of H * I. In 8
bits the whole state would be as large as the weights, and would not fit beside the text.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import packed
import torch
from common import write_json
from safetensors.torch import load_file, save_file
from torch import Tensor

from realm import files
from realm.training.state import latest_checkpoint, read_facts
from realm.workflows.run import Run

REST = ("vectors.xz", "optimizer.xz", "run.tar.xz")
SMALL = ("run.json", "config.json", "metrics.jsonl", "probe.json")


def stage_of(run: Run) -> tuple[str, Path]:
    """The stage that a run is in and its newest checkpoint."""
    for stage, folder in (("realm", run.checkpoints), ("ict", run.warm_start / "checkpoints")):
        found = latest_checkpoint(folder)
        if found is not None:
            return stage, found
    raise SystemExit(f"{run.path} has no checkpoint: the leg ended before its first step; give it more minutes")


def leave(run: Run, model: Path, out: Path) -> dict[str, Any]:
    """Write the results of a leg into `out`; returns the stage, the step, and the files' sizes."""
    out.mkdir(parents=True, exist_ok=True)
    stage, checkpoint = stage_of(run)
    words = words_of(model)
    tensors: dict[str, Tensor] = {}
    frozen = []
    for path in sorted(checkpoint.rglob("*.safetensors")):
        place = path.relative_to(checkpoint).as_posix()
        if place.startswith("index_encoder/") or place == "optimizer.safetensors":
            continue
        for name, value in load_file(path).items():
            if value.shape == words.shape and torch.equal(value, words):
                frozen.append(f"{place}:{name}")
            else:
                tensors[f"{place}:{name}"] = value
    shards = packed.write_shards({n: v for n, v in tensors.items() if v.ndim > 1}, out, "weights")
    vectors = packed.save_small({n: v for n, v in tensors.items() if v.ndim <= 1})
    (out / "vectors.xz").write_bytes(vectors)
    moments = factored(load_file(checkpoint / "optimizer.safetensors"))
    (out / "optimizer.xz").write_bytes(packed.save_small(moments))
    kept = [run.path / name for name in SMALL] + sorted(run.evaluations.rglob("*.json"))
    kept += [path for path in checkpoint.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    warm = latest_checkpoint(run.warm_start / "checkpoints")
    if stage == "realm" and warm is not None:  # nothing of it is read again but that it is finished
        kept += [warm / "loop.json", warm / files.MANIFEST]
    with tarfile.open(out / "run.tar.xz", "w:xz") as archive:
        for path in kept:
            if path.exists() and "index_encoder" not in path.parts:
                archive.add(path, path.relative_to(run.path).as_posix())
        _add(archive, "leg-tensors.json", {"stage": stage, "checkpoint": checkpoint.name, "frozen": frozen})
    sizes = {path.name: path.stat().st_size for path in [*shards, *(out / name for name in REST)]}
    return {"stage": stage, "step": int(read_facts(checkpoint)["step"]), "files": sizes}


def take_up(source: Path, model: Path, folder: Path) -> Run:
    """Lay out the run that the leg before left in `source`, as if it had been interrupted here."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with tarfile.open(source / "run.tar.xz", "r:xz") as archive:
        archive.extractall(folder, filter="data")
    facts = files.read_json(folder / "leg-tensors.json")
    (folder / "leg-tensors.json").unlink()
    run = Run(folder)
    root = run.checkpoints if facts["stage"] == "realm" else run.warm_start / "checkpoints"
    checkpoint = root / facts["checkpoint"]
    tensors = packed.read_shards(source, "weights") | packed.load_small((source / "vectors.xz").read_bytes())
    words = words_of(model)
    by_file: dict[str, dict[str, Tensor]] = {}
    for key, value in [*tensors.items(), *((key, words.clone()) for key in facts["frozen"])]:
        place, _, name = key.rpartition(":")
        by_file.setdefault(place, {})[name] = value
    for place, found in by_file.items():
        save_file(found, checkpoint / place, metadata={"format": "pt"})
    moments = packed.load_small((source / "optimizer.xz").read_bytes())
    save_file(unfactored(moments), checkpoint / "optimizer.safetensors")
    if facts["stage"] == "realm":  # the next leg's first index is made by the encoder as it is
        shutil.copytree(checkpoint / "encoder", checkpoint / "index_encoder")
        loop = files.read_json(checkpoint / "loop.json")
        files.write_json(checkpoint / "loop.json", {**loop, "index_step": loop["step"]})
    settings = files.read_json(folder / "config.json")
    for part in ("encoder", "reader"):  # where the model lies on this machine
        settings[part]["model"] = str(model)
    files.write_json(folder / "config.json", settings)
    return run


def words_of(model: Path) -> Tensor:
    """Float32[V, H]: the word embeddings of the pack's model."""
    found = load_file(model / "model.safetensors")
    return next(value for name, value in found.items() if name.endswith(packed.WORDS))


def factored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's state without first moments; a matrix of second moments as the means of its rows and columns."""
    found = {}
    for key, value in state.items():
        name = key.rpartition(".")[2]
        if name == "exp_avg":
            found[f"{key}.shape"] = torch.tensor(value.shape)
        elif name == "exp_avg_sq" and value.ndim == 2:
            found[f"{key}.rows"], found[f"{key}.columns"] = value.mean(1), value.mean(0)
        else:
            found[key] = value
    return found


def unfactored(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that `factored` came from, its first moments zero and its second ones of rank one."""
    state = {}
    for key, value in found.items():
        name, _, part = key.rpartition(".")
        if part == "shape":
            state[name] = torch.zeros(value.tolist())
        elif part == "rows":
            mean = value.mean().clamp(min=torch.finfo(torch.float32).tiny)
            state[name] = value[:, None] * found[f"{name}.columns"][None, :] / mean
        elif part != "columns":
            state[key] = value
    return state


def finish(out: Path, facts: dict[str, Any], seconds: float) -> None:
    """leg.json, last: a leg without it did not end well."""
    total = sum(facts["files"].values())
    largest = max(facts["files"].values())
    if len(facts["files"]) > 7 or largest > 16 * 2**20 or total > 64 * 2**20:
        raise SystemExit(f"results of {len(facts['files'])} files, {total} bytes, largest {largest}: over the limits")
    write_json(out / "leg.json", {**facts, "bytes": total, "seconds": round(seconds, 1)})


def _add(archive: tarfile.TarFile, name: str, value: Any) -> None:
    data = json.dumps(value).encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
