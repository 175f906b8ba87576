"""Recipes of fine-tuning on questions and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from realm.config import LoopConfig, OptimConfig, override
from realm.errors import UsageError
from realm.settings_finetune import DevConfig, FinetuneConfig, QaConfig, SpanReaderConfig


def orqa() -> FinetuneConfig:
    """The released code's numbers (Lee et al. 2019), which REALM's fine-tuning uses as they are: one question a step, 5
    passages to read, 5,000 for the early loss, 320 word pieces, learning rate 1e-5. Two epochs suit 80,000 questions;
    for a few thousand take qa.epochs=20."""
    return FinetuneConfig(loop=LoopConfig(checkpoint_every=5000, log_every=100))


def small() -> FinetuneConfig:
    """What two cores learn from in an hour: two layers of the reader, eight questions a step, short passages.

    Passages that the questions name are read too: with few steps hardly any is retrieved in time. BM25 stands beside
    the vectors: a small retriever knows what a question is about, words know its names (docs/results.md).
    """
    return FinetuneConfig(
        reader=SpanReaderConfig(layers=2, max_tokens=224, freeze_word_embeddings=True, dropout=0.0),
        qa=QaConfig(
            batch_size=8,
            retriever="fused",
            num_passages=3,
            num_early=200,
            labelled="both",
            learning_rate=1e-4,
            token_weight_learning_rate=1e-3,
            reader_learning_rate=3e-4,
            head_learning_rate=1e-3,
        ),
        dev=DevConfig(size=200, num_passages=5),
        optim=OptimConfig(bias_correction=True),
        loop=LoopConfig(checkpoint_every=100, log_every=10),
    )


def base() -> FinetuneConfig:
    """Six layers of the reader and tens of thousands of questions, such as SQuAD's: an hour on two cores.

    The retriever ranks all 64 questions of a step, which costs little; 16 of them are read.
    """
    config = small()
    return replace(
        config,
        reader=replace(config.reader, layers=6, max_tokens=256),
        qa=replace(
            config.qa,
            steps=1000,
            batch_size=64,
            read_batch=16,
            num_passages=2,
            num_early=300,
            learning_rate=5e-4,
            reader_learning_rate=2e-4,
        ),
        dev=DevConfig(size=300, num_passages=3),
        loop=replace(config.loop, checkpoint_every=250, log_every=20),
    )


FINETUNING: dict[str, Callable[[], FinetuneConfig]] = {"small": small, "base": base, "orqa": orqa}


def build_finetuning(name: str, settings: Sequence[str] = ()) -> FinetuneConfig:
    """A recipe by name with ``name=value`` settings on top. UsageError for a name that isn't there."""
    if name not in FINETUNING:
        raise UsageError(f"found recipe {name!r}: expected one of {', '.join(FINETUNING)}")
    return override(FINETUNING[name](), settings)
