"""A pointer from masked word pieces to the pieces of passages, computed without padding (see `realm.models.late`).

Legend for shapes: N pairs of a query and a body, M masked pieces, R masked pieces under each of their bodies, E word
pieces of all R, S of all bodies, P distinct ones of them, O offsets, H hidden size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from realm.types import Tokens

WINDOW = 2
NOWHERE = -1e9
"""A logit that no softmax sees, and whose gradient is 0 rather than NaN where there is nothing else."""


class Pointed(NamedTuple):
    """Logits of a pointer."""

    row_E: Tensor
    """Long[E]: which of the R a logit belongs to, ascending."""
    piece_E: Tensor
    """Long[E]: the word piece that is pointed at."""
    logit_E: Tensor
    sentinel_M: Tensor


class PointerHead(nn.Module):
    """Queries and the sentinel of the pointer; its keys are the reader's word embeddings."""

    def __init__(self, hidden_size: int, window: int = WINDOW) -> None:
        """window: how many neighbours on each side tell which place is meant."""
        super().__init__()
        self.offsets = sorted(range(-window, window + 1), key=abs)
        """0 first: the piece itself."""
        self.query = nn.Linear(hidden_size, hidden_size * len(self.offsets))
        self.sentinel = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.query.weight)
        nn.init.eye_(self.query.weight[:hidden_size])
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.sentinel.weight)
        # A passage of a hundred pieces whose logits are all near 0 then leaves the sentinel four fifths of the mass.
        nn.init.constant_(self.sentinel.bias, 6.0)

    def forward(self, target_MH: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor, Tensor, Tensor]:
        """What keys are multiplied with at each offset, Float[M, O, H]; what is added to each product, Float[M, O];
        and the logits of the sentinel, Float[M].

        norm: of the embedding layer, None where it has none. Its scale and shift are taken in here, by M * O queries
        instead of all keys: these then need no gradient where the embeddings are frozen.
        """
        query_MOH = self.query(target_MH).unflatten(-1, (len(self.offsets), -1)) / math.sqrt(target_MH.shape[-1])
        sentinel_M = self.sentinel(target_MH)[:, 0]
        if norm is None:
            return query_MOH, query_MOH.new_zeros(query_MOH.shape[:2]), sentinel_M
        return query_MOH * norm.weight, query_MOH @ norm.bias, sentinel_M


def point(
    head: PointerHead,
    target_MH: Tensor,
    table: nn.Embedding,
    norm: nn.LayerNorm | None,
    body: Tokens,
    masked_R: Tensor,
    pair_R: Tensor,
) -> Pointed:
    """Logits of masked piece `masked_R` on the pieces of body `pair_R`.

    table, norm: word embeddings, and the norm that follows them. The keys are the embedding layer's output for each
    piece, its position left out.
    """
    device, length_N = target_MH.device, body.lengths.clamp(max=body.ids.shape[1])
    piece_S = body.ids.masked_select(body.mask)
    known_P, place_S = distinct(piece_S, table.num_embeddings)
    with torch.autocast(device.type, enabled=False):
        asked_MOH, added_MO, sentinel_M = head(target_MH.float(), norm)
        key_PH = table(known_P).float()
        if norm is not None:
            key_PH = nn.functional.layer_norm(key_PH, key_PH.shape[-1:], eps=norm.eps)
        part_MOP = asked_MOH @ key_PH.T + added_MO[..., None]
        # One more column, of zeros, stands for what lies before the first piece and behind the last.
        part_MOP = nn.functional.pad(part_MOP, (0, 1))
        _, offsets, columns = part_MOP.shape

        body_S = torch.arange(len(body), device=device).repeat_interleave(length_N)
        near_SO = neighbours(place_S, body_S, head.offsets, len(known_P))
        near_SO += torch.arange(offsets, device=device) * columns

        length_R = length_N[pair_R]
        first_R = (length_N.cumsum(0) - length_N)[pair_R] - (length_R.cumsum(0) - length_R)
        each_R = (first_R, torch.arange(len(pair_R), device=device), masked_R * offsets * columns)
        first_E, row_E, slab_E = (values.repeat_interleave(length_R) for values in each_R)
        at_E = first_E + torch.arange(len(row_E), device=device)
        flat_EO = near_SO.index_select(0, at_E) + slab_E[:, None]
        logit_E = part_MOP.flatten().gather(0, flat_EO.flatten()).view_as(flat_EO).sum(1)
    return Pointed(row_E, piece_S.index_select(0, at_E), logit_E, sentinel_M)


def distinct(numbers_S: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct ones of numbers below `size`, ascending, and where each number stands among them; without
    sorting."""
    there = torch.zeros(size, dtype=torch.bool, device=numbers_S.device).index_fill_(0, numbers_S, True)
    return there.nonzero()[:, 0], (there.cumsum(0) - 1).index_select(0, numbers_S)


def neighbours(place_S: Tensor, body_S: Tensor, offsets: list[int], outside: int) -> Tensor:
    """Long[S, O]: the place of each piece's neighbour at each offset; `outside` where its body has none there."""
    window, size = max(offsets), len(place_S)
    place, bodies = (nn.functional.pad(values, (window, window), value=-1) for values in (place_S, body_S))
    moved = [slice(window + offset, window + offset + size) for offset in offsets]
    return torch.stack([torch.where(bodies[at] == body_S, place[at], outside) for at in moved], 1)


def segment_logsumexp(value_E: Tensor, row_E: Tensor, rows: int) -> Tensor:
    """log of the sum of exp(value) over each row's values. Float[rows]; `NOWHERE`, without gradient, where it has
    none."""
    peak_R = value_E.new_full((rows,), NOWHERE).scatter_reduce(0, row_E, value_E.detach(), "amax")
    sum_R = value_E.new_zeros(rows).index_add(0, row_E, (value_E - peak_R.index_select(0, row_E)).exp())
    return peak_R + sum_R.clamp(min=1.0).log()  # the largest of a row adds 1
