"""BM25 over titles and texts, by bm25s (Lü 2024), which keeps every term's scores precomputed.

Scores are those of Lucene's BM25 (Robertson et al. 1994; Kamphuis et al. 2020). Legend: B queries, K hits, N rows,
E excluded rows or entries of the matrix, V words, T terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import read_manifest, staged_folder, write_manifest
from realm.search.terms import TOKEN_PATTERN, Terms, terms_of
from realm.search.topk import NO_SCORE, top
from realm.types import NO_ROW, Hits

FORMAT = "realm postings"
VERSION = 1


class Bm25:
    """A `Retriever` of words. Passages without a term of the query are no hits; among equal scores, lower row first."""

    def __init__(self, engine: Any, settings: Mapping[str, Any], rows: int, facts: Mapping[str, Any]) -> None:
        """Use `build` or `open`."""
        self._engine = engine
        self._settings = dict(settings)
        self._rows = rows
        self.facts = dict(facts)

    @classmethod
    def build(
        cls,
        passages: Iterable[tuple[str, str]],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        stopwords: str | Sequence[str] | None = "en",
        token_pattern: str = TOKEN_PATTERN,
        facts: Mapping[str, Any] | None = None,
    ) -> Bm25:
        """Index (title, text) pairs in the order of their rows; the pairs are read once.

        k1, b: term saturation and length normalisation; 0.9 and 0.4 are the usual choice for passages.
        stopwords: a language ("en", "de", "ko", ...), a list of words, or None for none.
        facts: what the passages come from (snapshot), kept in the manifest. UsageError: an impossible setting.
        """
        import bm25s
        from bm25s.tokenization import Tokenizer

        if k1 < 0 or not 0 <= b <= 1:
            raise UsageError(f"k1 is {k1} and b is {b}: expected k1 of at least 0 and b between 0 and 1")
        kept = stopwords if stopwords is None or isinstance(stopwords, str) else list(stopwords)
        settings = {"k1": k1, "b": b, "stopwords": kept, "token_pattern": token_pattern}
        try:
            dropped = Tokenizer(stopwords=kept).stopwords
        except ValueError as error:
            raise UsageError(f"stop words {stopwords!r}: no language of bm25s; give a list of words or None") from error
        texts = (f"{title} {text}" for title, text in passages)
        terms = terms_of(texts, token_pattern=token_pattern, stopwords=dropped)
        engine = None
        if terms.vocab:
            engine = bm25s.BM25(k1=k1, b=b, method="lucene")
            engine.scores, engine.vocab_dict = _scores(terms, k1=k1, b=b), {"": len(terms.vocab), **terms.vocab}
            engine.unique_token_ids_set = set(engine.vocab_dict.values())
            engine.nonoccurrence_array = None
        return cls(engine, settings, terms.rows, facts or {})

    def __len__(self) -> int:
        return self._rows

    def __call__(
        self, queries: Sequence[str], k: int, exclude: Tensor | None = None, allowed: Tensor | None = None
    ) -> Hits:
        """Best k rows for each query; `exclude` Long[B, E] and `allowed` Bool[N] as in `Index.search`."""
        if k < 1:
            raise UsageError(f"k is {k}: expected at least 1")
        if exclude is not None and (exclude.ndim != 2 or len(exclude) != len(queries)):
            raise UsageError(f"exclude of shape {tuple(exclude.shape)}: expected [{len(queries)}, rows]")
        if exclude is not None and exclude.numel() and int(exclude.max()) >= self._rows:
            raise UsageError(f"exclude names a row outside 0..{self._rows - 1}: it belongs to another snapshot")
        if allowed is not None and tuple(allowed.shape) != (self._rows,):
            raise UsageError(f"allowed has shape {tuple(allowed.shape)}: expected [{self._rows}]")
        row_BK = torch.full((len(queries), k), NO_ROW)
        score_BK = torch.full((len(queries), k), NO_SCORE)
        for number, score_N in self._scores(queries):
            score_1N = score_N[None]
            if exclude is not None:
                score_1N[0, exclude[number][exclude[number] != NO_ROW]] = NO_SCORE
            if allowed is not None:
                score_1N[0, ~allowed] = NO_SCORE
            value, row = top(score_1N, k)
            value = value.masked_fill(value <= 0, NO_SCORE)
            score_BK[number, : value.shape[1]] = value[0]
            row_BK[number, : value.shape[1]] = row[0].masked_fill(value[0] == NO_SCORE, NO_ROW)
        return Hits(row_BK, score_BK)

    def score(self, queries: Sequence[str], rows: Tensor) -> Tensor:
        """Float32[B, E]: the scores of given rows Long[B, E], 0 without a common term, -inf for NO_ROW."""
        if rows.ndim != 2 or len(rows) != len(queries):
            raise UsageError(f"rows of shape {tuple(rows.shape)}: expected [{len(queries)}, rows]")
        score_BE = torch.zeros(rows.shape)
        for number, score_N in self._scores(queries):
            score_BE[number] = score_N[rows[number].clamp(min=0)]
        return score_BE.masked_fill(rows == NO_ROW, NO_SCORE)

    def _scores(self, queries: Sequence[str]) -> Iterator[tuple[int, Tensor]]:
        """(number of the query, Float32[N]) of every query with a known term."""
        if self._engine is None or not len(queries):
            return
        tokens = _tokenise(queries, self._settings)
        words = list(tokens.vocab)
        for number, ids in enumerate(tokens.ids):
            known = self._engine.get_tokens_ids([words[i] for i in ids])
            if known:
                yield number, torch.from_numpy(self._engine.get_scores_from_ids(known)).float()

    def save(self, folder: Path) -> None:
        """Write the postings as a folder, whole or not at all."""
        with staged_folder(Path(folder)) as staged:
            if self._engine is not None:
                self._engine.save(staged / "bm25s", show_progress=False)
            write_manifest(
                staged,
                format=FORMAT,
                version=VERSION,
                rows=self._rows,
                settings=self._settings,
                empty=self._engine is None,
                facts=self.facts,
            )

    @classmethod
    def open(cls, folder: Path, *, snapshot: str | None = None) -> Bm25:
        """Open saved postings, mapped from disk. ArtefactError: missing or torn. MismatchError: of another snapshot."""
        import bm25s

        folder = Path(folder)
        manifest = read_manifest(folder, format=FORMAT, version=VERSION)
        found = manifest["facts"].get("snapshot")
        if snapshot is not None and found != snapshot:
            raise MismatchError(f"the postings {folder} are of snapshot {found}, not of {snapshot}: build them again")
        engine = None
        if not manifest["empty"]:
            try:
                engine = bm25s.BM25.load(folder / "bm25s", mmap=True, show_progress=False)
            except (OSError, ValueError, KeyError) as error:
                raise ArtefactError(f"the postings {folder} are damaged ({error}): build them again") from error
        return cls(engine, manifest["settings"], manifest["rows"], manifest["facts"])


def _scores(terms: Terms, *, k1: float, b: float) -> dict[str, Any]:
    """What `bm25s.BM25.index` computes, a sparse matrix of N texts by V words, in columns:

        score = ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 (1 - b + b |d| / mean |d|))

    Terms are sorted once instead of counted text by text.
    """
    rows, words = terms.rows, len(terms.vocab)
    length_N = np.bincount(terms.row_T, minlength=rows)
    norm_N = (k1 * (1 - b + b * length_N / length_N.mean())).astype(np.float32)
    # In place and in few bytes: a million passages have a hundred million terms.
    key_T = terms.id_T * np.int64(rows)
    key_T += terms.row_T
    key_T.sort()
    first_E = np.flatnonzero(np.concatenate([[True], key_T[1:] != key_T[:-1]]))  # of each entry of the matrix
    tf_E = np.diff(first_E, append=len(key_T)).astype(np.float32)
    key_E = key_T[first_E]
    del key_T, first_E
    indptr = np.searchsorted(key_E, np.arange(words + 1) * np.int64(rows))
    df_V = np.diff(indptr)
    key_E %= rows
    row_E = key_E.astype(np.int32)
    del key_E
    score_E = norm_N[row_E]
    score_E += tf_E
    np.divide(tf_E, score_E, out=score_E)
    score_E *= np.repeat(np.log1p((rows - df_V + 0.5) / (df_V + 0.5)).astype(np.float32), df_V)
    return {"data": score_E, "indices": row_E, "indptr": indptr, "num_docs": rows}


def _tokenise(texts: Iterable[str], settings: Mapping[str, Any]) -> Any:
    import bm25s

    return bm25s.tokenize(
        texts,
        token_pattern=settings["token_pattern"],
        stopwords=settings["stopwords"],
        return_ids=True,
        show_progress=False,
    )
