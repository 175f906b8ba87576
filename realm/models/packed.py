"""A trained model in one small file.

A tensor, or a row of a matrix, that training left as it was in the checkpoint it began with (the base) is named, not
stored, and so is a row whose difference int8 would not show; of the others large matrices become int8 with a scale a
row, small ones bfloat16, and vectors stay as they are. The texts of the folder (settings, tokenizer) travel in the
file's metadata. One safetensors file, no pickle; `unpack` makes the folder again, its tensors rounded.

Legend for shapes: R rows of a matrix, H numbers a row.
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
from realm.files import MANIFEST, staged_file
from realm.models.storage import load_tensors

FORMAT = "realm packed model"
VERSION = 1
INT8_FROM = 100_000
"""Matrices of so many elements and more become int8."""
TEXTS = (".json", ".txt", ".md")
DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
KINDS = ("base", "stored", "int8")

Facts = dict[str, Any]
Named = Mapping[tuple[str, str], Tensor]
"""(file, name) -> tensor."""


def pack(folder: Path, base: Path | None, file: Path, facts: Mapping[str, Any]) -> int:
    """Write the model in `folder` (all safetensors and texts below it) to `file`; its size in bytes.

    base: the folder of the checkpoint that training began with; None stores everything. facts: JSON values that
    `read_facts` gives back. ArtefactError when a tensor is not finite, or the disk is full.
    """
    from safetensors.torch import save_file

    bases = _tensors(base)
    known = {_digest(value): place for place, value in bases.items()}
    stored: dict[str, Tensor] = {}
    tensors: dict[str, Facts] = {}
    for (place, name), value in _tensors(folder).items():
        digest = _digest(value)
        about: Facts = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        if digest in known:
            at, of = known[digest]
            about |= {"kind": "base", "file": at, "tensor": of, "digest": digest}
        else:
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ArtefactError(
                    f"{folder / place} holds NaN or infinity in {name}: go back to an earlier checkpoint"
                )
            about |= _encode(f"{place}/{name}", value, bases, stored)
        tensors.setdefault(place, {})[name] = about
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            texts[key] = text
            names[path.relative_to(folder).as_posix()] = key
    whole = {"format": FORMAT, "format_version": VERSION, "facts": dict(facts)}
    whole |= {"tensors": tensors, "files": names, "texts": texts}
    with staged_file(file) as staged:
        save_file(stored, staged, metadata={"realm": json.dumps(whole)})
    return file.stat().st_size


def read_facts(file: Path) -> Facts:
    """What `pack` was told. ArtefactError when this is no packed model."""
    return dict(_about(file)["facts"])


def unpack(file: Path, base: Path | None, folder: Path) -> None:
    """Write the model's files into `folder`, which exists.

    ArtefactError when the file is damaged or none of ours; MismatchError when `base` is not the checkpoint that
    training began with.
    """
    from safetensors.torch import save_file

    about, stored, bases = _about(file), load_tensors(file), _tensors(base)
    for place, parts in about["tensors"].items():
        values = {}
        for name, part in parts.items():
            left = bases.get((part["file"], part["tensor"])) if "digest" in part else None
            if "digest" in part and (left is None or _digest(left) != part["digest"]):
                raise MismatchError(
                    f"{base} is not what {file} was trained from: its {part['tensor']} differs; give the base "
                    f"{about['facts'].get('base') or 'it names'}"
                )
            try:
                value = _decode(f"{place}/{name}", part, left, stored)
            except (KeyError, ValueError, IndexError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ArtefactError(
                    f"{file} is damaged: its tensor {place}/{name} can't be read ({reason}); fetch or pack it again"
                ) from error
            values[name] = value.to(DTYPES[part["dtype"]]).contiguous()
        target = _inside(folder, place, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(values, target, metadata={"format": "pt"})
    for place, key in about["files"].items():
        target = _inside(folder, place, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_told(target.name, about["texts"][key]), encoding="utf-8")


def _told(name: str, text: str) -> str:
    """A text as it is unpacked: the hashes in a manifest are those of tensors that were rounded since."""
    if name != MANIFEST or not isinstance(manifest := json.loads(text), dict):
        return text
    return json.dumps({key: value for key, value in manifest.items() if key != "hashes"}, indent=1)


# ---------------------------------------------------------------- one tensor


def _encode(key: str, value: Tensor, bases: Named, stored: dict[str, Tensor]) -> Facts:
    if not value.is_floating_point() or value.ndim < 2:
        stored[key] = value
        return {"kind": "stored"}
    if value.numel() < INT8_FROM:
        stored[key] = value.to(torch.bfloat16)
        return {"kind": "stored"}
    about: Facts = {"kind": "int8"}
    changed_RH = value.float().flatten(1)
    # An embedding matrix keeps the rows of words that training never saw.
    alike = {place: other for place, other in bases.items() if (other.shape, other.dtype) == (value.shape, value.dtype)}
    if alike:
        # What weight decay alone moved is left out, too: no further from the base than int8 would take it.
        within_R = changed_RH.abs().amax(1) / 254
        moved_R = {place: (other.float().flatten(1) - changed_RH).abs().amax(1) for place, other in alike.items()}
        file, tensor = max(alike, key=lambda place: int((moved_R[place] <= within_R).sum()))
        other, changed_R = alike[file, tensor], moved_R[file, tensor] > within_R
        if not changed_R.all():
            about |= {"file": file, "tensor": tensor, "digest": _digest(other)}
            stored[f"{key}:rows"] = changed_R.nonzero()[:, 0].to(torch.int32)
            changed_RH = changed_RH[changed_R]
    scale_R1 = changed_RH.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    stored[key] = (changed_RH / scale_R1).round().to(torch.int8)
    stored[f"{key}:scale"] = scale_R1[:, 0].contiguous()
    return about


def _decode(key: str, part: Facts, left: Tensor | None, stored: Mapping[str, Tensor]) -> Tensor:
    """left: the base's tensor, where a part of it or the whole was left alone. ValueError or KeyError where the tensor
    isn't as described."""
    shape = torch.Size(part["shape"])
    if part["kind"] == "base" and left is not None:
        return _shaped(left, shape)
    if part["kind"] == "stored":
        return _shaped(stored[key], shape)
    value_RH, scale_R = stored[key], stored[f"{key}:scale"]
    if value_RH.dtype != torch.int8 or value_RH.ndim != 2 or scale_R.shape != value_RH.shape[:1]:
        raise ValueError(f"found {value_RH.dtype} of {tuple(value_RH.shape)} with {tuple(scale_R.shape)} scales")
    changed_RH = value_RH.float() * scale_R.float()[:, None]
    if left is None:
        return changed_RH.view(shape)
    value, row_R = _shaped(left, shape).float().flatten(1).clone(), stored[f"{key}:rows"].long()
    if len(row_R) != len(changed_RH) or (len(row_R) and not 0 <= int(row_R.min()) <= int(row_R.max()) < len(value)):
        raise ValueError(f"found {len(row_R)} rows for {len(changed_RH)} of {len(value)}")
    value[row_R] = changed_RH
    return value.view(shape)


def _shaped(value: Tensor, shape: torch.Size) -> Tensor:
    if value.shape != shape:
        raise ValueError(f"found the shape {tuple(value.shape)}, expected {tuple(shape)}")
    return value


def _digest(value: Tensor) -> str:
    content = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + content).hexdigest()[:32]


# ---------------------------------------------------------------- files


def _tensors(folder: Path | None) -> dict[tuple[str, str], Tensor]:
    return {} if folder is None else dict(_each(folder))


def _each(folder: Path) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for path in sorted(folder.rglob("*.safetensors")):
        for name, value in sorted(load_tensors(path).items()):
            yield (path.relative_to(folder).as_posix(), name), value


def _about(file: Path) -> Facts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        about = json.loads(metadata.get("realm", "{}"))
    except FileNotFoundError:
        raise ArtefactError(f"no file {file}: expected a packed model") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{file} is not a whole safetensors file ({error}): fetch or pack it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("format_version") != VERSION:
        found = f"{about.get('format')} {about.get('format_version')}" if isinstance(about, dict) else "something else"
        raise ArtefactError(f"{file} holds {found}: expected a {FORMAT} of version {VERSION}")
    problem = _problem(about)
    if problem:
        raise ArtefactError(f"{file} is damaged: {problem}; fetch or pack it again")
    return about


def _problem(about: Facts) -> str:
    """What a file says of itself that can't be; nothing when all is as `pack` writes it."""
    for name in ("facts", "tensors", "files", "texts"):
        if not isinstance(about.get(name), dict):
            return f"it has no object {name!r}"
    if not all(isinstance(text, str) for text in about["texts"].values()):
        return "a text is none"
    if not all(isinstance(key, str) and key in about["texts"] for key in about["files"].values()):
        return "a file has no text"
    for place, parts in about["tensors"].items():
        for name, part in parts.items() if isinstance(parts, dict) else [("", None)]:
            shape = part.get("shape") if isinstance(part, dict) else None
            if (
                not isinstance(part, dict)
                or not isinstance(shape, list)
                or not all(type(size) is int and size >= 0 for size in shape)
            ):
                return f"{place}/{name} has no shape"
            strings = all(isinstance(part.get(key, ""), str) for key in ("file", "tensor", "digest"))
            if part.get("kind") not in KINDS or part.get("dtype") not in DTYPES or not strings:
                return f"{place}/{name} is of no known kind or type"
            if ("digest" in part) != ("tensor" in part and "file" in part) or (part["kind"] == "base") > (
                "digest" in part
            ):
                return f"{place}/{name} doesn't say what it was"
    return ""


def _inside(folder: Path, place: str, file: Path) -> Path:
    """A path of the file's own naming may not lead out of the folder, nor through another file of it."""
    path = PurePosixPath(place)
    wrong = not path.parts or path.is_absolute() or ".." in path.parts or "\\" in place or "\0" in place
    if wrong or any((folder / above).is_file() for above in path.parents) or (folder / path).is_dir():
        raise ArtefactError(f"{file} names the path {place!r}: expected one inside the model's folder")
    return folder / path
