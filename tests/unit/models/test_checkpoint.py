"""A whole method on disk: saved, opened, restored in place, and refused when its parts don't belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from realm.errors import ArtefactError, MismatchError, RealmError, UsageError
from realm.models import checkpoint, cloze, encoders
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


def method(folder: Path, seed: int = 0, dim: int = 8) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    encoder = DenseEncoder.from_pretrained(folder, dim=dim)
    return {"encoder": encoder, "reader": ClozeReader.from_pretrained(folder, copy=True)}


def test_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    modules = method(folder)
    checkpoint.save_checkpoint(tmp_path / "method", modules, {"marginal": "sequence", "step": 500})
    found = checkpoint.load_checkpoint(tmp_path / "method", {"encoder": encoders.KIND, "reader": cloze.KIND})
    assert found.facts == checkpoint.read_facts(tmp_path / "method") == {"marginal": "sequence", "step": 500}
    for name, module in modules.items():
        theirs = found.modules[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())
    assert {path.name for path in (tmp_path / "method").iterdir()} == {
        "encoder",
        "reader",
        "method.json",
        "manifest.json",
    }


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path / "method", method(folder, seed=step), {"step": step})
    assert checkpoint.read_facts(tmp_path / "method") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["method"]


def test_a_failed_save_keeps_the_old_one(folder: Path, tmp_path: Path) -> None:
    checkpoint.save_checkpoint(tmp_path / "method", method(folder), {"step": 1})
    with pytest.raises(UsageError, match="expected a network with save_pretrained"):
        checkpoint.save_checkpoint(tmp_path / "method", method(folder) | {"other": nn.Linear(2, 2)}, {"step": 2})
    assert checkpoint.load_checkpoint(tmp_path / "method").facts == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["method"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no saved method"):
        checkpoint.save_checkpoint(tmp_path / "notes", method(folder), {})


def test_restoring_keeps_the_parameter_objects(folder: Path, tmp_path: Path) -> None:
    saved = method(folder, seed=0)
    checkpoint.save_checkpoint(tmp_path / "method", saved, {"step": 7})
    live = method(folder, seed=1)
    before = {id(parameter) for module in live.values() for parameter in module.parameters()}
    assert live["encoder"].fingerprint() != saved["encoder"].fingerprint()
    assert checkpoint.restore_checkpoint(tmp_path / "method", live) == {"step": 7}
    assert {id(parameter) for module in live.values() for parameter in module.parameters()} == before
    for name in live:
        assert live[name].fingerprint() == saved[name].fingerprint()


def test_what_does_not_fit_is_refused_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    checkpoint.save_checkpoint(tmp_path / "method", method(folder, dim=8), {})
    live = method(folder, seed=1, dim=16)
    before = live["reader"].fingerprint()
    with pytest.raises(MismatchError, match=r"'encoder' of .* is not built like this one"):
        checkpoint.restore_checkpoint(tmp_path / "method", live)
    assert live["reader"].fingerprint() == before
    with pytest.raises(MismatchError, match="has a realm cloze reader as its 'reader': expected a realm dense encoder"):
        checkpoint.load_checkpoint(tmp_path / "method", {"reader": encoders.KIND})
    with pytest.raises(MismatchError, match="has nothing as its 'reranker'"):
        checkpoint.load_checkpoint(tmp_path / "method", {"reranker": cloze.KIND})
    with pytest.raises(MismatchError, match="holds encoder, reader: expected encoder"):
        checkpoint.restore_checkpoint(tmp_path / "method", {"encoder": method(folder)["encoder"]})


def test_mixed_and_damaged_checkpoints_are_one_line(folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoint.save_checkpoint(tmp_path / f"m{seed}", method(folder, seed), {})

    def broken(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "m0", tmp_path / name))

    mixed = broken("mixed")
    shutil.rmtree(mixed / "encoder")
    shutil.copytree(tmp_path / "m1/encoder", mixed / "encoder")
    swapped = broken("swapped")
    shutil.rmtree(swapped / "encoder")
    shutil.copytree(swapped / "reader", swapped / "encoder")
    torn = broken("torn")
    (torn / "reader/model.safetensors").write_bytes((torn / "reader/model.safetensors").read_bytes()[:-100])
    missing = broken("missing")
    shutil.rmtree(missing / "reader")
    garbled = broken("garbled")
    (garbled / "method.json").write_text('{"parts": ')
    unfinished = broken("unfinished")
    (unfinished / "method.json").unlink()
    for place, kind, message in [
        (mixed, MismatchError, "the parts of two checkpoints were mixed"),
        (swapped, MismatchError, "expected a realm dense encoder"),
        (torn, ArtefactError, "can't be opened as a model"),
        (missing, ArtefactError, "the checkpoint is incomplete"),
        (garbled, ArtefactError, "not readable JSON"),
        (unfinished, ArtefactError, "has no method.json"),
        (tmp_path / "nowhere", ArtefactError, "no folder"),
        (tmp_path / "m0/encoder", ArtefactError, "has no method.json"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            checkpoint.load_checkpoint(place)
        assert isinstance(caught.value, RealmError) and "\n" not in str(caught.value)


def test_parts_can_stand_in_a_larger_checkpoint(folder: Path, tmp_path: Path) -> None:
    """A training step writes its optimiser beside the networks and finishes the folder itself."""
    from realm.files import staged_folder

    modules = method(folder)
    with staged_folder(tmp_path / "step-000500") as staged:
        checkpoint.write_modules(staged, modules, {"step": 500})
        (staged / "optimizer.json").write_text("{}")
    found = checkpoint.load_checkpoint(tmp_path / "step-000500")
    assert found.modules["encoder"].fingerprint() == modules["encoder"].fingerprint()
    assert (tmp_path / "step-000500/optimizer.json").exists()
