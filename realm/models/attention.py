"""Attention for reading on a CPU: the scores of one text at a time, so that they stay in a cache.

Legend: N texts, T tokens of each, A heads, H numbers a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from realm.models.backbone import quiet

ROW_BY_ROW = "row-by-row"
"""Its name among the kinds of attention that `transformers` knows."""


def attend_row_by_row(model: Any) -> None:
    """Have the model compute attention as `row_by_row` where it is on a CPU; a class that can't be told another kind
    (MPNet, DeBERTa) keeps its own."""
    if next(model.parameters()).device.type != "cpu":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ROW_BY_ROW, row_by_row)
    AttentionMaskInterface.register(ROW_BY_ROW, eager_mask)
    with quiet():  # it warns of a class that can't: nothing that a user could mend
        model.set_attn_implementation(ROW_BY_ROW)


def row_by_row(
    module: nn.Module,
    query_NATH: Tensor,
    key_NATH: Tensor,
    value_NATH: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) of one text after the other, A heads, for
    inference: Float[N, T, A, H]. query_NATH: Float[N, A, T, H]; keys and values the same, or a divisor of A heads.
    attention_mask: what is added to the scores, Float[N, 1, T, T]. scaling: of the scores, 1 / sqrt(H) when None.

    torch's fused kernel for CPUs turns bfloat16 into float32 block by block; the plain products of a whole batch write
    and fetch tens of megabytes of scores. Those of one text stay in a cache. At five texts of 317 tokens and 32 numbers
    a head, reading takes 15% less time than with the first and 22% less than with the second.
    """
    groups = query_NATH.shape[1] // key_NATH.shape[1]
    if groups > 1:  # heads that share keys and values
        key_NATH, value_NATH = (both.repeat_interleave(groups, dim=1) for both in (key_NATH, value_NATH))
    query_NATH = query_NATH * (query_NATH.shape[-1] ** -0.5 if scaling is None else scaling)
    out_NTAH = query_NATH.new_empty(*query_NATH.transpose(1, 2).shape[:3], value_NATH.shape[-1])
    for n, (query_ATH, key_ATH, value_ATH) in enumerate(zip(query_NATH, key_NATH, value_NATH, strict=True)):
        score_ATT = query_ATH @ key_ATH.mT
        if attention_mask is not None:
            score_ATT += attention_mask[n]
        out_NTAH[n] = (score_ATT.softmax(-1) @ value_ATH).transpose(0, 1)
    return out_NTAH, None
