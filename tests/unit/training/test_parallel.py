"""What is summed at once; two ranks at work stand in tests/whole/test_two_ranks.py."""

from __future__ import annotations

import pytest
import torch

from realm.training import parallel


def test_gradients_are_summed_in_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "BUCKET", 10)
    sizes = [(4, torch.float32), (6, torch.float32), (1, torch.float32), (2, torch.bfloat16), (30, torch.bfloat16)]
    gradients = [torch.zeros(size, dtype=kind) for size, kind in sizes]
    buckets = list(parallel._buckets(gradients))
    assert [[len(gradient) for gradient in bucket] for bucket in buckets] == [[4, 6], [1], [2], [30]]
    flat = [gradient for bucket in buckets for gradient in bucket]
    assert all(found is wanted for found, wanted in zip(flat, gradients, strict=True))
    assert list(parallel._buckets([])) == []


def test_one_process_is_the_whole_world() -> None:
    x_ND = torch.randn(3, 2, requires_grad=True)
    found = parallel.gather(x_ND)
    assert found.all_MD is x_ND and found.first == 0
    assert parallel.everyone("a") == ["a"] and parallel.of_rank_0([1.5]) == [1.5]
    assert torch.equal(parallel.total(torch.tensor([2.0])), torch.tensor([2.0]))
    state = torch.get_rng_state()
    parallel.own_draws(7, 3)
    assert torch.equal(torch.get_rng_state(), state), "rank 0 draws as if it were alone"
