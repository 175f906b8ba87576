"""The reader's input: [CLS] query [SEP] body [SEP], put together without ever looking at text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import UsageError
from realm.models.joint import join
from realm.types import Tokens

CLS, SEP = 2, 3


def padded(rows: list[list[int]]) -> Tokens:
    width = max(len(row) for row in rows)
    # 77 stands for whatever a caller leaves in the padding: it must never be read.
    ids = torch.tensor([row + [77] * (width - len(row)) for row in rows]).reshape(len(rows), width)
    return Tokens(ids, torch.zeros_like(ids), torch.tensor([len(row) for row in rows]))


words = st.lists(st.integers(10, 40), max_size=6)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.integers(9, 20))
def test_each_input_is_query_then_body_cut_to_the_limit(pairs: list[tuple[list[int], list[int]]], limit: int) -> None:
    query = padded([[CLS, *q, SEP] for q, _ in pairs])
    joint = join(query, padded([b for _, b in pairs]), torch.arange(len(pairs)), separator=SEP, max_length=limit)
    for number, (q, b) in enumerate(pairs):
        first = [CLS, *q, SEP]
        body = b[: limit - len(first) - 1]
        length = int(joint.tokens.lengths[number])
        assert joint.tokens.ids[number, :length].tolist() == [*first, *body, SEP]
        assert joint.tokens.types[number, :length].tolist() == [0] * len(first) + [1] * (len(body) + 1)
        assert length <= limit
        assert joint.tokens.ids[number, length:].sum() == 0
        inside = joint.body_mask(torch.tensor([number]), joint.tokens.ids.shape[1])[0]
        assert joint.tokens.ids[number][inside].tolist() == body


def test_queries_repeat_for_their_candidates() -> None:
    query, body = padded([[CLS, 10, SEP], [CLS, 20, 21, SEP]]), padded([[], [30], [], [31, 32]])
    joint = join(query, body, torch.tensor([0, 0, 1, 1]), separator=SEP, max_length=64)
    rows = [row[:n].tolist() for row, n in zip(joint.tokens.ids, joint.tokens.lengths, strict=True)]
    assert rows == [
        [CLS, 10, SEP, SEP],
        [CLS, 10, SEP, 30, SEP],
        [CLS, 20, 21, SEP, SEP],
        [CLS, 20, 21, SEP, 31, 32, SEP],
    ]


def test_a_query_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(UsageError, match="query of 5 tokens: the reader takes at most 4"):
        join(padded([[CLS, 10, 11, 12, SEP]]), padded([[30]]), torch.tensor([0]), separator=SEP, max_length=5)
