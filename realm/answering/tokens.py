"""Text to the token ids that training used, for text that is not in a snapshot: questions and fresh passages.

Legend: N texts, L tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from realm.errors import UsageError
from realm.models.backbone import pieces
from realm.types import Passage, Tokens

BLANK = re.compile(r"\[MASK\]|_{2,}", re.IGNORECASE)
"""How a person may write the blank."""


def pad(rows: Sequence[Sequence[int]], pad_id: int, first_segment: Sequence[int] | None = None) -> Tokens:
    """N texts padded to the longest; ids from `first_segment[n]` on are of segment 1."""
    length_N = torch.tensor([len(row) for row in rows])
    longest = int(length_N.max()) if len(rows) else 0
    id_NL = torch.full((len(rows), longest), pad_id)
    type_NL = torch.zeros_like(id_NL)
    for n, row in enumerate(rows):
        id_NL[n, : len(row)] = torch.tensor(row, dtype=torch.long)
        if first_segment is not None:
            type_NL[n, first_segment[n] : len(row)] = 1
    return Tokens(id_NL, type_NL, length_N)


def passage_tokens(tokenizer: Any, passages: Sequence[Passage], max_tokens: int) -> Tokens:
    """[CLS] title [SEP] body [SEP], cut as `Snapshot.passages` cuts: the title first, the body gets what is left."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    titles = pieces(tokenizer, [passage.title for passage in passages])
    bodies = pieces(tokenizer, [passage.text for passage in passages])
    rows, heads = [], []
    for title, body in zip(titles, bodies, strict=True):
        head = title[: max_tokens - 3]
        rows.append([cls, *head, sep, *body[: max_tokens - 3 - len(head)], sep])
        heads.append(len(head) + 2)
    return pad(rows, tokenizer.pad_token_id, heads)


def body_tokens(tokenizer: Any, passages: Sequence[Passage], max_tokens: int, *, with_title: bool) -> Tokens:
    """What the reader reads, cut as `Snapshot.bodies` cuts: the null passage (nothing) first, then each passage."""
    titles = pieces(tokenizer, [passage.title if with_title else "" for passage in passages])
    rows: list[list[int]] = [[]]
    heads = [0]
    for title, body in zip(titles, pieces(tokenizer, [passage.text for passage in passages]), strict=True):
        head = [*title[: max_tokens - 1], tokenizer.sep_token_id] if title else []
        rows.append([*head, *body[: max_tokens - len(head)]])
        heads.append(len(head))
    return pad(rows, tokenizer.pad_token_id, heads)


def cloze_tokens(tokenizer: Any, question: str, num_masks: int, max_tokens: int) -> tuple[Tokens, torch.Tensor]:
    """A question with one blank as [CLS] ... [MASK] x num_masks ... [SEP], and where the masks stand, Long[num_masks].

    A question over the budget keeps what is around the blank. UsageError when there is not exactly one blank.
    """
    blanks = list(BLANK.finditer(question))
    if len(blanks) != 1:
        raise UsageError(
            f"found {len(blanks)} blanks in {question[:80]!r}: expected one, written [MASK] or ____, "
            'as in "Guernica was painted by [MASK]."; plain questions need a model that realm finetune made'
        )
    before, after = pieces(tokenizer, [question[: blanks[0].start()], question[blanks[0].end() :]])
    room = max(0, max_tokens - 2 - num_masks)
    kept_after = after[: max(room // 2, room - len(before))]
    kept_before = before[len(before) - min(len(before), room - len(kept_after)) :]
    ids = [
        tokenizer.cls_token_id,
        *kept_before,
        *[tokenizer.mask_token_id] * num_masks,
        *kept_after,
        tokenizer.sep_token_id,
    ]
    first = 1 + len(kept_before)
    return pad([ids], tokenizer.pad_token_id), torch.arange(first, first + num_masks)
