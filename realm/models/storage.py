"""Models on disk: folders that `transformers` opens, with what is ours beside it.

``config.json``, ``model.safetensors`` and the tokenizer are Hugging Face's; ``head.safetensors`` holds our parameters,
``realm.json`` our settings, and ``manifest.json``, written last, says what kind of model it is. No pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import (
    MANIFEST,
    changed,
    hashes_of,
    read_json,
    read_manifest,
    staged_folder,
    write_json,
    write_manifest,
)
from realm.models.backbone import quiet

HEAD = "head.safetensors"
WEIGHTS = "*.safetensors"
SETTINGS = "realm.json"


def read_model_facts(source: str | Path, *, format: str, version: int) -> dict[str, Any] | None:
    """Our settings of a saved model; None when the folder (or hub name) holds a plain Hugging Face checkpoint.

    MismatchError when it is another kind of model of ours; ArtefactError when it is damaged.
    """
    folder = Path(source)
    if not (folder / SETTINGS).exists() and not (folder / MANIFEST).exists():
        return None
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found is not None and found != format:
        raise MismatchError(f"{folder} holds a {found}: expected a {format}; give the folder of the right part")
    read_manifest(folder, format=format, version=version)
    facts = read_json(folder / SETTINGS)
    if not isinstance(facts, dict) or "settings" not in facts:
        raise ArtefactError(f"{folder / SETTINGS} holds no settings: the file is damaged; save the model again")
    return facts


@contextmanager
def model_folder(folder: Path, *, format: str, version: int, facts: Mapping[str, Any]) -> Iterator[Path]:
    """A staged folder for a model; settings and manifest are written when the block ends.

    An older save in its place is replaced; UsageError when the folder holds anything else, which is not ours to delete.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).exists() or not any(folder.iterdir()))):
        raise UsageError(f"{folder} exists and is no saved model: expected a new name; nothing was written")
    with staged_folder(folder) as staged:
        yield staged
        write_json(staged / SETTINGS, dict(facts))
        hashes = hashes_of(staged, WEIGHTS)
        write_manifest(staged, format=format, version=version, fingerprint=facts.get("fingerprint"), hashes=hashes)


def check_weights(folder: str | Path) -> None:
    """ArtefactError where the weights of a saved model are no longer those that its manifest was written for."""
    place = Path(folder)
    if not (place / MANIFEST).exists():
        return  # not saved by us
    name = changed(place, read_json(place / MANIFEST).get("hashes"))
    if name is not None:
        raise ArtefactError(
            f"{place / name} is not the file that was saved with the model: found another SHA-256 than {MANIFEST} "
            "names; take it from where it came, or save the model again"
        )


def save_part(folder: Path, model: Any, head: Mapping[str, Tensor], tokenizer: Any) -> None:
    """A Hugging Face model, our own parameters and the tokenizer, into one folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    save_file({name: value.detach().cpu().contiguous() for name, value in head.items()}, folder / HEAD)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. ArtefactError, in one line, when it is missing or torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtefactError(f"no file {path}: expected the parameters saved with the model; save it again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(
            f"{path} is not a whole safetensors file ({error}): the file is damaged; save it again"
        ) from error


@torch.no_grad()
def fingerprint_module(module: nn.Module, *settings: str) -> str:
    """Of names, types, shapes and bytes of all parameters and buffers, in 16 hexadecimal digits."""
    digest = hashlib.sha256("\0".join(settings).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
