"""A packed model is the model, rounded where it was stored and exact where it was left as it began."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from realm.errors import ArtefactError, MismatchError
from realm.models.packed import INT8_FROM, pack, read_facts, unpack

WIDE = 1000
UNSEEN = 30
"""Rows of the words that training did not touch."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    (tmp_path / "base").mkdir()
    tensors = {"words": torch.randn(2 * INT8_FROM // WIDE, WIDE), "norm": torch.randn(8), "frozen": torch.randn(30, 40)}
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    return tmp_path / "base"


@pytest.fixture
def trained(tmp_path: Path, base: Path) -> Path:
    folder = tmp_path / "trained" / "encoder"
    folder.mkdir(parents=True)
    values = load_file(base / "model.safetensors")
    words = torch.cat([values["words"][:UNSEEN], values["words"][UNSEEN:] * 1.1])
    values |= {"words": words, "norm": values["norm"] + 1, "matrix": torch.randn(9, 5), "new": torch.randn(WIDE, 100)}
    values |= {"counts": torch.arange(7), "none": torch.zeros(0, 3), "level": torch.tensor(0.3)}
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text('{"a": "é"}\n', encoding="utf-8")
    return folder.parent


def test_what_was_left_alone_is_named_and_the_rest_rounded(tmp_path: Path, base: Path, trained: Path) -> None:
    size = pack(trained, base, tmp_path / "small.safetensors", {"base": "toy", "seed": 3})
    assert size < 1.05 * (2 * INT8_FROM - UNSEEN * WIDE + 100 * WIDE)  # a byte each; `frozen` isn't there
    assert read_facts(tmp_path / "small.safetensors") == {"base": "toy", "seed": 3}
    unpack(tmp_path / "small.safetensors", base, tmp_path)
    before, after = (load_file(p / "encoder" / "model.safetensors") for p in (trained, tmp_path))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert after[name].shape == value.shape
    for name in ("frozen", "norm", "counts", "none", "level"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["matrix"], before["matrix"])
    torch.testing.assert_close(after["matrix"], before["matrix"], rtol=2**-8, atol=0)
    for name in ("words", "new"):
        step_R = before[name].abs().amax(1) / 127
        assert ((after[name] - before[name]).abs().amax(1) <= 0.501 * step_R).all()
    assert torch.equal(after["words"][:UNSEEN], before["words"][:UNSEEN])
    assert not torch.equal(after["words"][UNSEEN:], before["words"][UNSEEN:])
    assert (tmp_path / "encoder" / "config.json").read_text(encoding="utf-8") == '{"a": "é"}\n'


def test_another_base_is_refused(tmp_path: Path, base: Path, trained: Path) -> None:
    pack(trained, base, tmp_path / "small.safetensors", {"base": "toy"})
    values = load_file(base / "model.safetensors")
    save_file({**values, "frozen": values["frozen"] + 1}, base / "model.safetensors")
    with pytest.raises(MismatchError, match="its frozen differs; give the base toy"):
        unpack(tmp_path / "small.safetensors", base, tmp_path)


def test_what_is_no_packed_model(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ArtefactError, match="holds None None: expected a realm packed model"):
        unpack(base / "model.safetensors", base, tmp_path)
    with pytest.raises(ArtefactError, match="no file"):
        read_facts(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ArtefactError, match="not a whole safetensors file"):
        read_facts(tmp_path / "torn.safetensors")


def rewritten(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with another description of itself."""
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["realm"])
    changed = change(about)
    save_file(load_file(file), file, metadata={"realm": json.dumps(about if changed is None else changed)})
    return file


def word(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = about["tensors"]["encoder/model.safetensors"]["words"]
    return found


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda about: [],
    "no facts": lambda about: about.update(facts=None),
    "tensors a list": lambda about: about.update(tensors=[]),
    "parts a list": lambda about: about["tensors"].update(x=[]),
    "a text is a number": lambda about: about["texts"].update({key: 3 for key in about["texts"]}),
    "a file without its text": lambda about: about["files"].update({"x.json": "gone"}),
    "a file whose key is a list": lambda about: about["files"].update({"x.json": []}),
    "no shape": lambda about: word(about).update(shape=None),
    "another shape": lambda about: word(about).update(shape=word(about)["shape"][::-1]),
    "a shape that is a string": lambda about: word(about).update(shape="12"),
    "a function for a type": lambda about: word(about).update(dtype="load"),
    "another kind": lambda about: word(about).update(kind="int4"),
    "base without digest": lambda about: word(about).update(kind="base", digest=3),
    "stored, and isn't": lambda about: word(about).update(kind="stored"),
    "another tensor's place": lambda about: about["tensors"].update(elsewhere={"x": {**word(about), "kind": "int8"}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_lies_about_itself_is_damaged(tmp_path: Path, base: Path, trained: Path, damage: str) -> None:
    pack(trained, base, tmp_path / "small.safetensors", {})
    with pytest.raises(ArtefactError, match=r"is damaged|holds something else"):
        unpack(rewritten(tmp_path / "small.safetensors", DAMAGES[damage]), base, tmp_path)


@pytest.mark.parametrize("change", ["row", "scale"])
def test_numbers_that_cannot_be_are_damage(tmp_path: Path, base: Path, trained: Path, change: str) -> None:
    file, key = tmp_path / "small.safetensors", "encoder/model.safetensors/words"
    pack(trained, base, file, {})
    tensors = load_file(file)
    if change == "row":
        tensors[f"{key}:rows"][0] = -1
    else:
        tensors[f"{key}:scale"] = tensors[f"{key}:scale"][:1]
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ArtefactError, match=r"its tensor encoder/model\.safetensors/words can't be read"):
        unpack(file, base, tmp_path)


def test_a_broken_model_is_not_packed(tmp_path: Path, base: Path, trained: Path) -> None:
    file = trained / "encoder" / "model.safetensors"
    values = load_file(file)
    values["matrix"][0, 0] = torch.inf
    save_file(values, file)
    with pytest.raises(ArtefactError, match="holds NaN or infinity in matrix"):
        pack(trained, base, tmp_path / "small.safetensors", {})
    assert not (tmp_path / "small.safetensors").exists()


def test_without_a_base_everything_is_there(tmp_path: Path, base: Path, trained: Path) -> None:
    size = pack(trained, None, tmp_path / "whole.safetensors", {})
    assert size > pack(trained, base, tmp_path / "small.safetensors", {})
    unpack(tmp_path / "whole.safetensors", None, tmp_path)
    assert (
        load_file(tmp_path / "encoder" / "model.safetensors").keys()
        == load_file(trained / "encoder" / "model.safetensors").keys()
    )
    assert stat.S_IMODE((tmp_path / "whole.safetensors").stat().st_mode) & 0o044


@pytest.mark.parametrize("place", ["../out.json", "/tmp/out.json", "a\\b.json", "", "a\0b", "encoder"])
def test_no_file_leaves_the_folder(
    tmp_path: Path, base: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from realm.models import packed

    pack(trained, base, tmp_path / "small.safetensors", {})
    about = packed._about(tmp_path / "small.safetensors")
    monkeypatch.setattr(packed, "_about", lambda file: {**about, "files": {place: next(iter(about["texts"]))}})
    with pytest.raises(ArtefactError, match="expected one inside the model's folder"):
        unpack(tmp_path / "small.safetensors", base, tmp_path / "sub")


def test_a_row_that_int8_would_not_show_is_the_base(tmp_path: Path, base: Path) -> None:
    values = load_file(base / "model.safetensors")
    words = values["words"].clone()
    words[:10] *= 1 - 1e-4  # as weight decay leaves the words that training never saw
    words[10:12] *= 1.1
    folder = tmp_path / "decayed" / "encoder"
    folder.mkdir(parents=True)
    save_file({"words": words}, folder / "model.safetensors")
    pack(folder.parent, base, tmp_path / "small.safetensors", {"base": "toy"})
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        (rows,) = (file.get_tensor(key) for key in file.keys() if key.endswith(":rows"))  # noqa: SIM118
    assert rows.tolist() == [10, 11]
    unpack(tmp_path / "small.safetensors", base, tmp_path)
    after = load_file(tmp_path / "encoder" / "model.safetensors")["words"]
    assert torch.equal(after[12:], values["words"][12:])
    assert ((after - words).abs().amax(1) <= words.abs().amax(1) / 200).all()
