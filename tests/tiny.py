"""Tiny models and tokenizers, made on the spot, so that no test needs a network or a download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from realm.types import Target, Tokens

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "guernica was painted by pablo picasso in paris in 1937 . the river han runs through seoul . "
    "marie curie discovered radium and polonium . the danube flows through vienna , budapest and belgrade ."
)


def tiny_vocab(texts: Iterable[str] = (WORDS,), max_words: int = 2000) -> list[str]:
    """Special tokens (ids 0 to 4), then letters, digits and signs (bare and as continuations), then frequent words."""
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    letters = sorted({letter for word in counts for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789.,-'"))
    words = [word for word, _ in counts.most_common(max_words) if len(word) > 1]
    return [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), *words]


def tiny_tokenizer(texts: Iterable[str] = (WORDS,), max_words: int = 2000) -> Any:
    """A lower-casing WordPiece tokenizer (`transformers`, fast) that knows the words of `texts` and can spell the
    rest."""
    from transformers import BertTokenizerFast

    vocab = {token: index for index, token in enumerate(tiny_vocab(texts, max_words))}
    return BertTokenizerFast(vocab=vocab, do_lower_case=True)


def tiny_bert(
    folder: Path,
    texts: Iterable[str] = (WORDS,),
    *,
    hidden: int = 32,
    layers: int = 2,
    seed: int = 0,
    masked_head: bool = True,
    **settings: Any,
) -> Path:
    """Save a random BERT (with its masked-token head unless `masked_head` is False) and its tokenizer; the folder."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    tokenizer = tiny_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=128,
        # Larger than BERT's 0.02: with so few units the outputs of different texts would hardly differ.
        initializer_range=settings.pop("initializer_range", 0.2),
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForMaskedLM(config) if masked_head else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokens_of(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokens:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], padded with the tokenizer's padding id."""
    encoded = tokenizer(list(texts), list(pairs) if pairs else None, padding=True, return_tensors="pt")
    types = encoded.get("token_type_ids", torch.zeros_like(encoded["input_ids"]))
    return Tokens(encoded["input_ids"], types, encoded["attention_mask"].sum(1))


def bodies_of(tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """Passage bodies: word pieces without specials; an empty text has length 0 (the null passage)."""
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in texts]
    longest = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return Tokens(ids, torch.zeros_like(ids), torch.tensor([len(row) for row in rows]))


def mask_words(tokenizer: Any, texts: Sequence[str], answers: Sequence[str]) -> tuple[Tokens, Target]:
    """Texts with a `[MASK]` each; every word piece of the answer gets a mask. The queries and what was masked."""
    pieces = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    filled = [text.replace("[MASK]", " ".join(["[MASK]"] * len(p))) for text, p in zip(texts, pieces, strict=True)]
    query = tokens_of(tokenizer, filled)
    most = max(len(p) for p in pieces)
    ids = torch.zeros(len(texts), most, dtype=torch.long)
    positions, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for index, piece in enumerate(pieces):
        ids[index, : len(piece)] = torch.tensor(piece)
        positions[index, : len(piece)] = (query.ids[index] == tokenizer.mask_token_id).nonzero()[:, 0]
        mask[index, : len(piece)] = True
    return query, Target(ids, positions, mask)
