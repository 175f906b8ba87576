"""Where a tokenizer's pieces end, in characters, for many texts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from realm.errors import DataError, UsageError

PieceEnds = Callable[[Sequence[str]], Sequence[np.ndarray]]
"""Texts to Int64[L] each: the end of every piece in characters of its text, ascending, no specials."""


def piece_ends(tokenizer: Any) -> tuple[PieceEnds, int]:
    """The function for `tokenizer`, and how many special tokens it puts around a pair of texts.

    Args:
        tokenizer: a fast tokenizer of `transformers`, one of `tokenizers`, or a `PieceEnds` (then 3 specials,
            as BERT has).

    Raises:
        UsageError: a tokenizer that can't say where its pieces stand.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "encode_batch"):
        plain = _untruncated(backend)
        return _Batched(plain), int(plain.num_special_tokens_to_add(is_pair=True))
    if callable(tokenizer) and not hasattr(tokenizer, "convert_tokens_to_ids"):
        return tokenizer, 3
    raise UsageError(
        f"found a {type(tokenizer).__name__}, which does not say where its pieces stand in the text: "
        "expected a fast tokenizer (AutoTokenizer.from_pretrained gives one for most models)"
    )


def words(texts: Sequence[str]) -> list[np.ndarray]:
    """A `PieceEnds` that needs no tokenizer: one piece for each run of characters between white space."""
    import re

    return [np.array([match.end() for match in re.finditer(r"\S+", text)], dtype=np.int64) for text in texts]


def _untruncated(backend: Any) -> Any:
    """A copy without truncation and padding, which saved tokenizers often bring along: counts would stop there."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


class _Batched:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:  # what `tokenizers` says of strings that UTF-8 can't hold
            raise DataError("found a lone surrogate (half a character): expected text that UTF-8 can hold") from None
        return [_ends(encoding.offsets) for encoding in encodings]


def _ends(offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    flat = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * len(offsets))
    return np.maximum.accumulate(flat[1::2])
