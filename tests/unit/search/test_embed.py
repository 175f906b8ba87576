"""Embedding: right vectors in the right rows, little padding, resumable, never half an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_search import ToyEncoder, ToySource

from realm.errors import ArtefactError, TrainingError, UsageError
from realm.files import MANIFEST, read_json
from realm.search.embed import EmbeddingStopped, embed, embed_rows, length_batches
from realm.search.exact import ExactIndex
from realm.types import Tokens

FACTS = {"encoder": "one", "step": 3}


def direct(encoder: ToyEncoder, source: ToySource, max_tokens: int) -> torch.Tensor:
    """One passage at a time."""
    encoder.eval()
    with torch.no_grad():
        return torch.cat(
            [encoder.encode_passages(source.passages(torch.tensor([r]), max_tokens)) for r in range(len(source))]
        )


@given(lengths=st.lists(st.integers(1, 300), max_size=200), batch_tokens=st.integers(1, 2000))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    length = np.array(lengths, dtype=np.int32)
    batches = list(length_batches(length, batch_tokens))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches, None][1:], strict=True):
        longest = int(length[batch].max())
        assert len(batch) == 1 or longest * len(batch) <= batch_tokens
        if following is not None:  # and no batch could have taken one row more
            assert int(length[following[0]]) * (len(batch) + 1) > batch_tokens
            assert length[following].min() >= longest


@pytest.mark.parametrize("batch_tokens", [1, 50, 10**6])
def test_vectors_are_those_of_one_passage_at_a_time(batch_tokens: int) -> None:
    encoder, source = ToyEncoder(), ToySource(50)
    want = direct(encoder, source, 12)
    encoder.train()
    found = embed_rows(encoder, source, max_tokens=12, batch_tokens=batch_tokens)
    assert encoder.training  # put back
    assert torch.allclose(found, want, atol=1e-6)
    rows = torch.tensor([7, 3, 3, 49])
    assert torch.allclose(embed_rows(encoder, source, rows, max_tokens=12), want[rows], atol=1e-6)
    assert embed_rows(encoder, source, rows[:0], max_tokens=12).shape == (0, 8)


def test_little_is_padded() -> None:
    encoder, source = ToyEncoder(), ToySource(2000)
    embed_rows(encoder, source, max_tokens=20, batch_tokens=200)
    padded = sum(n * length for n, length in encoder.batches)
    assert padded < 1.1 * source.passage_lengths(20).sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_on_disk_is_what_is_in_memory(tmp_path: Path, dtype: str) -> None:
    encoder, source = ToyEncoder(), ToySource(100)
    seen: list[tuple[int, int | None]] = []
    out = embed(
        encoder,
        source,
        tmp_path / "index",
        max_tokens=12,
        rows_per_shard=30,
        dtype=dtype,
        facts=FACTS,
        progress=lambda done, total: seen.append((done, total)),
    )
    index = ExactIndex.open(out, snapshot=source.fingerprint, encoder="one")
    want = ExactIndex(embed_rows(encoder, source, max_tokens=12), dtype=dtype)
    assert torch.allclose(
        index.vectors(torch.arange(100)), want.vectors(torch.arange(100)), atol=1e-2 if dtype == "int8" else 1e-5
    )
    assert index.facts["step"] == 3
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def _stopped(encoder: ToyEncoder, source: ToySource, out: Path, after: int, **settings: object) -> None:
    calls = iter(range(10**6))
    with pytest.raises(EmbeddingStopped):
        embed(
            encoder,
            source,
            out,
            max_tokens=12,
            rows_per_shard=10,
            facts=FACTS,
            should_stop=lambda: next(calls) >= after,
            **settings,  # type: ignore[arg-type]
        )


def test_interrupted_goes_on_with_the_finished_shards(tmp_path: Path) -> None:
    encoder, source = ToyEncoder(), ToySource(100)
    _stopped(encoder, source, tmp_path / "index", after=4)
    assert not (tmp_path / "index").exists()
    before = len(encoder.batches)
    told: list[int] = []
    embed(
        encoder,
        source,
        tmp_path / "index",
        max_tokens=12,
        rows_per_shard=10,
        facts=FACTS,
        progress=lambda done, total: told.append(done),
    )
    assert told[0] == told[1] - encoder.batches[before][0] >= 40, "what was there is told first, apart"
    assert sum(rows for rows, _ in encoder.batches[before:]) <= 60
    again = ExactIndex.open(tmp_path / "index").vectors(torch.arange(100))
    assert torch.allclose(again, embed_rows(encoder, source, max_tokens=12), atol=1e-6)


@pytest.mark.parametrize("change", ["encoder", "snapshot", "max_tokens", "dtype"])
def test_shards_of_other_work_are_not_taken(tmp_path: Path, change: str) -> None:
    _stopped(ToyEncoder(seed=1), ToySource(100, seed=1), tmp_path / "index", after=5)
    encoder = ToyEncoder(seed=2)
    source = ToySource(100, seed=2 if change == "snapshot" else 1)
    facts = {"encoder": "two"} if change == "encoder" else FACTS
    max_tokens = 7 if change == "max_tokens" else 12
    dtype = "bfloat16" if change == "dtype" else "float32"
    embed(encoder, source, tmp_path / "index", max_tokens=max_tokens, rows_per_shard=10, dtype=dtype, facts=facts)
    found = ExactIndex.open(tmp_path / "index").vectors(torch.arange(100))
    assert torch.allclose(found, embed_rows(encoder, source, max_tokens=max_tokens), atol=2e-2)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_finished_work_is_not_done_again_and_other_work_replaces_it(tmp_path: Path) -> None:
    encoder, source = ToyEncoder(seed=1), ToySource(40)
    embed(encoder, source, tmp_path / "index", max_tokens=12, facts=FACTS)
    count = len(encoder.batches)
    embed(encoder, source, tmp_path / "index", max_tokens=12, facts=FACTS)
    assert len(encoder.batches) == count
    embed(ToyEncoder(seed=2), source, tmp_path / "index", max_tokens=12, facts={"encoder": "two"})
    assert read_json(tmp_path / "index" / MANIFEST)["encoder"] == "two"


def test_without_a_fingerprint_nothing_is_reused(tmp_path: Path) -> None:
    embed(ToyEncoder(seed=1), ToySource(40), tmp_path / "index", max_tokens=12)
    embed(ToyEncoder(seed=2), ToySource(40), tmp_path / "index", max_tokens=12)
    found = ExactIndex.open(tmp_path / "index").vectors(torch.arange(40))
    assert torch.allclose(found, embed_rows(ToyEncoder(seed=2), ToySource(40), max_tokens=12), atol=1e-6)


def test_ranks_share_the_shards(tmp_path: Path) -> None:
    source = ToySource(100)
    encoders = [ToyEncoder() for _ in range(3)]
    for rank, encoder in enumerate(encoders):
        embed(
            encoder, source, tmp_path / "index", max_tokens=12, rows_per_shard=10, facts=FACTS, rank=rank, world_size=3
        )
        assert not (tmp_path / "index").exists()
    assert [sum(rows for rows, _ in encoder.batches) for encoder in encoders] == [40, 30, 30]
    last = ToyEncoder()
    embed(last, source, tmp_path / "index", max_tokens=12, rows_per_shard=10, facts=FACTS)
    assert not last.batches
    found = ExactIndex.open(tmp_path / "index").vectors(torch.arange(100))
    assert torch.allclose(found, embed_rows(last, source, max_tokens=12), atol=1e-6)


def test_nan_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    encoder, source = ToyEncoder(), ToySource(40)
    word = int(source.passages(torch.tensor([0]), 12).ids[0, 0])
    with torch.no_grad():
        encoder.words.weight[word] = float("nan")
    with pytest.raises(TrainingError, match="row 0"):
        embed(encoder, source, tmp_path / "index", max_tokens=12, facts=FACTS)
    assert not (tmp_path / "index").exists()


def test_an_empty_snapshot_gives_an_empty_index(tmp_path: Path) -> None:
    embed(ToyEncoder(), ToySource(0), tmp_path / "index", max_tokens=12, facts=FACTS)
    assert len(ExactIndex.open(tmp_path / "index")) == 0


def test_a_full_disk_keeps_the_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, source = ToyEncoder(), ToySource(100)
    save, calls = np.save, iter(range(10**6))

    def full_after_three(*arguments: object, **settings: object) -> None:
        if next(calls) >= 3:
            raise OSError(28, "No space left on device")
        save(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", full_after_three)
    with pytest.raises(ArtefactError, match="No space left"):
        embed(encoder, source, tmp_path / "index", max_tokens=12, rows_per_shard=10, facts=FACTS)
    monkeypatch.undo()
    count = len(encoder.batches)
    embed(encoder, source, tmp_path / "index", max_tokens=12, rows_per_shard=10, facts=FACTS)
    assert sum(rows for rows, _ in encoder.batches[count:]) == 70


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        embed(ToyEncoder(), ToySource(4), tmp_path / "index", max_tokens=12, dtype="float16")
    with pytest.raises(UsageError, match="rank 2 of 2"):
        embed(ToyEncoder(), ToySource(4), tmp_path / "index", max_tokens=12, rank=2, world_size=2)
    with pytest.raises(UsageError, match="rows"):
        embed(ToyEncoder(), ToySource(4), tmp_path / "index", max_tokens=12, facts={"rows": 3})


class HalfEncoder(ToyEncoder):
    """Gives bfloat16, as autocast does."""

    def encode_passages(self, tokens: Tokens) -> torch.Tensor:
        return super().encode_passages(tokens).bfloat16()


def test_half_precision_becomes_float32() -> None:
    assert embed_rows(HalfEncoder(), ToySource(4), max_tokens=12).dtype == torch.float32


class Projected(ToyEncoder):
    """With a matrix product, which autocast rounds."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.projection = torch.nn.Linear(8, 8)

    def encode_passages(self, tokens: Tokens) -> torch.Tensor:
        projected: torch.Tensor = self.projection(super().encode_passages(tokens))
        return projected


def test_bfloat16_products_are_another_index(tmp_path: Path) -> None:
    encoder, source = Projected(), ToySource(40)
    exact = embed(encoder, source, tmp_path / "index", max_tokens=12, facts=FACTS)
    assert not read_json(exact / MANIFEST)["bf16"]
    before = ExactIndex.open(exact).vectors(torch.arange(40))
    rounded = embed(encoder, source, tmp_path / "index", max_tokens=12, bf16=True, facts=FACTS)
    assert read_json(rounded / MANIFEST)["bf16"]
    after = ExactIndex.open(rounded).vectors(torch.arange(40))
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before, rtol=0.03, atol=0.03 * float(before.abs().max()))
    again = embed(encoder, source, tmp_path / "index", max_tokens=12, facts=FACTS)
    assert torch.equal(ExactIndex.open(again).vectors(torch.arange(40)), before)
