"""Laying a knowledge base out as a snapshot: one pass, a batch of passages in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from realm.errors import ArtefactError, DataError
from realm.files import fingerprint, staged_folder, write_manifest
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.layout import Arrays
from realm.types import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FORMAT = "realm snapshot"
FORMAT_VERSION = 1
HISTORY = ("document_position", "document_version")
"""Arrays that tell where a snapshot came from and not what it holds; not part of its fingerprint."""

_RAGGED = ("text", "title", "document_id", "sentences", "body_ids", "title_ids")
ARRAYS = (
    *_RAGGED,
    *(f"{name}_starts" for name in _RAGGED),
    *("body_offsets", "document", "number", "span", "text_hash", "body_hash", "by_body", "document_rows"),
    *HISTORY,
)
"""Every array of a snapshot; `_Writer` says what each holds."""

_COLUMNS = ["document_id", "number", "title", "text", "start", "end", "sentences", "text_hash", "version", "position"]


def load_tokenizer(tokenizer: str | Path | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A fast tokenizer from a folder (or itself). ArtefactError when there is none."""
    if not isinstance(tokenizer, str | Path):
        found = tokenizer
    else:
        from transformers import AutoTokenizer

        if not Path(tokenizer).is_dir():
            raise ArtefactError(f"no tokenizer folder {tokenizer}: expected a folder that transformers opens")
        try:
            found = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{tokenizer} holds no tokenizer that transformers opens ({error})") from error
    if not getattr(found, "is_fast", False):
        raise ArtefactError(f"{type(found).__name__} is not a fast tokenizer: expected one with a tokenizer.json")
    return found


def bare_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer without the truncation and padding that its file may ask for."""
    from tokenizers import Tokenizer

    backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """cls, sep, pad, mask; DataError when one of the first three is missing. A missing mask is -1."""
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    missing = [name for name in ("cls", "sep", "pad") if found[name] is None]
    if missing:
        raise DataError(
            f"the tokenizer has no {', '.join(missing)} token: expected one of BERT's kind with cls, sep, pad"
        )
    return {name: -1 if value is None else int(value) for name, value in found.items()}


def build_snapshot(
    base: KnowledgeBase, tokenizer: str | Path | PreTrainedTokenizerBase, path: Path, progress: Progress | None
) -> None:
    """Write a snapshot of the present version of `base` under `path`. See Snapshot.build."""
    base = base.at(base.version)
    total = base.num_passages()
    if total == 0:
        raise DataError(
            f"the knowledge base {base.address} has no passages (version {base.version}): add documents first"
        )
    loaded = load_tokenizer(tokenizer)
    backend, special = bare_backend(loaded), special_ids(loaded)
    vocab_size = max(len(loaded), backend.get_vocab_size(with_added_tokens=True))
    with staged_folder(path) as folder:
        loaded.save_pretrained(folder / "tokenizer")
        arrays = Arrays(folder)
        try:
            writer = _Writer(arrays, backend, np.uint16 if vocab_size <= 1 << 16 else np.int32)
            for batch in base.batches(_COLUMNS):
                writer.write(batch)
                if progress is not None:
                    progress(writer.rows, total)
            writer.finish()
            facts = arrays.close()
        except BaseException:
            arrays.abandon()
            raise
        tokenizer_fingerprint = fingerprint(backend.to_str(), json.dumps(special, sort_keys=True))
        contents = json.dumps({k: v for k, v in facts.items() if k not in HISTORY}, sort_keys=True)
        write_manifest(
            folder,
            format=FORMAT,
            version=FORMAT_VERSION,
            fingerprint=fingerprint(contents, tokenizer_fingerprint),
            knowledge_base=base.address,
            knowledge_base_version=base.version,
            rows=writer.rows,
            documents=writer.documents,
            splitter=base.splitter,
            tokenizer_fingerprint=tokenizer_fingerprint,
            vocab_size=vocab_size,
            special_ids=special,
            arrays=facts,
        )


class _Writer:
    def __init__(self, arrays: Arrays, backend: Tokenizer, id_type: type) -> None:
        self.backend = backend
        self.rows = 0
        self.documents = 0
        self._last: str | None = None
        self._body_hashes: list[np.ndarray] = []
        self.text = arrays.ragged("text", np.uint8)
        self.title = arrays.ragged("title", np.uint8)
        self.document_id = arrays.ragged("document_id", np.uint8)
        self.sentences = arrays.ragged("sentences", np.int32, 2)
        self.body_ids = arrays.ragged("body_ids", id_type)
        self.body_offsets = arrays.array("body_offsets", np.int32, 2)
        self.title_ids = arrays.ragged("title_ids", id_type)
        self.document = arrays.array("document", np.int32)
        self.number = arrays.array("number", np.int32)
        self.span = arrays.array("span", np.int64, 2)
        self.text_hash = arrays.array("text_hash", np.uint64)
        self.body_hash = arrays.array("body_hash", np.uint64)
        self.by_body = arrays.array("by_body", np.int64)
        self.document_rows = arrays.array("document_rows", np.int64)
        self.document_position = arrays.array("document_position", np.int64)
        self.document_version = arrays.array("document_version", np.int64)

    def write(self, batch: pa.RecordBatch) -> None:
        """Passages of a batch, in order; the passages of one document follow each other, maybe over two batches."""
        texts: list[str] = batch["text"].to_pylist()
        ids: list[str] = batch["document_id"].to_pylist()
        is_new = np.fromiter((a != b for a, b in zip(ids, [self._last, *ids], strict=False)), bool, len(ids))
        first = np.flatnonzero(is_new)
        self._last = ids[-1]
        self._write_documents(batch.take(pa.array(first)), self.rows + first)
        self.document.append(self.documents + np.cumsum(is_new) - 1)
        self.documents += len(first)
        self.rows += len(texts)

        self.text.append(*_joined(texts))
        self.number.append(batch["number"].to_numpy())
        self.span.append(np.stack([batch["start"].to_numpy(), batch["end"].to_numpy()], 1))
        self.text_hash.append(np.array([int(h, 16) for h in batch["text_hash"].to_pylist()], np.uint64))
        bodies = np.frombuffer(b"".join(body_hash(text) for text in texts), np.uint64)
        self.body_hash.append(bodies)
        self._body_hashes.append(bodies)
        spans = batch["sentences"]
        self.sentences.append(
            spans.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2).astype(np.int32),
            np.diff(spans.offsets.to_numpy()) // 2,
        )
        encoded = self.backend.encode_batch(texts, add_special_tokens=False)
        lengths = [len(e) for e in encoded]
        self.body_ids.append(_flat((e.ids for e in encoded), sum(lengths)), lengths)
        pairs = chain.from_iterable(e.offsets for e in encoded)
        self.body_offsets.append(np.fromiter(chain.from_iterable(pairs), np.int32, 2 * sum(lengths)))

    def _write_documents(self, heads: pa.RecordBatch, rows: np.ndarray) -> None:
        titles = [title or "" for title in heads["title"].to_pylist()]
        self.title.append(*_joined(titles))
        self.document_id.append(*_joined(heads["document_id"].to_pylist()))
        encoded = self.backend.encode_batch(titles, add_special_tokens=False)
        lengths = [len(e) for e in encoded]
        self.title_ids.append(_flat((e.ids for e in encoded), sum(lengths)), lengths)
        self.document_rows.append(rows)
        self.document_position.append(heads["position"].to_numpy())
        self.document_version.append(heads["version"].to_numpy())

    def finish(self) -> None:
        """What needs all rows: where the last document ends, and the rows in order of their body hash."""
        self.document_rows.append(np.array([self.rows]))
        self.by_body.append(np.argsort(np.concatenate(self._body_hashes), kind="stable"))


def body_hash(text: str) -> bytes:
    """Eight bytes that near-duplicates share: case and white space don't count."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _joined(texts: Sequence[str]) -> tuple[bytes, list[int]]:
    encoded = [text.encode() for text in texts]
    return b"".join(encoded), [len(e) for e in encoded]


def _flat(lists: Any, count: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int64, count)
