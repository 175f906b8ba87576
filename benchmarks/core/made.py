"""Made text, and networks with random weights: nothing is downloaded, and speed doesn't depend on what they know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from realm.types import Document

WORDS = 20_000
VOCABULARY = 30_522
"""BERT's: the product with it and its embeddings cost what they cost there."""
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@cache
def words(count: int = WORDS) -> tuple[str, ...]:
    """Different made words of two to ten letters."""
    draw = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(letters[draw.integers(0, 16, draw.integers(2, 10))])] = None
    return tuple(found)


def sentence(draw: np.random.Generator, length: int) -> str:
    """Words by Zipf's law (log-uniform ranks), one of them with a capital, which `spans` takes for a name."""
    known = words()
    ranks = (len(known) ** draw.random(length)).astype(int) - 1
    found = [known[rank] for rank in ranks]
    at = int(draw.integers(1, length)) if length > 1 else 0
    found[at] = known[int(draw.integers(len(known)))].capitalize()
    return " ".join(found) + "."


def text(draw: np.random.Generator, count: int) -> str:
    """Sentences of 6 to 20 words, until there are `count` words."""
    found, total = [], 0
    while total < count:
        length = min(int(draw.integers(6, 21)), max(count - total, 4))
        found.append(sentence(draw, length))
        total += length
    return " ".join(found)


def documents(count: int, length: int, *, spread: float = 0.5) -> Iterator[Document]:
    """Documents of about `length` words, log-normally spread; document n is the same whatever `count`."""
    for number in range(count):
        draw = np.random.default_rng((1, number))
        size = int(np.clip(length * draw.lognormal(0.0, spread), 12, 4 * length))
        yield Document(f"document-{number}", f"Title {number}", text(draw, size), source=f"s{number % 7}")


def questions(count: int, length: int = 9) -> list[str]:
    draw = np.random.default_rng(2)
    return [sentence(draw, length).removesuffix(".") + " ?" for _ in range(count)]


def tokenizer(size: int = VOCABULARY) -> Any:
    """A WordPiece tokenizer (`transformers`, fast) with the made words, letters to spell others, and BERT's size."""
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?'-"
    known = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), *words()]
    pieces = list(dict.fromkeys(known))[:size]
    pieces += [f"[unused{number}]" for number in range(size - len(pieces))]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)


def model(folder: Path, *, layers: int = 6, hidden: int = 384, vocabulary: int = VOCABULARY) -> Path:
    """Save a BERT with random weights and a masked-token head, of MiniLM's size unless told otherwise, with its
    tokenizer, and as a sentence-transformers model that means over the tokens; the folder."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        intermediate_size=4 * hidden,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = BertForMaskedLM(config)
    made.save_pretrained(folder)
    tokenizer(vocabulary).save_pretrained(folder)
    return folder


def clustered(count: int, dim: int, *, queries: int = 0, seed: int = 0, intrinsic: int = 24) -> np.ndarray:
    """Unit vectors Float32[count, dim] like those of an encoder: clusters of a few hundred in a space of `intrinsic`
    dimensions, and noise around it. Independent ones, which no text has, leave nothing for an index to find.

    queries: so many further ones, drawn alike, stand behind them.
    """
    out_ND = np.empty((count + queries, dim), np.float32)
    first = 0
    for part_ND in clustered_parts(count, dim, queries=queries, seed=seed, intrinsic=intrinsic):
        out_ND[first : first + len(part_ND)] = part_ND
        first += len(part_ND)
    return out_ND


def clustered_parts(
    count: int, dim: int, *, queries: int = 0, seed: int = 0, intrinsic: int = 24
) -> Iterator[np.ndarray]:
    """The same in parts of 131,072 rows at most, of which one is in memory."""
    shape = np.random.default_rng((3, dim, intrinsic))
    axes_ID = shape.standard_normal((intrinsic, dim), dtype=np.float32)
    total = count + queries
    centre_CI = shape.standard_normal((max(8, count // 300), intrinsic), dtype=np.float32)
    for first in range(0, total, 1 << 17):
        last = min(first + (1 << 17), total)
        draw = np.random.default_rng((seed, first))
        own_NI = centre_CI[draw.integers(0, len(centre_CI), last - first)]
        own_NI = own_NI + 0.6 * draw.standard_normal(own_NI.shape, dtype=np.float32)
        part_ND = own_NI @ axes_ID
        part_ND += 0.5 * draw.standard_normal(part_ND.shape, dtype=np.float32)
        yield part_ND / np.linalg.norm(part_ND, axis=1, keepdims=True)
