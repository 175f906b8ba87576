"""Text, model and weights as small files, for a machine whose inputs and results are counted in megabytes.

A packed text is what a snapshot and its spans are made of, in word pieces: ids, where each sentence and each salient
span begins and ends, and which passages make a document. `unpack_text` lays the snapshot out again. Text comes back
from the pieces (in lower case where the tokenizer makes it so), and with it every offset: neither has to travel.

Legend: N passages, T pieces, S sentences or spans, V vocabulary, H hidden size.
"""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from realm import files
from realm.errors import MismatchError
from realm.knowledge import build
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table.layout import Arrays, ragged_index
from realm.knowledge.text import spans
from realm.knowledge.text.spans import SpanTable
from realm.training.masking import pieces_inside
from realm.workflows.parts import Text

SHARD_BYTES = 15_500_000
"""Largest file of weights before it is compressed: below 16 MiB with its header."""
_SIXTEEN = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 2, "lp": 1, "pb": 1}]
"""For words of two bytes: the model of a byte looks at its place in the word."""
_ARRAYS = (
    *("rank", "body", "body_count", "title", "title_count"),
    *("passages", "sentence", "sentence_count", "span", "span_count"),
)
_BLOCK = 500_000
"""Pieces at a time."""

# ---------------------------------------------------------------- text


def pack_text(text: Text, folder: Path) -> dict[str, Any]:
    """Write ``text-*.xz`` and ``text.json``; the facts of the latter. MismatchError when an id needs over 16 bits."""
    snapshot = text.snapshot
    if snapshot.vocab_size > 1 << 16:
        raise MismatchError(f"the tokenizer has {snapshot.vocab_size} word pieces: a packed text holds at most 65,536")
    folder.mkdir(parents=True, exist_ok=True)
    body, body_count, sentence, sentence_count, span, span_count = [], [], [], [], [], []
    first_rows, last = [], None
    for row in range(len(snapshot)):
        offsets = snapshot.body_offsets(row)
        body.append(snapshot.body_ids(row))
        body_count.append(len(offsets))
        for ranges, values, count in (
            (snapshot.sentences(row), sentence, sentence_count),
            (text.spans.spans(row), span, span_count),
        ):
            first, stop = pieces_inside(offsets, ranges)
            kept = stop > first
            first, stop = first[kept], stop[kept]
            before = np.concatenate([[0], stop[:-1]]) if len(stop) else stop
            values.append(np.stack([first - before, stop - first], 1).ravel())  # gap and length: small numbers
            count.append(len(stop))
        if (document := snapshot.document_id(row)) != last:
            first_rows.append(row)
            last = document
    titles = [snapshot.title_ids(row) for row in first_rows]
    flat = np.concatenate(body)
    order = np.argsort(-np.bincount(flat, minlength=snapshot.vocab_size), kind="stable")
    rank = np.empty(snapshot.vocab_size, np.int64)
    rank[order] = np.arange(len(order))  # frequent pieces get small numbers: their upper byte is 0
    found = {
        "rank": order,
        "body": rank[flat],
        "body_count": body_count,
        "title": rank[np.concatenate(titles)] if titles else [],
        "title_count": [len(title) for title in titles],
        "passages": np.diff([*first_rows, len(snapshot)]),
        "sentence": np.concatenate(sentence),
        "sentence_count": sentence_count,
        "span": np.concatenate(span),
        "span_count": span_count,
    }
    sizes = {}
    for name in _ARRAYS:
        values = np.asarray(found[name], np.int64)
        if values.size and not 0 <= values.min() <= values.max() < 1 << 16:
            raise MismatchError(f"{name} reaches {values.max()}: a packed text holds numbers below 65,536")
        data = lzma.compress(values.astype("<u2").tobytes(), lzma.FORMAT_XZ, filters=_SIXTEEN)
        (folder / f"text-{name}.xz").write_bytes(data)
        sizes[name] = len(data)
    facts = {
        "passages": len(snapshot),
        "documents": len(first_rows),
        "pieces": len(flat),
        "spans": int(np.sum(span_count)),
        "pipeline": text.spans.manifest["pipeline"],
        "made_from": snapshot.fingerprint,
        "bytes": sizes,
    }
    files.write_json(folder / "text.json", facts)
    return facts


def unpack_text(packed: Path, tokenizer: Path, folder: Path) -> Text:
    """Lay a packed text out as a snapshot and its spans under `folder`, or open what was laid out there before."""
    place, spans_place = folder / "snapshot", folder / "spans"
    if not (spans_place / files.MANIFEST).exists():
        for each in (place, spans_place):
            shutil.rmtree(each, ignore_errors=True)
        values = {
            name: np.frombuffer(lzma.decompress((packed / f"text-{name}.xz").read_bytes()), "<u2").astype(np.int64)
            for name in _ARRAYS
        }
        _write_snapshot(values, tokenizer, place, files.read_json(packed / "text.json"))
        _write_spans(values, Snapshot.open(place), spans_place, files.read_json(packed / "text.json"))
    snapshot = Snapshot.open(place)
    return Text(snapshot, SpanTable.open(spans_place, snapshot))


def _write_snapshot(values: Mapping[str, np.ndarray], tokenizer: Path, place: Path, facts: dict[str, Any]) -> None:
    loaded = build.load_tokenizer(tokenizer)
    backend, special = build.bare_backend(loaded), build.special_ids(loaded)
    vocab_size = max(len(loaded), backend.get_vocab_size(with_added_tokens=True))
    pieces = [backend.id_to_token(i) or "" for i in range(vocab_size)]
    rank, count_N, passages_D = values["rank"], values["body_count"], values["passages"]
    rows, documents = len(count_N), len(passages_D)
    body_T, title_T = rank[values["body"]], rank[values["title"]]
    with files.staged_folder(place) as folder:
        loaded.save_pretrained(folder / "tokenizer")
        arrays = Arrays(folder)
        id_type = np.uint16 if vocab_size <= 1 << 16 else np.int32
        text, title, name = (arrays.ragged(each, np.uint8) for each in ("text", "title", "document_id"))
        sentences = arrays.ragged("sentences", np.int32, 2)
        body_ids, title_ids = arrays.ragged("body_ids", id_type), arrays.ragged("title_ids", id_type)
        body_offsets = arrays.array("body_offsets", np.int32, 2)
        body_ids.append(body_T, count_N)
        title_ids.append(title_T, values["title_count"])
        hashes, lengths = [], []
        bounds_N = _bounds(values["sentence"], values["sentence_count"])
        for first, row_texts, offsets_T2, at_N in _texts(body_T, count_N, pieces):
            text.append(b"".join(row_texts), [len(each) for each in row_texts])
            body_offsets.append(offsets_T2)
            for number, each in enumerate(row_texts):
                line = each.decode()
                hashes.append(np.frombuffer(build.body_hash(line), np.uint64)[0])
                lengths.append(len(line))
                mine = offsets_T2[at_N[number] : at_N[number + 1]]
                bounds = _characters(mine, bounds_N[first + number])
                sentences.append(bounds, [len(bounds)])
        for _, row_texts, _, _ in _texts(title_T, values["title_count"], pieces):
            title.append(b"".join(row_texts), [len(each) for each in row_texts])
        names = [str(i).encode() for i in range(documents)]
        name.append(b"".join(names), [len(each) for each in names])
        body_hash = np.array(hashes, np.uint64)
        first_D = np.concatenate([[0], np.cumsum(passages_D)])
        document_N, number_N, _ = ragged_index(np.zeros(documents, np.int64), passages_D)
        end_N = np.array(lengths, np.int64)
        for each, kind, value in (
            ("document", np.int32, document_N),
            ("number", np.int32, number_N),
            ("text_hash", np.uint64, body_hash),
            ("body_hash", np.uint64, body_hash),
            ("by_body", np.int64, np.argsort(body_hash, kind="stable")),
            ("document_rows", np.int64, first_D),
            ("document_position", np.int64, np.arange(documents)),
            ("document_version", np.int64, np.ones(documents, np.int64)),
        ):
            arrays.array(each, kind).append(value)
        arrays.array("span", np.int64, 2).append(np.stack([np.zeros_like(end_N), end_N], 1))
        written = arrays.close()
        tokens = files.fingerprint(backend.to_str(), json.dumps(special, sort_keys=True))
        contents = json.dumps({k: v for k, v in written.items() if k not in build.HISTORY}, sort_keys=True)
        files.write_manifest(
            folder, format=build.FORMAT, version=build.FORMAT_VERSION, fingerprint=files.fingerprint(contents, tokens),
            knowledge_base="packed", knowledge_base_version=1, rows=rows, documents=documents,
            splitter={"splitter": "packed", "made_from": facts["made_from"]}, tokenizer_fingerprint=tokens,
            vocab_size=vocab_size, special_ids=special, arrays=written,
        )  # fmt: skip


def _write_spans(values: Mapping[str, np.ndarray], snapshot: Snapshot, place: Path, facts: dict[str, Any]) -> None:
    bounds_N = _bounds(values["span"], values["span_count"])
    found = [_characters(snapshot.body_offsets(row), bounds_N[row]) for row in range(len(snapshot))]
    count = sum(len(each) for each in found)
    with files.staged_folder(place) as folder:
        np.save(folder / "spans.npy", np.concatenate(found).astype(np.int32).reshape(count, 2))
        np.save(folder / "labels.npy", np.zeros(count, np.uint8))
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(values["span_count"])]))
        files.write_manifest(
            folder, format=spans.FORMAT, version=spans.FORMAT_VERSION, snapshot=snapshot.fingerprint,
            pipeline=facts["pipeline"], drop_labels=[], dates=True, rows=len(snapshot), spans=count, labels=["SPAN"],
            fingerprint=files.fingerprint("packed", snapshot.fingerprint, str(facts["pipeline"])),
        )  # fmt: skip


def _bounds(values: np.ndarray, count_N: np.ndarray) -> list[np.ndarray]:
    """(first, stop) in pieces, Int64[S, 2] for each passage, from gaps and lengths."""
    steps = values.reshape(-1, 2)
    cuts = np.cumsum(count_N)[:-1]
    found = []
    for part in np.split(steps, cuts):
        stop = np.cumsum(part.sum(1))
        found.append(np.stack([stop - part[:, 1], stop], 1))
    return found


def _characters(offsets_T2: np.ndarray, bounds_S2: np.ndarray) -> np.ndarray:
    """Pieces to characters. Int32[S, 2]"""
    if not len(bounds_S2):
        return np.zeros((0, 2), np.int32)
    return np.stack([offsets_T2[bounds_S2[:, 0], 0], offsets_T2[bounds_S2[:, 1] - 1, 1]], 1).astype(np.int32)


def _texts(
    ids_T: np.ndarray, count_N: np.ndarray, pieces: list[str]
) -> Iterator[tuple[int, list[bytes], np.ndarray, np.ndarray]]:
    """Text of passages from their pieces, a block at a time: a space before each piece that begins a word.

    Yields the block's first passage, UTF-8 texts, Int64[T, 2] character offsets, and where each passage's pieces begin.
    """
    bare = [piece.removeprefix("##") for piece in pieces]
    spaced = [(piece[2:] if piece.startswith("##") else f" {piece}").encode() for piece in pieces]
    table = np.frombuffer(b"".join(spaced), np.uint8)
    bytes_V = np.array([len(each) for each in spaced])
    start_V = np.cumsum(bytes_V) - bytes_V
    characters_V = np.array([len(each) for each in bare])
    gap_V = np.array([not piece.startswith("##") for piece in pieces], np.int64)
    end_N = np.cumsum(count_N)
    first = 0
    while first < len(count_N):
        begin = int(end_N[first] - count_N[first])
        last = max(first + 1, int(np.searchsorted(end_N, begin + _BLOCK, "right")))
        ids = ids_T[begin : end_N[last - 1]]
        at_N = np.concatenate([[0], np.cumsum(count_N[first:last])])
        inner = at_N[:-1][np.diff(at_N) > 0]  # passages that have a piece
        gap_T = gap_V[ids]
        drop_T = np.zeros(len(ids), np.int64)  # no space before the first piece of a passage
        drop_T[inner] = gap_T[inner]
        gap_T = gap_T - drop_T
        stop_T = np.cumsum(gap_T + characters_V[ids])
        zero = np.concatenate([[0], stop_T])[at_N[:-1]]
        base_T = np.repeat(zero, np.diff(at_N))
        offsets = np.stack([stop_T - characters_V[ids] - base_T, stop_T - base_T], 1)
        width_T = bytes_V[ids] - drop_T
        _, _, place = ragged_index(start_V[ids] + drop_T, width_T)
        block = table[place].tobytes()
        cut = np.concatenate([[0], np.cumsum(width_T)])[at_N]
        yield first, [block[a:b] for a, b in pairwise(cut.tolist())], offsets, at_N
        first = last


# ---------------------------------------------------------------- model and weights


def planes(tensors: Mapping[str, Tensor], preset: int = 3) -> bytes:
    """bf16 tensors as compressed safetensors, upper bytes (sign and exponent, which shrink) apart from lower ones."""
    split = {}
    for name, value in tensors.items():
        pair = value.detach().cpu().to(torch.bfloat16).flatten().contiguous().view(torch.uint8).reshape(-1, 2)
        split[f"{name}|{'x'.join(map(str, value.shape))}"] = pair.T.contiguous()
    return lzma.compress(save(split), preset=preset)


def unplanes(data: bytes) -> dict[str, Tensor]:
    """What `planes` made, as float32."""
    found = {}
    for key, value in load(lzma.decompress(data)).items():
        name, _, shape = key.rpartition("|")
        sizes = [int(size) for size in shape.split("x") if size]
        pair = torch.stack([value[0], value[1]], dim=1).flatten()
        found[name] = pair.view(torch.bfloat16).reshape(sizes).float()
    return found


def write_shards(tensors: Mapping[str, Tensor], folder: Path, name: str, preset: int = 3) -> list[Path]:
    """``name-0.xz`` and so on, each below `SHARD_BYTES` before compression."""
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for key, value in tensors.items():
        size = 2 * value.numel()
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][key] = value
        room -= size
    paths = []
    for number, shard in enumerate(shards):
        paths.append(folder / f"{name}-{number}.xz")
        paths[-1].write_bytes(planes(shard, preset))
    return paths


def read_shards(folder: Path, name: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{name}-*.xz")):
        found |= unplanes(path.read_bytes())
    return found


WORDS = "embeddings.word_embeddings.weight"


def pack_model(model: Path, folder: Path, preset: int = 6) -> int:
    """A sentence encoder: word embeddings in 8 bits a number and one scale a row, the rest in bf16. Bytes written.

    preset: of the compression, 0 (quick) to 9.
    """
    from safetensors.torch import load_file

    folder.mkdir(parents=True, exist_ok=True)
    for path in model.rglob("*.json"):
        if path.name != "data_config.json":  # the list of a training set
            (folder / path.relative_to(model)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.relative_to(model))
    tensors = load_file(model / "model.safetensors")
    key = next(name for name in tensors if name.endswith(WORDS))
    words_VH = tensors.pop(key).float()
    scale_V = words_VH.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    eight = {key: (words_VH / scale_V).round().to(torch.int8), "scale": scale_V}
    (folder / "words.xz").write_bytes(lzma.compress(save(eight), preset=preset))
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    write_shards(floats, folder, "layers", min(preset, 3))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def unpack_model(packed: Path, folder: Path) -> Path:
    """The folder that transformers opens. Without ``layers-*``, which a later leg does not need, it has words alone."""
    from safetensors.torch import save_file

    if not (folder / "model.safetensors").exists():
        shutil.copytree(packed, folder, ignore=shutil.ignore_patterns("*.xz"), dirs_exist_ok=True)
        eight = load(lzma.decompress((packed / "words.xz").read_bytes()))
        scale_V = eight.pop("scale")
        tensors = {name: value.float() * scale_V for name, value in eight.items()}
        save_file(tensors | read_shards(packed, "layers"), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def save_small(tensors: Mapping[str, Tensor]) -> bytes:
    """Any tensors, compressed as they are."""
    return lzma.compress(save({name: value.contiguous() for name, value in tensors.items()}), preset=6)


def load_small(data: bytes) -> dict[str, Tensor]:
    return load(lzma.decompress(data))
