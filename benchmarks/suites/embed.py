"""Passages to vectors: realm beside sentence-transformers' `encode`, with the same weights, at 32, 128 and 288 tokens.

The weights are those of --model, or random ones of MiniLM's size. Both mean over the tokens, give the pooled vector,
and begin with the text. Texts are as long as the work says (every text of one length: no padding to save), and of
mixed lengths (as passages are: the order of the batches matters). `realm, from token ids` begins with what a snapshot
holds, as a refresh does. The limit is the machine's matrix-product rate over the operations that the tokens need.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace, _ArgumentGroup
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.core import limits, made
from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from realm.answering.retrieving import DenseRetrieval
from realm.models.encoders import DenseEncoder
from realm.search.embed import embed_rows
from realm.types import Passage, Tokens

QUICK = {"texts": 16, "lengths": [16], "layers": 1, "hidden": 32, "vocabulary": 20_200}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--model", type=Path, help="folder of a sentence encoder; random weights if not given")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 288])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=made.VOCABULARY)


class Memory:
    """Token ids in memory, as a snapshot gives them."""

    fingerprint = "made"

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return np.minimum(self.tokens.lengths.numpy(), max_tokens).astype(np.int32)

    def passages(self, rows: torch.Tensor, max_tokens: int) -> Tokens:
        return self.tokens.select(rows)


def run(bench: Bench, options: Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = options.model or made.model(
            Path(folder) / "model", layers=options.layers, hidden=options.hidden, vocabulary=options.vocabulary
        )
        encoder = DenseEncoder.from_pretrained(
            source, dim=None, pooling="mean", normalize="none", segments=False
        ).eval()
        library = bench.peer("sentence_transformers")
        longest = max(options.lengths)
        peer = None if library is None else _peer(library, source, longest)
        for length in options.lengths:
            texts = _texts(encoder.tokenizer, options.texts, [length])
            contest(bench, f"embed, {length} tokens", encoder, peer, texts, longest)
        spread = np.random.default_rng(4).lognormal(4.5, 0.65, options.texts)
        lengths = np.clip(spread * longest / 256, 8, longest).astype(int).tolist()
        contest(bench, f"embed, 8 to {longest} tokens", encoder, peer, _texts(encoder.tokenizer, 0, lengths), longest)


def contest(bench: Bench, work: str, encoder: DenseEncoder, peer: Any, texts: list[str], longest: int) -> None:
    retrieval = DenseRetrieval(encoder, max_query_tokens=64, max_passage_tokens=longest)
    passages = [Passage(str(number), 0, "", text, 0, len(text), ((0, len(text)),)) for number, text in enumerate(texts)]
    tokens = _tokens(encoder.tokenizer, texts, longest)
    source = Memory(tokens)
    config = encoder.query_tower.backbone.config
    flops = limits.layer_flops(
        tokens.lengths,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
    )
    ours = retrieval.passage_encoder
    facts: dict[str, Any] = {"tokens": int(tokens.lengths.sum())}
    contestants = [
        Contestant(who="realm", role="realm", run=lambda: ours.encode(passages), facts=facts),
        Contestant(
            who="realm, from token ids", role="variant", run=lambda: embed_rows(encoder, source, max_tokens=longest)
        ),
    ]
    if peer is not None:
        with torch.inference_mode():
            own, theirs = embed_rows(encoder, source, max_tokens=longest), torch.from_numpy(peer(texts))
        different = float((own - theirs).abs().max() / theirs.abs().max())
        contestants.append(
            Contestant(
                who="sentence-transformers",
                run=lambda: peer(texts),
                facts={"largest difference from realm's vectors": f"{different:.0e}"},
            )
        )
    contestants.append(bench.products(flops))
    for one in contestants:
        one.items = len(texts)
    bench.contest(work, contestants, unit="passages")


def _peer(library: Any, source: Path, longest: int) -> Any:
    from sentence_transformers import models

    body = models.Transformer(str(source), max_seq_length=longest)
    pooling = models.Pooling(body.get_word_embedding_dimension(), pooling_mode="mean")
    model = library.SentenceTransformer(modules=[body, pooling], device="cpu")
    return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False, convert_to_numpy=True)


def _texts(tokenizer: Any, count: int, lengths: list[int]) -> list[str]:
    """Texts of exactly so many tokens, [CLS] and [SEP] counted; `count` of a single length.

    Words of which each is one piece, so that text and length go together.
    """
    known = set(tokenizer.get_vocab())
    words = [word for word in made.words() if word in known] or sorted(w for w in known if w.isalpha() and len(w) > 1)
    draw = np.random.default_rng(5)
    wanted = lengths * count if len(lengths) == 1 else lengths
    return [" ".join(words[i] for i in draw.integers(0, len(words), length - 3)) + " ." for length in wanted]


def _tokens(tokenizer: Any, texts: list[str], longest: int) -> Tokens:
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    ids = encoded["input_ids"]
    return Tokens(ids, torch.zeros_like(ids), encoded["attention_mask"].sum(1))
