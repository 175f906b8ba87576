"""A small corpus in memory with a real word-piece tokenizer: what batches read of a snapshot, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from tiny import tiny_tokenizer
from torch import Tensor

from realm.files import fingerprint
from realm.training.batches import pad_tokens
from realm.types import NO_ROW, Tokens


class Corpus:
    """Passages from plain texts: a sentence ends at a full stop before white space."""

    def __init__(
        self, texts: Sequence[str], titles: Sequence[str] | None = None, documents: Sequence[str] | None = None
    ) -> None:
        self._texts = list(texts)
        self._documents = list(documents or [f"d{number}" for number in range(len(texts))])
        # Every second word is known, so that the others are several pieces each.
        words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
        tokenizer = tiny_tokenizer([" ".join(words[::2])])
        self.cls_id, self.sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.mask_id, self.pad_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        backend = tokenizer.backend_tokenizer
        self._bodies = [backend.encode(text, add_special_tokens=False) for text in self._texts]
        named = titles or ["a title"] * len(self._texts)
        self._title_ids = [backend.encode(title, add_special_tokens=False).ids for title in named]
        self.fingerprint = fingerprint(*self._texts, *self._documents)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, row: int) -> str:
        return self._texts[row]

    def document_id(self, row: int) -> str:
        return self._documents[row]

    def sentences(self, row: int) -> np.ndarray:
        found = [match.span() for match in re.finditer(r"\S.*?(?:\.(?=\s)|$)", self._texts[row], re.DOTALL)]
        return np.array(found, np.int32).reshape(-1, 2)

    def body_ids(self, row: int) -> np.ndarray:
        return np.array(self._bodies[row].ids, np.int32)

    def body_offsets(self, row: int) -> np.ndarray:
        return np.array(self._bodies[row].offsets, np.int32).reshape(-1, 2)

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        texts, heads = [], []
        for row in rows.tolist():
            title = self._title_ids[row][: max_tokens - 3]
            body = self._bodies[row].ids[: max_tokens - 3 - len(title)]
            texts.append(np.array([self.cls_id, *title, self.sep_id, *body, self.sep_id]))
            heads.append(len(title) + 2)
        return pad_tokens(texts, self.pad_id, heads)

    def body_groups(self, rows: np.ndarray) -> np.ndarray:
        bodies = [" ".join(text.casefold().split()) for text in self._texts]
        return np.array([bodies.index(bodies[row]) for row in rows.tolist()], np.uint64)

    def exclusions(self, rows: Tensor, level: str, duplicates: bool) -> Tensor:
        def forbidden(row: int) -> list[int]:
            same = [r for r in range(len(self)) if self._documents[r] == self._documents[row]]
            twins = [r for r in range(len(self)) if duplicates and self._texts[r] == self._texts[row]]
            return sorted({row, *(same if level == "document" else []), *twins})

        found = [forbidden(row) for row in rows.tolist()]
        widest = max(map(len, found))
        return torch.tensor([each + [NO_ROW] * (widest - len(each)) for each in found])


class Table:
    """Spans by hand, as strings to be found in the text of each row."""

    def __init__(self, corpus: Corpus, names: Sequence[Sequence[str]]) -> None:
        self._spans = []
        for row, wanted in enumerate(names):
            found = sorted((corpus.text(row).index(name), corpus.text(row).index(name) + len(name)) for name in wanted)
            self._spans.append(np.array(found, np.int32).reshape(-1, 2))

    def spans(self, row: int) -> np.ndarray:
        return self._spans[row]
