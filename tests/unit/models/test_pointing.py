"""The pointer without padding: what its parts give, and that neither chunks nor padding can be told from its logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from realm.models.pointing import NOWHERE, PointerHead, distinct, neighbours, point, segment_logsumexp
from realm.types import Tokens

H, VOCABULARY = 8, 40


@given(st.lists(st.integers(0, 6), max_size=30))
def test_distinct_numbers_and_their_places_are_those_of_sorting(numbers: list[int]) -> None:
    found_P, place_S = distinct(torch.tensor(numbers, dtype=torch.long), 7)
    wanted_P, where_S = torch.tensor(numbers, dtype=torch.long).unique(return_inverse=True)
    assert torch.equal(found_P, wanted_P)
    assert torch.equal(place_S, where_S)


@given(st.lists(st.lists(st.floats(-500, 500, width=32), max_size=4), min_size=1, max_size=6))
def test_a_sum_over_segments_is_a_sum_over_each(rows: list[list[float]]) -> None:
    value_E = torch.tensor([value for row in rows for value in row], requires_grad=True)
    row_E = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    found_R = segment_logsumexp(value_E, row_E, len(rows))
    each = [torch.tensor(row, requires_grad=True) for row in rows]
    wanted_R = torch.stack([row.logsumexp(0) if len(row) else torch.tensor(NOWHERE) for row in each])
    torch.testing.assert_close(found_R, wanted_R)
    if row_E.numel():
        found_R.sum().backward()
        wanted_R.sum().backward()
        assert value_E.grad is not None
        there = [row.grad for row in each if row.grad is not None]
        torch.testing.assert_close(value_E.grad, torch.cat(there))


def test_neighbours_stay_within_their_body() -> None:
    place_S, body_S = torch.tensor([4, 5, 6, 7, 8]), torch.tensor([0, 0, 0, 2, 2])
    found = neighbours(place_S, body_S, [0, -1, 1, -2, 2], 99)
    assert found.T.tolist() == [
        [4, 5, 6, 7, 8],
        [99, 4, 5, 99, 7],
        [5, 6, 99, 8, 99],
        [99, 99, 4, 99, 99],
        [6, 99, 99, 99, 99],
    ]


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_logits_are_products_with_the_embedding_layers_output(frozen: bool, normed: bool) -> None:
    torch.manual_seed(3)
    head, table, norm = PointerHead(H), nn.Embedding(VOCABULARY, H), nn.LayerNorm(H) if normed else None
    modules = [module for module in (head, table, norm) if module is not None]
    for parameter in (p for module in (head, norm) if module is not None for p in module.parameters()):
        nn.init.normal_(parameter)
    table.requires_grad_(not frozen)
    ids_NL = torch.randint(VOCABULARY, (8, 12))
    body = Tokens(ids_NL, torch.zeros_like(ids_NL), torch.tensor([0, 5, 9, 0, 1, 7, 3, 12]))
    masked_R, pair_R = torch.tensor([0, 1, 0, 1, 0, 1, 2, 2, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 7])
    target_MH = torch.randn(3, H, requires_grad=True)

    found = point(head, target_MH, table, norm, body, masked_R, pair_R)
    rows: list[int] = []
    pieces: list[int] = []
    wanted = []
    for r, (m, n) in enumerate(zip(masked_R.tolist(), pair_R.tolist(), strict=True)):
        length = int(body.lengths[n])
        key_LH = table(ids_NL[n, :length]) if norm is None else norm(table(ids_NL[n, :length]))
        asked_OH = head.query(target_MH[m]).unflatten(0, (5, H)) / H**0.5
        for i in range(length):
            near = [(o, i + offset) for o, offset in enumerate(head.offsets) if 0 <= i + offset < length]
            wanted.append(torch.stack([asked_OH[o] @ key_LH[at] for o, at in near]).sum())
        rows += [r] * length
        pieces += ids_NL[n, :length].tolist()
    assert found.row_E.tolist() == rows
    assert found.piece_E.tolist() == pieces
    wanted_E = torch.stack(wanted)
    torch.testing.assert_close(found.logit_E, wanted_E, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sentinel_M, head.sentinel(target_MH)[:, 0])

    gradients = []
    for logit_E in (found.logit_E, wanted_E):
        for module in modules:
            module.zero_grad()
        target_MH.grad = None
        logit_E.cos().sum().backward()
        gradients.append([p.grad for m in modules for p in m.parameters() if p.grad is not None] + [target_MH.grad])
    assert len(gradients[0]) == len(gradients[1])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
