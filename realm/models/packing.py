"""Length-grouped evaluation: sequences of like length together, so that little is computed for padding.

Legend for shapes: N sequences, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from realm.types import Tokens

CPU_TOKENS, ACCELERATOR_TOKENS = 2048, 65536
"""Default token budgets of a call: on a CPU larger ones fall out of the cache, on an accelerator smaller ones idle."""


def default_token_budget(device: torch.device) -> int:
    return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


def plan_chunks(lengths: np.ndarray, token_budget: int, chunk_cost: int) -> list[tuple[int, int]]:
    """Cut sequences, given in falling order of length, into chunks (start, end) of least total cost.

    A chunk costs its padded size (count x longest) plus `chunk_cost`, both in tokens. Its padded size stays within
    `token_budget`, except that a sequence longer than the budget gets a chunk of its own.
    """
    count = len(lengths)
    best = np.zeros(count + 1, dtype=np.int64)
    ends = np.zeros(count, dtype=np.int64)
    for start in range(count - 1, -1, -1):
        longest = max(int(lengths[start]), 1)
        most = min(max(token_budget // longest, 1), count - start)
        costs = longest * np.arange(1, most + 1) + best[start + 1 : start + most + 1]
        ends[start] = start + 1 + int(costs.argmin())
        best[start] = chunk_cost + int(costs.min())
    chunks, start = [], 0
    while start < count:
        chunks.append((start, int(ends[start])))
        start = int(ends[start])
    return chunks


def by_length(
    fn: Callable[[Tokens, Tensor], Tensor],
    tokens: Tokens,
    token_budget: int | None = None,
    chunk_cost: int | None = None,
) -> Tensor:
    """`fn` over all sequences, evaluated in chunks of like length: the values that one padded call would give.

    fn: gets the tokens of a chunk, trimmed to its longest, and the places they stood at (Long[M]); returns
    Float[M, ...] whose further sizes don't depend on the chunk.
    token_budget: most padded tokens in one call; by default according to the device.
    chunk_cost: what a call costs beside its tokens, counted in tokens; by default according to the device.

    Float[N, ...] in the order given; gradients flow. There must be a sequence: there is no shape to return for none.
    """
    device = tokens.ids.device
    token_budget = default_token_budget(device) if token_budget is None else token_budget
    chunk_cost = token_budget // 32 if chunk_cost is None else chunk_cost
    lengths = tokens.lengths.cpu().numpy()
    order = np.argsort(-lengths, kind="stable")
    index = torch.from_numpy(order).to(device)
    pieces = [
        fn(tokens.select(index[a:b]), index[a:b]) for a, b in plan_chunks(lengths[order], token_budget, chunk_cost)
    ]
    back = torch.empty_like(index).scatter(0, index, torch.arange(len(index), device=device))
    return torch.cat(pieces)[back]
