"""The reader's input: [CLS] query [SEP] body [SEP] (Guu et al. 2020, section 3.2: the passage without its title).

Legend for shapes: B queries, N pairs of a query and a body, L tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from realm.errors import UsageError
from realm.types import Tokens


class Joint(NamedTuple):
    """N joint inputs and where in them the bodies stand."""

    tokens: Tokens
    """Segment ids: 0 to the query's [SEP], 1 after it."""
    body_start_N: Tensor
    """Long[N]: first position of the body."""
    body_end_N: Tensor
    """Long[N]: the position after its last; equal to the start for the null passage."""

    def body_mask(self, index: Tensor, length: int) -> Tensor:
        """Bool[M, L]: True on the body's tokens of the inputs at `index` (Long[M]), for inputs of `length` L."""
        positions = torch.arange(length, device=index.device)
        return (positions >= self.body_start_N[index, None]) & (positions < self.body_end_N[index, None])


def join(query: Tokens, body: Tokens, query_of_N: Tensor, *, separator: int, max_length: int) -> Joint:
    """Put each body behind its query; the body is cut so that the whole has at most `max_length` tokens.

    query: B texts with their specials. body: N bodies without specials, of any length, 0 for the null passage.
    query_of_N: Long[N], the query of each body.
    The query comes first, so positions in it hold for every passage. UsageError when a query leaves no room for a
    [SEP].
    """
    longest_query = int(query.lengths.max())
    if longest_query + 1 > max_length:
        raise UsageError(
            f"found a query of {longest_query} tokens: the reader takes at most {max_length - 1}; cut the query"
        )
    start_N = query.lengths[query_of_N]
    end_N = start_N + torch.minimum(body.lengths, max_length - 1 - start_N)
    length = int(end_N.max()) + 1
    position_NL = torch.arange(length, device=start_N.device).expand(len(start_N), length)
    from_query_NL = query.ids[query_of_N].gather(1, position_NL.clamp(max=query.ids.shape[1] - 1))
    # With no body at all in the batch there is no column to take from: one of padding stands in.
    body_ids = body.ids if body.ids.shape[1] else body.ids.new_zeros(len(start_N), 1)
    body_position_NL = (position_NL - start_N[:, None]).clamp(0, body_ids.shape[1] - 1)
    ids_NL = torch.where(position_NL < start_N[:, None], from_query_NL, body_ids.gather(1, body_position_NL))
    ids_NL = ids_NL.masked_fill(position_NL == end_N[:, None], separator).masked_fill(position_NL > end_N[:, None], 0)
    types_NL = ((position_NL >= start_N[:, None]) & (position_NL <= end_N[:, None])).long()
    return Joint(Tokens(ids_NL, types_NL, end_N + 1), start_N, end_N)
