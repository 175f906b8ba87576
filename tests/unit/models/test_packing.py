"""Length-grouped evaluation: the same values and gradients as one padded call, within the budget, with less padding."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from realm.models.packing import by_length, plan_chunks
from realm.types import Tokens


def some_tokens(lengths: list[int], seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (len(lengths), max(lengths) + 2), generator=generator)
    return Tokens(ids, torch.zeros_like(ids), torch.tensor(lengths))


class Masked(nn.Module):
    """A small network that looks at every token and at nothing behind the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6, dtype=torch.float64)
        self.out = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, tokens: Tokens) -> Tensor:
        hidden_NLH = self.embedding(tokens.ids).masked_fill(~tokens.mask[..., None], 0.0)
        return self.out(hidden_NLH.sum(1).tanh())


def brute_force(lengths: np.ndarray, budget: int, cost: int) -> int:
    """Least cost over all ways to cut the sequences into runs that keep the budget."""
    best = 10**9
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(lengths)]
        runs = [(a, b) for a, b in itertools.pairwise(edges)]
        sizes = [(b - a) * max(int(lengths[a]), 1) for a, b in runs]
        if all(size <= budget or b - a == 1 for size, (a, b) in zip(sizes, runs, strict=True)):
            best = min(best, sum(sizes) + cost * len(runs))
    return best


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(1, 120), st.integers(0, 30))
def test_plan_is_the_cheapest_within_the_budget(lengths: list[int], budget: int, cost: int) -> None:
    falling = np.array(sorted(lengths, reverse=True))
    chunks = plan_chunks(falling, budget, cost)
    assert [start for start, _ in chunks] == [0, *(end for _, end in chunks[:-1])]
    assert chunks[-1][1] == len(lengths)
    sizes = [(b - a) * max(int(falling[a]), 1) for a, b in chunks]
    assert all(size <= budget or b - a == 1 for size, (a, b) in zip(sizes, chunks, strict=True))
    assert sum(sizes) + cost * len(chunks) == brute_force(falling, budget, cost)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 200), st.integers(0, 2**16))
def test_values_and_gradients_equal_the_padded_call(lengths: list[int], budget: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, tokens = Masked(), some_tokens(lengths, seed)
    weight = torch.randn(len(lengths), 3, dtype=torch.float64)
    expected = model(tokens)
    naive = torch.autograd.grad((expected * weight).sum(), list(model.parameters()))
    found = by_length(lambda chunk, _: model(chunk), tokens, budget, chunk_cost=2)
    assert_close(found, expected, rtol=0, atol=1e-14)
    for ours, theirs in zip(torch.autograd.grad((found * weight).sum(), list(model.parameters())), naive, strict=True):
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_chunks_are_trimmed_and_know_their_places() -> None:
    tokens = some_tokens([3, 11, 3, 10, 4])
    seen: list[tuple[tuple[int, ...], int]] = []

    def look(chunk: Tokens, index: Tensor) -> Tensor:
        assert torch.equal(chunk.ids, tokens.ids[index, : chunk.ids.shape[1]])
        assert int(chunk.lengths.max()) == chunk.ids.shape[1]
        seen.append((tuple(sorted(index.tolist())), chunk.ids.shape[1]))
        return index.double()

    assert by_length(look, tokens, 22, chunk_cost=3).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert seen == [((1, 3), 11), ((0, 2, 4), 4)]


def test_little_padding_is_computed() -> None:
    lengths = np.random.default_rng(0).integers(16, 257, 300)
    falling = np.sort(lengths)[::-1]
    computed = sum((b - a) * int(falling[a]) for a, b in plan_chunks(falling, 4096, 128))
    assert computed < 1.05 * lengths.sum()
