"""Snapshot: rows to text and token ids, memory-mapped; an immutable view of one version of a knowledge base.

Legend: N rows of the snapshot, M rows asked for, B rows of a batch, E excluded rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import read_manifest
from realm.knowledge.build import ARRAYS, FORMAT, FORMAT_VERSION, build_snapshot, load_tokenizer
from realm.knowledge.table.layout import open_array, ragged_index, verify_array
from realm.types import NO_ROW, Passage, Progress, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from realm.knowledge.base import KnowledgeBase

_NONE = np.zeros(0, np.int32)

Level = Literal["none", "passage", "document"]


class Snapshot:
    """Passages by row, from files. Cheap to open and to send to another process, which opens the same files.

    NO_ROW is the null passage everywhere: empty title and body.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.path = path
        self._manifest = manifest
        self._arrays = arrays
        special = manifest["special_ids"]
        self.cls_id: int = special["cls"]
        self.sep_id: int = special["sep"]
        self.pad_id: int = special["pad"]
        self.vocab_size: int = manifest["vocab_size"]

    @classmethod
    def build(
        cls,
        base: KnowledgeBase,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        path: str | Path,
        progress: Progress | None = None,
    ) -> Self:
        """Lay out the present version of a knowledge base under `path` and open it.

        tokenizer: a fast tokenizer, or the folder of one; kept inside. Its truncation and padding are ignored.
        progress: called with (passages done, passages in all).
        Rows are in order of document insertion, then of passage number. Memory use does not depend on the number of
        passages but for 16 bytes each. Raises DataError when there is no passage.
        """
        build_snapshot(base, tokenizer, Path(path).absolute(), progress)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Memory-map a snapshot. ArtefactError when a file is missing, cut off, or of another format."""
        path = Path(path).absolute()
        manifest = read_manifest(path, format=FORMAT, version=FORMAT_VERSION)
        try:
            arrays = {name: open_array(path, name, manifest["arrays"][name]) for name in ARRAYS}
            return cls(path, manifest, arrays)
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{path}: the manifest lacks {error}; build the snapshot again") from error

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return type(self).open, (self.path,)

    def verify(self) -> None:
        """Read everything and compare with the checksums; ArtefactError names the file that differs."""
        for name, facts in self._manifest["arrays"].items():
            verify_array(self.path, name, facts)

    # ------------------------------------------------------------ facts

    def __len__(self) -> int:
        return int(self._manifest["rows"])

    @property
    def num_documents(self) -> int:
        return int(self._manifest["documents"])

    @property
    def fingerprint(self) -> str:
        """Of texts, order and tokenizer: equal for equal contents, wherever and however they came to be."""
        return str(self._manifest["fingerprint"])

    @property
    def tokenizer_fingerprint(self) -> str:
        return str(self._manifest["tokenizer_fingerprint"])

    @property
    def version(self) -> int:
        """Version of the knowledge base."""
        return int(self._manifest["knowledge_base_version"])

    @property
    def mask_id(self) -> int:
        """UsageError when the tokenizer has no mask token."""
        found = int(self._manifest["special_ids"]["mask"])
        if found < 0:
            raise UsageError(f"the tokenizer of {self.path} has no mask token: expected one of BERT's kind")
        return found

    @property
    def special_ids(self) -> list[int]:
        """Ids that stand for no text: cls, sep, pad and, where there is one, mask; in increasing order."""
        return sorted({int(i) for i in self._manifest["special_ids"].values() if i >= 0})

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that made the token ids."""
        return load_tokenizer(self.path / "tokenizer")

    # ------------------------------------------------------------ one row

    def text(self, row: int) -> str:
        """The body of a passage."""
        return self._string("text", row) if self._check(row) else ""

    def title(self, row: int) -> str:
        return self._string("title", self._document(row)) if self._check(row) else ""

    def document_id(self, row: int) -> str:
        """Empty for the null passage."""
        return self._string("document_id", self._document(row)) if self._check(row) else ""

    def document_version(self, row: int) -> int | None:
        """Version of the knowledge base in which the row's document got its text; None for the null passage."""
        return int(self._arrays["document_version"][self._document(row)]) if self._check(row) else None

    def passage(self, row: int) -> Passage:
        if not self._check(row):
            return Passage("", 0, "", "", 0, 0, ())
        start, end = self._arrays["span"][row].tolist()
        sentences = tuple((int(a), int(b)) for a, b in self.sentences(row))
        number = int(self._arrays["number"][row])
        return Passage(self.document_id(row), number, self.title(row), self.text(row), start, end, sentences)

    def sentences(self, row: int) -> np.ndarray:
        """Int32[S, 2]: (start, end) of each sentence in characters of the body."""
        return self._slice("sentences", row) if self._check(row) else np.zeros((0, 2), np.int32)

    def body_ids(self, row: int) -> np.ndarray:
        """Int32[L]: token ids of the body, without specials, not truncated."""
        return self._slice("body_ids", row).astype(np.int32) if self._check(row) else _NONE

    def title_ids(self, row: int) -> np.ndarray:
        """Int32[L]: token ids of the title, without specials, not truncated."""
        return self._slice("title_ids", self._document(row)).astype(np.int32) if self._check(row) else _NONE

    def body_offsets(self, row: int) -> np.ndarray:
        """Int32[L, 2]: (start, end) of each body token in characters of the body."""
        if not self._check(row):
            return np.zeros((0, 2), np.int32)
        starts = self._arrays["body_ids_starts"]
        offsets: np.ndarray = self._arrays["body_offsets"][starts[row] : starts[row + 1]]
        return offsets

    def rows_of_document(self, document_id: str) -> np.ndarray:
        """Int64[R]: rows of a document, in order; empty when it isn't there."""
        found = self._document_index.get(document_id)
        if found is None:
            return np.zeros(0, np.int64)
        begin, end = self._arrays["document_rows"][found : found + 2].tolist()
        return np.arange(begin, end)

    def text_hashes(self, rows: np.ndarray) -> list[str]:
        """`Passage.text_hash` of rows Int64[R], without making the passages."""
        return [f"{int(value):016x}" for value in self._arrays["text_hash"][rows]]

    def body_groups(self, rows: np.ndarray) -> np.ndarray:
        """UInt64[R] of rows Int64[R]: equal where their bodies are, but for case and white space."""
        groups: np.ndarray = self._arrays["body_hash"][rows]
        return groups

    @cached_property
    def _document_index(self) -> dict[str, int]:
        return {self._string("document_id", i): i for i in range(self.num_documents)}

    # ------------------------------------------------------------ many rows

    def token_counts(self) -> np.ndarray:
        """Int64[V]: how often each token id stands in the bodies."""
        count_V = np.zeros(self.vocab_size, np.int64)
        ids = self._arrays["body_ids"]
        for at in range(0, len(ids), 1 << 22):
            np.add(count_V, np.bincount(ids[at : at + (1 << 22)], minlength=self.vocab_size), out=count_V)
        return count_V

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        """Int32[N]: length of each row's `passages` entry, specials counted."""
        title_N, body_N = self._fit(np.arange(len(self)), _room(max_tokens, 3))
        length_N: np.ndarray = (title_N + body_N + 3).astype(np.int32)
        return length_N

    def passages(self, rows: Tensor, max_tokens: int, segments: bool = True) -> Tokens:
        """[CLS] title [SEP] body [SEP] of rows Long[...], flattened to M texts (Guu et al. 2020, section 3.2).

        The title keeps up to max_tokens - 3 tokens and the body what is left. NO_ROW gives [CLS] [SEP] [SEP].
        segments: types are 1 for the body and its [SEP], 0 before; False gives zeros.
        UsageError for a row that isn't there or max_tokens below 3.
        """
        row_M = self._rows(rows)
        title_M, body_M = self._fit(row_M, _room(max_tokens, 3))
        length_M = title_M + body_M + 3
        ids_ML = self._blank(length_M)
        every_M = np.arange(len(row_M))
        if len(row_M):
            ids_ML[:, 0] = self.cls_id
            ids_ML[every_M, 1 + title_M] = self.sep_id
            ids_ML[every_M, length_M - 1] = self.sep_id
        self._place(ids_ML, "title_ids", self._documents(row_M), title_M, np.ones_like(title_M))
        self._place(ids_ML, "body_ids", row_M, body_M, title_M + 2)
        return _tokens(ids_ML, title_M + 2 if segments else length_M, length_M)

    def bodies(self, rows: Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        """Body ids of rows Long[...], flattened to M texts, without [CLS] and last [SEP]: what a reader reads.

        with_title: title [SEP] body, where there is a title.
        Types are 1 for the body and 0 for what stands before it. A length is 0 where there is nothing (the null
        passage), and L is 0 when all are: Tokens promises at least 1 only for encoder inputs.
        """
        row_M = self._rows(rows)
        if with_title:
            title_M, _ = self._fit(row_M, _room(max_tokens, 1))
            head_M = title_M + (title_M > 0)
        else:
            head_M = title_M = np.zeros_like(row_M)
        body_M = np.minimum(self._count("body_ids", row_M), _room(max_tokens, 0) - head_M)
        length_M = head_M + body_M
        ids_ML = self._blank(length_M)
        titled = np.flatnonzero(title_M)
        ids_ML[titled, title_M[titled]] = self.sep_id
        self._place(ids_ML, "title_ids", self._documents(row_M), title_M, np.zeros_like(title_M))
        self._place(ids_ML, "body_ids", row_M, body_M, head_M)
        return _tokens(ids_ML, head_M, length_M)

    def exclusions(self, rows: Tensor, level: Level = "passage", duplicates: bool = False) -> Tensor:
        """Long[B, E]: rows that the queries made from source rows Long[B] may not retrieve, padded with NO_ROW.

        level: "none"; the source "passage"; or all passages of its "document".
        duplicates: also the rows whose body equals a source's but for case and white space.
        A source of NO_ROW (X is not Z) excludes nothing.
        """
        if level not in ("none", "passage", "document"):
            raise UsageError(f"exclusion level {level!r}: expected none, passage or document")
        row_B = self._rows(rows)
        there_B = row_B != NO_ROW
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        if level == "passage":
            pieces.append((np.flatnonzero(there_B), row_B[there_B]))
        elif level == "document":
            pieces.append(_ranges(self._arrays["document_rows"], self._documents(row_B)))
        if duplicates:
            hash_B = self._arrays["body_hash"][row_B]
            low_B = np.searchsorted(self._sorted_hashes, hash_B, "left")
            count_B = np.where(there_B, np.searchsorted(self._sorted_hashes, hash_B, "right") - low_B, 0)
            piece, _, place = ragged_index(low_B, count_B)
            pieces.append((piece, self._arrays["by_body"][place]))
        if not pieces:
            return torch.full((len(row_B), 0), NO_ROW)
        pairs = np.unique(np.concatenate([np.stack(p, 1) for p in pieces]), axis=0)
        count_B = np.bincount(pairs[:, 0], minlength=len(row_B))
        result_BE = np.full((len(row_B), int(count_B.max(initial=0))), NO_ROW, np.int64)
        _, within, _ = ragged_index(np.zeros_like(count_B), count_B)
        result_BE[pairs[:, 0], within] = pairs[:, 1]
        return torch.from_numpy(result_BE)

    def allowed(self, base: KnowledgeBase, where: str) -> Tensor:
        """Bool[N]: the rows that satisfy a predicate, for `Index.search`.

        The predicate is asked of `base` as of the snapshot's version. MismatchError when `base` is another one.
        """
        allowed_N = np.zeros(len(self), dtype=bool)
        position_M, first_M = self._arrays["document_position"], self._arrays["document_rows"]
        for batch in base.at(self.version).batches(["position", "number"], where):
            position = batch["position"].to_numpy()
            document = np.minimum(np.searchsorted(position_M, position), self.num_documents - 1)
            row = first_M[document] + batch["number"].to_numpy()
            if not (position_M[document] == position).all() or not (row < first_M[document + 1]).all():
                raise MismatchError(
                    f"{base.address} version {self.version} does not hold the passages of snapshot {self.path}: "
                    f"expected the knowledge base that it was built from, {self._manifest['knowledge_base']}"
                )
            allowed_N[row] = True
        return torch.from_numpy(allowed_N)

    # ------------------------------------------------------------ inside

    @cached_property
    def _sorted_hashes(self) -> np.ndarray:
        hashes: np.ndarray = self._arrays["body_hash"][self._arrays["by_body"]]
        return hashes

    def _check(self, row: int) -> bool:
        """Whether a row is a passage and not the null passage; UsageError when it is neither."""
        if not NO_ROW <= row < len(self):
            raise UsageError(
                f"row {row}: expected 0 to {len(self) - 1}, or {NO_ROW} for the null passage ({self.path})"
            )
        return row != NO_ROW

    def _rows(self, rows: Tensor) -> np.ndarray:
        row_M = rows.detach().reshape(-1).cpu().numpy().astype(np.int64, copy=False)
        if len(row_M):
            self._check(int(row_M.min()))
            self._check(int(row_M.max()))
        return row_M

    def _document(self, row: int) -> int:
        return int(self._arrays["document"][row])

    def _documents(self, row_M: np.ndarray) -> np.ndarray:
        """Document of each row; NO_ROW stays."""
        return np.where(row_M == NO_ROW, NO_ROW, self._arrays["document"][row_M])

    def _count(self, name: str, item_M: np.ndarray) -> np.ndarray:
        """Length of items of a ragged array; 0 for NO_ROW."""
        starts = self._arrays[f"{name}_starts"]
        return np.where(item_M == NO_ROW, 0, starts[item_M + 1] - starts[item_M])

    def _fit(self, row_M: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
        """Title and body lengths that go into `room` tokens, title first."""
        title_M = np.minimum(self._count("title_ids", self._documents(row_M)), room)
        return title_M, np.minimum(self._count("body_ids", row_M), room - title_M)

    def _blank(self, length_M: np.ndarray) -> np.ndarray:
        return np.full((len(length_M), int(length_M.max(initial=0))), self.pad_id, np.int64)

    def _place(self, ids_ML: np.ndarray, name: str, item_M: np.ndarray, length_M: np.ndarray, at_M: np.ndarray) -> None:
        """Copy the first `length_M` ids of each item to column `at_M` of its line."""
        piece, within, place = ragged_index(self._arrays[f"{name}_starts"][item_M], length_M)
        ids_ML[piece, at_M[piece] + within] = self._arrays[name][place]

    def _slice(self, name: str, item: int) -> np.ndarray:
        begin, end = self._arrays[f"{name}_starts"][item : item + 2].tolist()
        return self._arrays[name][begin:end]

    def _string(self, name: str, item: int) -> str:
        return self._slice(name, item).tobytes().decode("utf-8")


def _room(max_tokens: int, taken: int) -> int:
    if max_tokens < max(taken, 1):
        raise UsageError(f"max_tokens={max_tokens}: expected at least {max(taken, 1)}")
    return max_tokens - taken


def _tokens(ids_ML: np.ndarray, body_M: np.ndarray, length_M: np.ndarray) -> Tokens:
    """Types are 1 from column `body_M` up to the length."""
    column_L = np.arange(ids_ML.shape[1])
    types_ML = ((column_L >= body_M[:, None]) & (column_L < length_M[:, None])).astype(np.int64)
    return Tokens(torch.from_numpy(ids_ML), torch.from_numpy(types_ML), torch.from_numpy(length_M))


def _ranges(starts: np.ndarray, item_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b, value) for every value between starts[item] and starts[item + 1]; nothing for NO_ROW."""
    count_B = np.where(item_B == NO_ROW, 0, starts[item_B + 1] - starts[item_B])
    piece, _, place = ragged_index(starts[item_B], count_B)
    return piece, place
