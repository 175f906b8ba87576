"""Which probe sentences can be answered at all: their answer stands in a passage that they may retrieve.

Legend: P probe sentences, E excluded rows.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import regex
from torch import Tensor

from realm.evaluation.retrieval import answer_in_text, answer_tokens

_HANGUL_END = regex.compile(r"\p{Hangul}$")


def told_elsewhere(answers: Sequence[str], exclude_PE: Tensor, rows: int, text_of: Callable[[int], str]) -> np.ndarray:
    """Bool[P]: the upper bound of every retriever. Exact: an index of words only narrows down where to look."""
    rows_of: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for row in range(rows):
        for token in set(answer_tokens(text_of(row))):
            rows_of[token].append(row)
    told = np.zeros(len(answers), bool)
    for p, answer in enumerate(answers):
        # A Korean answer may be followed by particles: its last token then stands in no index.
        tokens = [token for token in answer_tokens(answer) if not _HANGUL_END.search(token)]
        lists = sorted((rows_of[token] if token in rows_of else array("q") for token in tokens), key=len)
        found = set(lists[0] if lists else range(rows)).difference(exclude_PE[p].tolist())
        for other in lists[1:]:
            found.intersection_update(other)
        told[p] = any(answer_in_text(answer, text_of(row)) for row in sorted(found))
    return told
