"""Storage types, and shards that are whole, cut short, missing or of something else."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.files import MANIFEST
from realm.search.exact import ExactIndex
from realm.search.shards import pack


@given(seed=st.integers(0, 1000), rows=st.integers(0, 9), size=st.floats(1e-3, 1e3))
def test_int8_is_off_by_at_most_half_a_step(seed: int, rows: int, size: float) -> None:
    vector_ND = torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)) * size
    vector_ND[: rows // 2, :8] = 0
    bound_N1 = vector_ND.abs().amax(1, keepdim=True) / 254 * (1 + 1e-4)
    assert ((pack(vector_ND, "int8").float() - vector_ND).abs() <= bound_N1).all()


def test_a_zero_vector_stays_zero_in_int8() -> None:
    assert torch.equal(pack(torch.zeros(2, 4), "int8").float(), torch.zeros(2, 4))


def test_an_unknown_storage_type_is_named() -> None:
    with pytest.raises(UsageError, match="float64"):
        pack(torch.zeros(1, 4), "float64")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    index = ExactIndex(torch.randn(100, 8), facts={"snapshot": "snap", "encoder": "enc", "step": 7})
    index.save(tmp_path / "index", rows_per_shard=30)
    return tmp_path / "index"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_saved_and_opened_is_the_same_index(tmp_path: Path, dtype: str) -> None:
    vector_ND = torch.randn(100, 8)
    index = ExactIndex(vector_ND, dtype=dtype, facts={"step": 3})
    index.save(tmp_path / "a", rows_per_shard=30)
    again = ExactIndex.open(tmp_path / "a")
    again.save(tmp_path / "b", rows_per_shard=45)  # shards of other borders
    for other in (again, ExactIndex.open(tmp_path / "b")):
        assert other.dtype == dtype
        assert other.facts == {"step": 3}
        assert torch.equal(other.vectors(torch.arange(100)), index.vectors(torch.arange(100)))
        found, wanted = other.search(vector_ND[:5], 7), index.search(vector_ND[:5], 7)
        assert torch.equal(found.rows, wanted.rows)
        assert torch.allclose(found.scores, wanted.scores)  # other shards, other order of additions


def test_manifest_names_the_row_ranges(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    assert (manifest["format"], manifest["rows"], manifest["dim"]) == ("realm vectors", 100, 8)
    assert [(s["first"], s["last"]) for s in manifest["shards"]] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert sorted(s["file"] for s in manifest["shards"]) == sorted(p.name for p in saved.glob("shard-*.npy"))
    assert (manifest["snapshot"], manifest["encoder"], manifest["step"]) == ("snap", "enc", 7)


@pytest.mark.parametrize("keep", [0, 40, 128, 500, 1087])
def test_a_truncated_shard_is_an_error_that_names_it(saved: Path, keep: int) -> None:
    shard = sorted(saved.glob("shard-*.npy"))[1]
    assert shard.stat().st_size == 1088
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ArtefactError, match=shard.name):
        ExactIndex.open(saved)


def test_a_missing_shard_is_an_error_that_names_it(saved: Path) -> None:
    shard = sorted(saved.glob("shard-*.npy"))[2]
    shard.unlink()
    with pytest.raises(ArtefactError, match=shard.name):
        ExactIndex.open(saved)


def test_a_shard_of_another_shape_is_an_error(saved: Path) -> None:
    shard = sorted(saved.glob("shard-*.npy"))[0]
    np.save(shard, np.zeros((29, 8), dtype=np.float32))
    with pytest.raises(ArtefactError, match=r"\(29, 8\)"):
        ExactIndex.open(saved)


def test_a_gap_between_shards_is_an_error(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest["shards"][1]
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="expected 30"):
        ExactIndex.open(saved)


def test_a_folder_without_manifest_is_unfinished(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    with pytest.raises(ArtefactError, match="interrupted"):
        ExactIndex.open(saved)


@pytest.mark.parametrize("side", ["snapshot", "encoder"])
def test_another_partner_is_an_error_that_names_both(saved: Path, side: str) -> None:
    assert len(ExactIndex.open(saved, snapshot="snap", encoder="enc")) == 100
    with pytest.raises(MismatchError, match=f"{side} (snap|enc).*other"):
        ExactIndex.open(saved, **{side: "other"})


def test_the_files_are_never_written_through_the_index(saved: Path) -> None:
    index = ExactIndex.open(saved)
    before = sorted(saved.glob("shard-*.npy"))[0].read_bytes()
    index._blocks[0].data.zero_()
    assert sorted(saved.glob("shard-*.npy"))[0].read_bytes() == before


def test_a_full_disk_leaves_the_old_index(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ExactIndex.open(saved).vectors(torch.arange(100))

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ArtefactError, match="No space left"):
        ExactIndex(torch.zeros(5, 8)).save(saved)
    monkeypatch.undo()
    assert torch.equal(ExactIndex.open(saved).vectors(torch.arange(100)), before)
    assert [p.name for p in saved.parent.iterdir()] == ["index"]


def test_vectors_with_nan_are_refused_with_their_row() -> None:
    vector_ND = torch.zeros(10, 4)
    vector_ND[6, 2] = float("nan")
    with pytest.raises(DataError, match="row 6"):
        ExactIndex(vector_ND)


def test_an_empty_index_can_be_saved_and_opened(tmp_path: Path) -> None:
    ExactIndex(torch.zeros(0, 8)).save(tmp_path / "empty")
    index = ExactIndex.open(tmp_path / "empty")
    assert (len(index), index.dim) == (0, 8)
    assert index.search(torch.zeros(2, 8), 3).rows.tolist() == [[-1, -1, -1]] * 2
