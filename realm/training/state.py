"""Checkpoints: everything that a run needs to go on as if nothing had happened.

checkpoints/step-000500/
    encoder/ reader/ ...     one folder a module, each opens in transformers
    optimizer.safetensors    moments and step counts
    loop.json                step, random state, which index was in use
    manifest.json            written last
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from realm import files
from realm.errors import ArtefactError, MismatchError
from realm.types import Trainable

FORMAT = "realm checkpoint"
VERSION = 1


def save_checkpoint(
    root: Path,
    step: int,
    modules: Mapping[str, Trainable],
    optimizer: torch.optim.Optimizer,
    *,
    facts: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write ``root/step-NNNNNN`` whole or not at all, then drop all but the `keep` newest. Returns the folder."""
    folder = root / f"step-{step:06d}"
    with files.staged_folder(folder) as staged:
        for name, module in modules.items():
            module.save_pretrained(staged / name)
        tensors, groups = _flatten(optimizer)
        tensors["random_state"] = torch.get_rng_state()
        if torch.cuda.is_initialized():  # dropout on an accelerator draws from its own generator
            tensors["random_state_cuda"] = torch.cuda.get_rng_state()
        save_file(tensors, staged / "optimizer.safetensors")
        files.write_json(staged / "loop.json", {"step": step, "groups": groups, **facts})
        files.write_manifest(staged, format=FORMAT, version=VERSION, step=step, modules=sorted(modules))
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def list_checkpoints(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    if not root.exists():
        return []
    found = [p for p in root.iterdir() if re.fullmatch(r"step-\d{6,}", p.name) and (p / files.MANIFEST).exists()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def latest_checkpoint(root: Path) -> Path | None:
    found = list_checkpoints(root)
    return found[-1] if found else None


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of ``loop.json`` of a checkpoint; ArtefactError when the folder is not one."""
    files.read_manifest(folder, format=FORMAT, version=VERSION)
    return dict(files.read_json(folder / "loop.json"))


def restore(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the optimizer and the random state; the modules were built from the same folder.

    Returns the facts that were saved. MismatchError when the optimizer has other parameters.
    """
    facts = read_facts(folder)
    path = folder / "optimizer.safetensors"
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtefactError(
            f"{path} can't be read ({error}): the checkpoint is damaged; remove {folder} to go on from the one before"
        ) from None
    random_state, random_state_cuda = tensors.pop("random_state"), tensors.pop("random_state_cuda", None)
    _unflatten(optimizer, tensors, facts["groups"], folder)
    torch.set_rng_state(random_state)
    if random_state_cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(random_state_cuda)
    return facts


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimizer state by position: `group.parameter.name`."""
    tensors: dict[str, Tensor] = {}
    groups = []
    for g, group in enumerate(optimizer.param_groups):
        groups.append({"role": group.get("role"), "shapes": [list(p.shape) for p in group["params"]]})
        for i, parameter in enumerate(group["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{g}.{i}.{name}"] = value.contiguous()
    return tensors, groups


def _unflatten(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]], folder: Path
) -> None:
    _, found = _flatten(optimizer)
    if found != groups:
        raise MismatchError(
            f"{folder} holds the optimizer of {_size(groups)}: this run trains {_size(found)}; "
            "resume with the configuration it began with"
        )
    for key, value in tensors.items():
        g, i, name = key.split(".", 2)
        parameter = optimizer.param_groups[int(g)]["params"][int(i)]
        optimizer.state[parameter][name] = value.to(parameter.device)


def _size(groups: list[dict[str, Any]]) -> str:
    return f"{sum(len(group['shapes']) for group in groups)} parameters in {len(groups)} groups"
