"""A corpus in memory and real, tiny networks: what the methods stand on, importable by spawned processes too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor

from realm.answering.tokens import pad
from realm.files import fingerprint
from realm.methods.proposing import Proposer
from realm.methods.realm import RealmPretraining
from realm.models.backbone import pieces
from realm.models.cloze import ClozeReader
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.types import NO_ROW, MaskedBatch, PairBatch, Tokens

TEXTS = (
    "guernica was painted by pablo picasso .",
    "the river han runs through seoul .",
    "marie curie discovered radium .",
    "the danube flows through vienna .",
    "marie curie discovered polonium .",
    "budapest and belgrade .",
)
TITLES = ("guernica", "seoul", "curie", "danube", "curie", "")
DOCUMENTS = (0, 1, 2, 3, 2, 4)
"""Rows 2 and 4 are of one document."""
QUERIES = (
    ("guernica was painted by [MASK] in paris .", "pablo picasso", 0),
    ("the river han runs through [MASK] .", "seoul", 1),
    ("marie curie discovered [MASK] .", "radium", 2),
    ("the danube flows through [MASK] .", "vienna", 3),
)


class ToyCorpus:
    """What `RealmPretraining` reads of a snapshot, and a count of what it was asked for."""

    def __init__(self, tokenizer: Any, texts: Sequence[str] = TEXTS, titles: Sequence[str] = TITLES) -> None:
        self.cls, self.sep, self.pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        self.titles, self.texts = pieces(tokenizer, titles), pieces(tokenizer, texts)
        self.fingerprint = fingerprint(*texts)
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.texts)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        sizes = [len(title) + len(text) + 3 for title, text in zip(self.titles, self.texts, strict=True)]
        return np.minimum(np.array(sizes, np.int32), max_tokens)

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        self.asked.append(rows.flatten().tolist())
        found, heads = [], []
        for row in rows.flatten().tolist():
            title, text = ([], []) if row == NO_ROW else (self.titles[row], self.texts[row])
            found.append([self.cls, *title, self.sep, *text[: max_tokens - 3 - len(title)], self.sep])
            heads.append(len(title) + 2)
        return pad(found, self.pad, heads)

    def bodies(self, rows: Tensor, max_tokens: int, with_title: bool = False) -> Tokens:
        found = [[] if row == NO_ROW else self.texts[row][:max_tokens] for row in rows.flatten().tolist()]
        return pad(found, self.pad, [0] * len(found))


def networks(folder: Path, *, dropout: float = 0.0, **settings: Any) -> tuple[DenseEncoder, ClozeReader]:
    """An encoder and a reader of the BERT in `folder`, alike at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        encoder = DenseEncoder.from_pretrained(
            folder, dim=8, dropout=dropout, backbone_dropout=dropout, learn_null_bias=True, **settings
        )
        reader = ClozeReader.from_pretrained(folder, copy=True, backbone_dropout=dropout)
    return encoder.train(dropout > 0), reader.train(dropout > 0)


@torch.no_grad()
def index_of(encoder: DenseEncoder, corpus: ToyCorpus) -> ExactIndex:
    training = encoder.training
    vectors = encoder.eval().encode_passages(corpus.passages(torch.arange(len(corpus)), 32))
    encoder.train(training)
    corpus.asked.clear()
    return ExactIndex(vectors)


def realm_of(encoder: DenseEncoder, reader: ClozeReader, corpus: ToyCorpus, **settings: Any) -> RealmPretraining:
    proposing = {"num_candidates": 4, "explore_depth": 200, **settings}
    chosen = {"max_passage_tokens": 32, "max_reader_tokens": 30, **settings}
    width = proposing.pop("num_candidates") - int(settings.get("null_passage", True))
    own = ("over_retrieve", "explore", "explore_depth", "lexical", "num_lexical")
    proposer = Proposer(
        encoder,
        corpus,
        index_of(encoder, corpus),
        num_passages=width,
        max_passage_tokens=chosen["max_passage_tokens"],
        **{name: proposing[name] for name in own if name in proposing},
    )
    chosen = {name: value for name, value in chosen.items() if name not in (*own, "num_candidates")}
    return RealmPretraining(encoder, reader, corpus, proposer, **chosen)


def masked_batch(
    tokenizer: Any,
    queries: Sequence[tuple[str, str, int]] = QUERIES,
    *,
    exclude: str = "passage",
    same_corpus: bool = True,
) -> MaskedBatch:
    query, target = tiny.mask_words(tokenizer, [text for text, _, _ in queries], [answer for _, answer, _ in queries])
    rows = [row for _, _, row in queries]
    own = [[row] for row in rows]
    if exclude == "document":
        own = [[r for r in range(len(TEXTS)) if DOCUMENTS[r] == DOCUMENTS[row]] for row in rows]
    if exclude == "none":
        own = [[] for _ in rows]
    widest = max(map(len, own))
    excluded = torch.tensor([each + [NO_ROW] * (widest - len(each)) for each in own], dtype=torch.long)
    source_B = torch.tensor(rows) if same_corpus else torch.full((len(rows),), NO_ROW)
    return MaskedBatch(query, target, source_B, excluded.reshape(len(rows), widest))


def pair_batch(tokenizer: Any, rows: Sequence[int] = (0, 1, 2, 3)) -> PairBatch:
    """Sentences cut short as queries, and the passages that they are from."""
    query = tiny.tokens_of(tokenizer, [" ".join(TEXTS[row].split()[1:4]) for row in rows])
    passage = ToyCorpus(tokenizer).passages(torch.tensor(rows), 32)
    return PairBatch(query, passage, torch.tensor([row % 2 == 0 for row in rows]))


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """Of every parameter that has one; zeros count as none."""
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return {name: value for name, value in found.items() if bool(value.any())}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    assert wanted
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol * max(1.0, float(value.abs().max())))


def log_sum_exp(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))
