"""A whole method on disk: one folder for each network, each opening in `transformers`, and ``method.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import MANIFEST, read_json, read_manifest, staged_folder, write_json, write_manifest
from realm.models import cloze, encoders

KIND = "realm method"
FORMAT_VERSION = 1
METHOD = "method.json"


@runtime_checkable
class Saveable(Protocol):
    """A network that writes itself into a folder and can be compared by its fingerprint."""

    def save_pretrained(self, folder: str | Path) -> None: ...

    def fingerprint(self) -> str: ...


class Checkpoint(NamedTuple):
    modules: dict[str, nn.Module]
    """Networks by name, as saved."""
    facts: dict[str, Any]
    """What the writer wanted kept beside them."""


def write_modules(folder: Path, modules: Mapping[str, nn.Module], facts: Mapping[str, Any]) -> None:
    """Write the networks and ``method.json`` into an existing, staged folder; the caller finishes and renames it.

    For a training checkpoint, which has an optimiser to put beside them. UsageError for a network that can't save
    itself.
    """
    parts = {}
    for name, module in modules.items():
        if not isinstance(module, Saveable) or name in (METHOD, MANIFEST) or "/" in name or name.startswith("."):
            raise UsageError(
                f"found {name!r}, a {type(module).__name__}: expected a network with save_pretrained and a plain name"
            )
        module.save_pretrained(folder / name)
        parts[name] = {"kind": _kind_of(module), "fingerprint": module.fingerprint()}
    write_json(folder / METHOD, {"parts": parts, "facts": dict(facts)})


def save_checkpoint(folder: str | Path, modules: Mapping[str, nn.Module], facts: Mapping[str, Any]) -> None:
    """Write a method's networks, whole or not at all, replacing an older save in the same place.

    facts: JSON values to keep beside them (settings of the method, fingerprints of its parents).
    UsageError when the folder holds something that is not a saved method.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / METHOD).exists() or not any(folder.iterdir()))):
        raise UsageError(f"{folder} exists and is no saved method: expected a new name; nothing was written")
    with staged_folder(folder) as staged:
        write_modules(staged, modules, facts)
        write_manifest(staged, format=KIND, version=FORMAT_VERSION)


def read_facts(folder: str | Path) -> dict[str, Any]:
    """The facts of a saved method, without opening its networks. ArtefactError when there is none."""
    return dict(_read_method(Path(folder))["facts"])


def load_checkpoint(folder: str | Path, expected: Mapping[str, str] | None = None) -> Checkpoint:
    """Open the networks of a saved method.

    expected: kinds by name that must be there, such as ``{"encoder": "realm dense encoder"}``.
    ArtefactError when something is missing or torn, MismatchError when a part is of another kind or not the part that
    ``method.json`` was written with.
    """
    folder = Path(folder)
    method = _read_method(folder)
    for name, kind in (expected or {}).items():
        found = method["parts"].get(name, {}).get("kind")
        if found != kind:
            raise MismatchError(
                f"{folder} has {f'a {found}' if found else 'nothing'} as its {name!r}: expected a {kind}"
            )
    return Checkpoint(
        {name: _open_part(folder / name, part) for name, part in method["parts"].items()}, dict(method["facts"])
    )


def restore_checkpoint(folder: str | Path, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Put saved parameters into networks that exist already, bit for bit; their facts.

    Keeps the parameter objects, so optimisers that hold them stay valid. MismatchError when names or shapes differ.
    """
    saved, facts = load_checkpoint(folder, {name: _kind_of(module) for name, module in modules.items()})
    if set(saved) != set(modules):
        raise MismatchError(f"{folder} holds {', '.join(sorted(saved))}: expected {', '.join(sorted(modules))}")
    for name, module in modules.items():
        theirs, ours = saved[name].state_dict(), module.state_dict()
        wrong = [
            key
            for key in sorted(theirs.keys() | ours.keys())
            if key not in theirs or key not in ours or theirs[key].shape != ours[key].shape
        ]
        if wrong:
            raise MismatchError(
                f"the {name!r} of {folder} is not built like this one (first difference: {wrong[0]}): expected "
                "the same settings"
            )
    # Only after all were checked: a refused checkpoint must not leave half of itself behind.
    for name, module in modules.items():
        module.load_state_dict(saved[name].state_dict())
    return facts


def _kind_of(module: nn.Module) -> str:
    for kind, opener in _openers().items():
        if type(module) is opener:
            return kind
    raise UsageError(
        f"found a {type(module).__name__}: expected one of "
        f"{', '.join(opener.__name__ for opener in _openers().values())}"
    )


def _openers() -> dict[str, Any]:
    return {encoders.KIND: encoders.DenseEncoder, cloze.KIND: cloze.ClozeReader}


def _open_part(folder: Path, part: Mapping[str, Any]) -> nn.Module:
    opener = _openers().get(str(part.get("kind")))
    if opener is None:
        raise ArtefactError(
            f"{folder} holds a {part.get('kind')}: this library knows {', '.join(_openers())}; use a newer realm"
        )
    if not folder.is_dir():
        raise ArtefactError(f"no folder {folder}: expected a {part.get('kind')}; the checkpoint is incomplete")
    module: Any = opener.from_pretrained(folder)
    if module.fingerprint() != part.get("fingerprint"):
        raise MismatchError(
            f"{folder} has the fingerprint {module.fingerprint()}: its {METHOD} expected {part.get('fingerprint')}; "
            "the parts of two checkpoints were mixed, or the file is damaged"
        )
    return module  # type: ignore[no-any-return]


def _read_method(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ArtefactError(f"no folder {folder}: expected a saved method")
    if (folder / MANIFEST).exists() and read_json(folder / MANIFEST).get("format") == KIND:
        read_manifest(folder, format=KIND, version=FORMAT_VERSION)
    if not (folder / METHOD).exists():
        raise ArtefactError(
            f"{folder} has no {METHOD}: expected a saved method; it was interrupted or is something else"
        )
    method = read_json(folder / METHOD)
    if (
        not isinstance(method, dict)
        or not isinstance(method.get("parts"), dict)
        or not isinstance(method.get("facts"), dict)
    ):
        raise ArtefactError(f"{folder / METHOD} names no parts: the file is damaged; save the method again")
    return method
