"""Model and index files that are not what was saved, or would run something: refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from realm.errors import ArtefactError
from realm.files import MANIFEST, read_json, write_json
from realm.models.backbone import load_backbone, load_masked_model, load_tokenizer
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.search.exact import ExactIndex


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    DenseEncoder.from_pretrained(tiny.tiny_bert(tmp_path / "bert"), dim=8).save_pretrained(folder)
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    ExactIndex(torch.randn(20, 8)).save(tmp_path / "index")
    return tmp_path / "index"


def test_weights_in_a_pickle_are_not_opened(tmp_path: Path) -> None:
    folder, made = tiny.tiny_bert(tmp_path / "bert"), tmp_path / "made"
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Trap(made)}, folder / "pytorch_model.bin")
    for load in (load_masked_model, lambda place: load_backbone(place, pooler=False)):
        with pytest.raises(ArtefactError, match=r"expected config\.json, model\.safetensors"):
            load(folder)
    assert not made.exists()


def test_code_beside_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = tiny.tiny_bert(tmp_path / "bert"), tmp_path / "made"
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(made)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": "own.T"}}
    (folder / "config.json").write_text(json.dumps(config))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", "own.T"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    for load in (load_masked_model, lambda place: load_backbone(place, pooler=False), load_tokenizer):
        with pytest.raises(ArtefactError):
            load(folder)
    assert not made.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors"])
def test_other_weights_than_those_that_were_saved_are_refused(encoder: Path, name: str) -> None:
    DenseEncoder.from_pretrained(encoder)
    tensors = load_file(encoder / name)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, encoder / name, metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match=f"{name} is not the file that was saved"):
        DenseEncoder.from_pretrained(encoder)
    manifest = read_json(encoder / MANIFEST)
    del manifest["hashes"]  # as saved by an older version
    write_json(encoder / MANIFEST, manifest)
    DenseEncoder.from_pretrained(encoder)


def test_a_reader_is_checked_too(tmp_path: Path) -> None:
    SpanReader.from_pretrained(tiny.tiny_bert(tmp_path / "bert"), span_size=8).save_pretrained(tmp_path / "reader")
    (tmp_path / "other").mkdir()
    SpanReader.from_pretrained(tiny.tiny_bert(tmp_path / "bert"), span_size=8).save_pretrained(tmp_path / "other" / "r")
    os.replace(tmp_path / "other" / "r" / "head.safetensors", tmp_path / "reader" / "head.safetensors")
    with pytest.raises(ArtefactError, match=r"head\.safetensors is not the file that was saved"):
        SpanReader.from_pretrained(tmp_path / "reader")


def test_a_shard_with_other_numbers_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = next(index.glob("shard-*.npy"))
    np.save(shard, np.load(shard) + 1)
    with pytest.raises(ArtefactError, match="is not what its manifest was written for"):
        ExactIndex.open(index)
    monkeypatch.setattr("realm.search.shards.HASHED", 10)
    assert len(ExactIndex.open(index)) == 20, "a large index is not read through"


def test_a_shard_with_objects_is_not_unpickled(index: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    np.save(next(index.glob("shard-*.npy")), np.array([Trap(made)] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(ArtefactError, match="damaged"):
        ExactIndex.open(index)
    assert not made.exists()


def test_a_shard_of_another_folder_is_not_named(index: Path) -> None:
    manifest = read_json(index / MANIFEST)
    name = manifest["shards"][0]["file"]
    os.replace(index / name, index.parent / name)
    manifest["shards"][0]["file"] = f"../{name}"
    write_json(index / MANIFEST, manifest)
    with pytest.raises(ArtefactError, match="expected a file of its own"):
        ExactIndex.open(index)


def test_what_is_saved_can_be_saved_again(index: Path, tmp_path: Path, encoder: Path) -> None:
    """Hashes belong to one folder, and are made anew for the next."""
    ExactIndex.open(index).save(tmp_path / "again")
    assert len(ExactIndex.open(tmp_path / "again")) == 20
    DenseEncoder.from_pretrained(encoder).save_pretrained(tmp_path / "encoder again")
    DenseEncoder.from_pretrained(tmp_path / "encoder again")
