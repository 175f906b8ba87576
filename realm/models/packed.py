"""A trained model in one small file.

A tensor, or a row of a matrix, that training left as it was in the checkpoint it began with (the base) is named, not
stored; of the others large matrices become int8 with a scale a row, small ones bfloat16, and vectors stay as they are.
The texts of the folder (settings, tokenizer) travel in the file's metadata. One safetensors file, no pickle; `unpack`
makes the folder again, its tensors rounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from realm.errors import ArtefactError, MismatchError
from realm.files import staged_file
from realm.models.storage import load_tensors

FORMAT = "realm packed model"
VERSION = 1
INT8_FROM = 100_000
"""Matrices of so many elements and more become int8."""
TEXTS = (".json", ".txt", ".md")

Facts = dict[str, Any]


def pack(folder: Path, base: Path, file: Path, facts: Mapping[str, Any]) -> int:
    """Write the model in `folder` (all safetensors and texts below it) to `file`; its size in bytes.

    base: the folder of the checkpoint that training began with. facts: JSON values that `read_facts` gives back.
    """
    from safetensors.torch import save_file

    bases = {(place, name): value for place, name, value in _tensors(base)}
    known = {_digest(value): key for key, value in bases.items()}
    stored: dict[str, Tensor] = {}
    tensors: dict[str, Facts] = {}
    for place, name, value in _tensors(folder):
        digest = _digest(value)
        about: Facts = {"dtype": str(value.dtype).removeprefix("torch.")}
        if digest in known:
            at, of = known[digest]
            about |= {"kind": "base", "file": at, "tensor": of, "digest": digest}
        else:
            about |= _encode(f"{place}/{name}", value, bases, stored)
        tensors.setdefault(place, {})[name] = about
    texts: dict[str, str] = {}
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            texts[key] = text
            files[path.relative_to(folder).as_posix()] = key
    about = {"format": FORMAT, "format_version": VERSION, "facts": dict(facts)}
    about |= {"tensors": tensors, "files": files, "texts": texts}
    with staged_file(file) as staged:
        save_file(stored, staged, metadata={"realm": json.dumps(about)})
    return file.stat().st_size


def read_facts(file: Path) -> Facts:
    """What `pack` was told. ArtefactError when this is no packed model."""
    return dict(_about(file)["facts"])


def unpack(file: Path, base: Path, folder: Path) -> None:
    """Write the model's files into `folder`, which exists.

    ArtefactError when the file is damaged or none of ours; MismatchError when `base` is not the checkpoint that
    training began with.
    """
    from safetensors.torch import save_file

    about, stored = _about(file), load_tensors(file)
    bases = {(place, name): value for place, name, value in _tensors(base)}
    for place, parts in about["tensors"].items():
        values = {}
        for name, part in parts.items():
            left = None
            if "digest" in part:
                left = bases.get((part["file"], part["tensor"]))
                if left is None or _digest(left) != part["digest"]:
                    raise MismatchError(
                        f"{base} is not what {file} was trained from: its {part['tensor']} differs; give the base "
                        f"{about['facts'].get('base', 'it names')}"
                    )
            value = _decode(f"{place}/{name}", part, left, stored, file)
            values[name] = value.to(getattr(torch, part["dtype"])).contiguous()
        target = _inside(folder, place, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(values, target, metadata={"format": "pt"})
    for place, key in about["files"].items():
        target = _inside(folder, place, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(about["texts"][key], encoding="utf-8")


# ---------------------------------------------------------------- one tensor


def _encode(key: str, value: Tensor, bases: Mapping[tuple[str, str], Tensor], stored: dict[str, Tensor]) -> Facts:
    if not value.is_floating_point() or value.ndim < 2:
        stored[key] = value
        return {"kind": "stored"}
    if value.numel() < INT8_FROM:
        stored[key] = value.to(torch.bfloat16)
        return {"kind": "stored"}
    about: Facts = {"kind": "int8", "shape": list(value.shape)}
    changed_RH = value.float().flatten(1)
    # An embedding matrix keeps the rows of words that training never saw.
    alike = {place: other for place, other in bases.items() if (other.shape, other.dtype) == (value.shape, value.dtype)}
    if alike:
        (file, tensor), other = max(alike.items(), key=lambda item: int((item[1] == value).flatten(1).all(1).sum()))
        changed_R = (other != value).flatten(1).any(1)
        if not changed_R.all():
            about |= {"file": file, "tensor": tensor, "digest": _digest(other)}
            stored[f"{key}:rows"] = changed_R.nonzero()[:, 0].to(torch.int32)
            changed_RH = changed_RH[changed_R]
    scale_R1 = changed_RH.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    stored[key] = (changed_RH / scale_R1).round().to(torch.int8)
    stored[f"{key}:scale"] = scale_R1[:, 0].contiguous()
    return about


def _decode(key: str, part: Facts, left: Tensor | None, stored: Mapping[str, Tensor], file: Path) -> Tensor:
    """left: the base's tensor, where a part of it or the whole was left alone."""
    try:
        if part["kind"] == "base":
            assert left is not None, "named with its digest"
            return left
        if part["kind"] == "stored":
            return stored[key]
        changed_RH = stored[key].float() * stored[f"{key}:scale"][:, None]
        if left is None:
            return changed_RH.view(part["shape"])
        value = left.float().flatten(1).clone()
        value[stored[f"{key}:rows"].long()] = changed_RH
        return value.view(part["shape"])
    except KeyError as error:
        raise ArtefactError(f"{file} lacks the tensor {error}: the file is damaged; fetch it again") from None


def _digest(value: Tensor) -> str:
    content = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + content).hexdigest()[:32]


# ---------------------------------------------------------------- files


def _tensors(folder: Path) -> Iterator[tuple[str, str, Tensor]]:
    for path in sorted(folder.rglob("*.safetensors")):
        for name, value in sorted(load_tensors(path).items()):
            yield path.relative_to(folder).as_posix(), name, value


def _about(file: Path) -> Facts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        about = json.loads(metadata.get("realm", "{}"))
    except FileNotFoundError:
        raise ArtefactError(f"no file {file}: expected a packed model") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{file} is not a whole safetensors file ({error}): fetch or pack it again") from error
    if about.get("format") != FORMAT or about.get("format_version") != VERSION:
        found = f"{about.get('format')} {about.get('format_version')}"
        raise ArtefactError(f"{file} holds {found}: expected a {FORMAT} of version {VERSION}")
    return dict(about)


def _inside(folder: Path, place: str, file: Path) -> Path:
    """A path of the file's own naming may not lead out of the folder."""
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts or "\\" in place:
        raise ArtefactError(f"{file} names the path {place!r}: expected one inside the model's folder")
    return folder / path
